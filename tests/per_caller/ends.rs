//! Containers that end, and containers that the host takes elsewhere.

use std::fs;
use std::process::Command;

use testkit::probe::names::*;
use testkit::{TIMEOUT, run_to_end};

use super::is_possible;
use super::scene::{Scene, hierarchies, namespace, place, program, wait_until};

#[test]
fn nothing_is_left_of_a_container_that_ends() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let staying = scene.container("a");
    let mut session = scene.session(&staying, place(), "a", "b");
    session.expect(&stat("$OWN"));
    for name in ["b", "c"] {
        let container = scene.container(name);
        let mut session = scene.session(&container, place(), name, "a");
        session.expect(&stat("$OWN"));
        session.expect(&open("F", "$OWN/cgroup.procs", &["O_RDONLY"]));
        let its = namespace(container.init());
        assert!(scene.held_namespaces().contains(&its));
        drop((session, container));
        wait_until("the end of a container's entry", || !scene.held_namespaces().contains(&its));
    }
    session.expect(&stat("$OWN"));
    assert_eq!(scene.held_namespaces().into_iter().collect::<Vec<_>>(), [namespace(staying.init())]);
}

/// The subtree stays where it is when process 1 migrates itself, and follows process 1 when the host migrates it.
#[test]
fn the_view_follows_the_host_and_not_the_container() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let container = scene.container("a");
    let init = container.init().to_string();
    for &selector in hierarchies() {
        let mut session = scene.session(&container, selector, "a", "b");
        session.expect(&mkdir("$OWN/home"));
        session.expect(&mkdir("$OWN/init.scope"));
        // Its process 1 is its to migrate.
        for below in ["home", "init.scope"] {
            session.expect(&write_file(&format!("$OWN/{below}/cgroup.procs"), "1"));
            session.expect(&mkdir("$OWN/job"));
            session.expect(&rmdir("$OWN/job"));
        }
        let other = scene.cgroup.child(selector, "b");
        fs::write(other.join("cgroup.procs"), &init).expect("a migration by the host");
        assert_eq!(session.run(&stat("$OWN")).errno(), Some("ENOENT"), "{selector}");
        session.expect(&mkdir("$OTHER/job"));
        assert_eq!(session.run(&write_file("$OWN/home/cgroup.procs", "1")).errno(), Some("ENOENT"), "{selector}");
        fs::write(scene.real(selector, "a/cgroup.procs"), &init).expect("a migration by the host");
        session.expect(&stat("$OWN/home"));
        assert_eq!(session.run(&stat("$OTHER/job")).errno(), Some("ENOENT"), "{selector}");
    }
}

#[test]
fn a_per_caller_mount_is_listed_and_unmounted() {
    if !is_possible() {
        return;
    }
    let mut scene = Scene::new();
    let container = scene.container("a");
    let listed = run_to_end(Command::new(program()).args(["list", "--json"]), TIMEOUT);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("a list");
    let server = u64::from(scene.view.server());
    let mut found = listed.as_array().into_iter().flatten().filter(|entry| entry["pid"] == server);
    let entry = found.next().expect("the server's entry");
    assert_eq!((&entry["per_caller"], &entry["shape"]), (&true.into(), &"host-path".into()));
    // Those who have it keep it.
    let unmounted = run_to_end(Command::new(program()).arg("umount").arg(scene.view.dir()), TIMEOUT);
    assert!(unmounted.status.success(), "{}", String::from_utf8_lossy(&unmounted.stderr));
    assert!(String::from_utf8_lossy(&unmounted.stderr).contains("last container"), "{unmounted:?}");
    let mut session = scene.session(&container, place(), "a", "b");
    session.expect(&mkdir("$OWN/job"));
    drop((session, container));
    wait_until("the server's end", || !scene.view.is_served());
}
