//! Containers in containers: a pid namespace sees no more than the one around it.

use std::fs;
use std::process::{Child, Stdio};

use testkit::probe::names::*;
use testkit::{Caller, Container, Need, require};

use super::is_possible;
use super::scene::{Scene, hierarchies, place};

/// Runs a script as process 1 of a pid namespace inside a container's, in these cgroups.
fn inside(scene: &Scene, container: &Container, own: &str, script: &str) -> std::process::Output {
    let mut command = container.command(Caller::Root);
    command.args(["unshare", "--pid", "--fork", "sh", "-c", script, "sh"]);
    for &selector in hierarchies() {
        command.arg(scene.shown(selector, own));
    }
    testkit::run_to_end(&mut command, testkit::TIMEOUT)
}

/// The script joins cgroups as the container shows them, and then goes on in a namespace inside.
fn joined(container: &Container, script: &str) -> String {
    format!(
        "for d; do echo $$ > $d/cgroup.procs || exit 90; done\n\
         exec {} --join -- unshare --pid --fork --kill-child --mount-proc sh -c '{script}' sh \"$@\"",
        container.probe().display()
    )
}

#[test]
fn a_nested_namespace_sees_its_own_part_of_the_outer_view() {
    if !is_possible() {
        return;
    }
    require!(Need::NestedPidNamespaces);
    let scene = Scene::new();
    let container = scene.container("a");
    for name in ["job", "other"] {
        scene.cgroup.children(&format!("a/{name}"));
    }
    let script = joined(
        &container,
        "for d; do cd ${d%/*} || exit 91; [ \"$(ls -d */)\" = job/ ] || exit 92; [ -e other ] && exit 93; \
         mkdir new 2>/dev/null && exit 94; echo $$ 2>/dev/null > cgroup.procs && exit 95; mkdir job/new || exit 96; \
         cd job; echo $$ > new/cgroup.procs || exit 97; done",
    );
    let output = inside(&scene, &container, "a/job", &script);
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    // What is around goes on to see all of it.
    let mut session = scene.session(&container, place(), "a", "b");
    session.expect(&stat("$OWN/other"));
    session.expect(&rmdir("$OWN/job/new"));
}

/// The host may have put a container's process anywhere: that doesn't make its namespace see more.
#[test]
fn a_nested_namespace_sees_nothing_beside_the_outer_view() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let container = scene.container("a");
    let elsewhere = scene.cgroup.children("b");
    let mut session = container.session_in(Caller::Root, &elsewhere);
    session.set("B", scene.shown(place(), "b").display());
    assert_eq!(session.run(&stat("$B")).errno(), Some("ENOENT"), "whoever enters a container sees what it sees");
    let mut command = std::process::Command::new(container.probe());
    command.arg("--join").args(&elsewhere).arg("--");
    command.args(["nsenter", "--target", &container.init().to_string(), "--mount", "--pid", "--"]);
    command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "ls", "-d"]);
    for &selector in hierarchies() {
        command.arg(scene.shown(selector, "b"));
    }
    let output = testkit::run_to_end(&mut command, testkit::TIMEOUT);
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A working directory that is outside of what a new namespace sees.
#[test]
fn a_working_directory_from_outside_shows_nothing() {
    if !is_possible() {
        return;
    }
    require!(Need::NestedPidNamespaces);
    let scene = Scene::new();
    let container = scene.container("a");
    for name in ["job", "other/deep"] {
        if let Some((above, _)) = name.split_once('/') {
            scene.cgroup.children(&format!("a/{above}"));
        }
        scene.cgroup.children(&format!("a/{name}"));
    }
    for &selector in hierarchies() {
        let cwd = scene.shown(selector, "a/other").display().to_string();
        let script = format!(
            "cd {cwd} && for d; do echo $$ > $d/cgroup.procs || exit 90; done\n\
             exec {} --join -- unshare --pid --fork --kill-child sh -c 'stat . 2>/dev/null && exit 91; ls . 2>/dev/null && exit 92; \
             cat cgroup.procs 2>/dev/null && exit 93; mkdir new 2>/dev/null && exit 94; rmdir deep 2>/dev/null && exit 95; \
             stat deep 2>/dev/null && exit 96; stat .. 2>/dev/null && exit 97; cd -P .. 2>/dev/null && exit 98; exit 0'",
            container.probe().display()
        );
        let output = inside(&scene, &container, "a/job", &script);
        assert!(output.status.success(), "{selector} {:?}", output.status);
        assert!(scene.real(selector, "a/other/deep").is_dir() && !scene.real(selector, "a/other/new").exists());
    }
}

/// A container can make many pid namespaces; that is its own trouble.
#[test]
fn a_container_has_a_limited_number_of_pid_namespaces() {
    if !is_possible() {
        return;
    }
    require!(Need::NestedPidNamespaces);
    let scene = Scene::new();
    let containers = [scene.container("a"), scene.container("b")];
    let own = scene.shown(place(), "a").display().to_string();
    let start = || -> Child {
        let mut command = containers[0].command(Caller::Root);
        command.args(["unshare", "--pid", "--fork", "--kill-child", "sh", "-c"]);
        command.arg(format!("[ -d {own} ] && echo yes || echo no; read line")).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).spawn().expect("a namespace")
    };
    let mut children: Vec<(Child, bool)> = Vec::new();
    for _ in 0..270 {
        use std::io::{BufRead, BufReader};
        let mut child = start();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut answer).expect("an answer");
        children.push((child, answer.trim() == "yes"));
    }
    let seen = children.iter().filter(|(_, seen)| *seen).count();
    // With few descriptors fewer than with many.
    assert!((100..270).contains(&seen), "{seen}");
    let held = scene.held_namespaces().len();
    assert!(held <= 258, "{held}");
    // The others don't feel it.
    let mut session = scene.session(&containers[1], place(), "b", "a");
    session.expect(&mkdir("$OWN/job"));
    let output = inside(&scene, &containers[1], "b", "exit 0");
    assert!(output.status.success());
    for (mut child, _) in children {
        drop(child.stdin.take());
        child.wait().expect("its end");
    }
    super::scene::wait_until("the end of all namespaces", || scene.held_namespaces().len() <= 2);
    // There's room again.
    let output = inside(&scene, &containers[0], "a", &format!("ls {own}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir(scene.real(place(), "b/job")).expect("the other's cgroup");
}
