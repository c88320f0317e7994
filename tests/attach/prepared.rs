//! `--place` and `--alias`: the container's cgroups are made ready, and are as before afterwards.

use std::fs;

use testkit::{Caller, ContainerOptions, Hierarchy, Need, TestCgroup, hierarchies, require};

use crate::scene::{MountMethod, Scene, wait_until};

/// A name that nobody else has, as test cgroups have it.
pub(crate) fn name(what: &str) -> String {
    format!("vcgroupfs-{what}-{}", std::process::id())
}

/// The cgroups of a process, by hierarchy.
pub(crate) fn memberships(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    text.lines().map(|line| line.split_once(':').expect("a hierarchy").1.to_owned()).collect()
}

/// The hierarchies in which the test is in the root.
fn at_root() -> Vec<Hierarchy> {
    let own = memberships(std::process::id());
    let is_at_root = |hierarchy: &Hierarchy| {
        let key = if hierarchy.is_unified() { String::new() } else { hierarchy.selector() };
        own.contains(&format!("{key}:/"))
    };
    hierarchies().into_iter().filter(is_at_root).collect()
}

pub(crate) fn exists(name: &str) -> bool {
    hierarchies().iter().any(|hierarchy| hierarchy.mountpoint.join(name).exists())
}

#[test]
fn a_container_in_the_root_gets_a_place() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    let places = at_root();
    assert!(!places.is_empty(), "the test is in the root of no hierarchy");
    for method in [MountMethod::Moved, MountMethod::Built] {
        let scene = Scene::without_cgroups(method, ContainerOptions::default());
        let init = scene.container.init();
        let before = (scene.mounts(), memberships(init));
        let mut other = scene.container.session(Caller::Root);
        let name = name("place");

        let delegated = ["--place", &name, "--policy", "delegate", "--delegate-controllers", "all"];
        scene.attach(&delegated).ok();
        for hierarchy in &places {
            let procs =
                fs::read_to_string(hierarchy.mountpoint.join(&name).join("cgroup.procs")).expect("its processes");
            // Its process 1 and the probe.
            assert!(procs.lines().count() >= 2, "{}: {procs}", hierarchy.selector());
            assert!(procs.lines().any(|pid| pid == init.to_string()), "{}: {procs}", hierarchy.selector());
            let top = hierarchy.in_view("/sys/fs/cgroup".as_ref());
            let own = top.join(&name).display().to_string();
            scene.sh(&format!("mkdir {own}/x && rmdir {own}/x")).ok();
        }
        // It's there already, and there's nothing to place.
        assert_eq!(scene.attach(&delegated).code, 0);
        scene.detach().ok();
        scene.is_as_before(&before.0);
        assert_eq!(memberships(init), before.1);
        assert!(!exists(&name));
        other.expect(&testkit::probe::Op::Set { name: "x".into(), value: "y".into() });
        drop(other);

        // It ends with the container.
        scene.attach(&["--place", &name]).ok();
        drop(scene);
        wait_until("the end of its place", || !exists(&name));
    }
}

#[test]
fn a_place_that_cannot_be_made_is_refused() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::without_cgroups(MountMethod::Moved, ContainerOptions::default());
    let before = (scene.mounts(), memberships(scene.container.init()));
    let last = at_root().last().expect("a hierarchy").selector();
    let taken = TestCgroup::new(&[&last]);
    let refused = scene.attach(&["--place", taken.name()]).fails(1);
    assert!(refused.contains("choose another --place"), "{refused}");
    for wrong in ["a/b", "..", ""] {
        scene.attach(&["--place", wrong]).fails(2);
    }
    scene.is_as_before(&before.0);
    assert_eq!(memberships(scene.container.init()), before.1);
    drop(taken);

    // What fails later undoes it.
    let prepare = "mount --bind $EMPTY /sys; mkdir /sys/devices".into();
    let scene = Scene::without_cgroups(MountMethod::Moved, ContainerOptions { prepare, ..ContainerOptions::default() });
    let before = memberships(scene.container.init());
    let name = name("nowhere");
    scene.attach(&["--place", &name]).fails(1);
    wait_until("the end of its place", || !exists(&name));
    assert_eq!(memberships(scene.container.init()), before);
    scene.is_unserved();
}

const DELEGATED: [&str; 4] = ["--policy", "delegate", "--delegate-controllers", "memory,cpuset"];

#[test]
fn an_alias_leads_into_the_subtree() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("cpuset"),
        Need::Hierarchy("memory")
    );
    let scene = Scene::plain(MountMethod::Moved);
    let home = |selector| scene.cgroup.dir(selector).join("home");
    scene.attach(&[&DELEGATED[..], &["--alias", "docker"]].concat()).ok();
    for selector in testkit::available(&["memory", "cpuset", "name=systemd", "unified"]) {
        let top = testkit::hierarchy(selector).expect("a hierarchy").in_view("/sys/fs/cgroup".as_ref());
        let top = top.display();
        // As Docker does it, and a process goes in at once, even into a cpuset.
        scene.sh(&format!("mkdir -p {top}/docker/c1 && sh -c 'echo 0 > {top}/docker/c1/cgroup.procs'")).ok();
        assert!(home(selector).join("docker/c1").is_dir(), "{selector}");
        assert!(!scene.sh(&format!("ls {top}")).ok().contains("docker"), "{selector}");
        assert_eq!(scene.sh(&format!("readlink {top}/docker")).ok(), format!("{}/docker\n", &scene.home()[1..]));
        assert_ne!(scene.sh(&format!("ls {top}/podman")).code, 0);
    }
    assert_eq!(fs::read_to_string(home("cpuset").join("cgroup.clone_children")).expect("a flag"), "1\n");
    let top = testkit::hierarchy("memory").expect("memory").in_view("/sys/fs/cgroup".as_ref()).display().to_string();
    scene.sh(&format!("rmdir {top}/docker/c1")).ok();
    scene.detach().ok();
    scene.is_unserved();
    assert!(!home("memory").join("docker").exists(), "it's empty, and goes");
    assert!(home("cpuset").join("docker/c1").exists(), "it's the container's, and stays");
    assert_eq!(fs::read_to_string(home("cpuset").join("cgroup.clone_children")).expect("a flag"), "0\n");
}

#[test]
fn an_alias_with_the_shape_full_is_refused() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::plain(MountMethod::Moved);
    let refused = scene.attach(&["--alias", "docker", "--shape", "full"]).fails(2);
    assert!(refused.contains("--alias isn't for shape full"), "{refused}");
}

/// An attached view that lets the container write something else doesn't count as the requested one.
#[test]
fn a_view_with_other_options_is_refused() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("pids"),
        Need::Hierarchy("memory")
    );
    let scene = Scene::plain(MountMethod::Moved);
    let (home, sibling) = (scene.home(), format!("{}/sibling", scene.cgroup.path()));
    let pids = ["--policy", "delegate", "--delegate-controllers", "pids"];
    scene.attach(&[&pids[..], &["--alias", "docker"]].concat()).ok();
    for same in [&["--alias", "docker"][..], &["--alias", "docker", "--cgroup", &home]] {
        let again = scene.attach(&[&pids[..], same].concat());
        assert!(again.code == 0 && again.stderr.contains("already"), "{}", again.stderr);
    }
    for other in [
        &["--policy", "delegate", "--alias", "docker"][..],
        &["--policy", "delegate", "--delegate-controllers", "memory,pids", "--alias", "docker"],
        &pids,
        &[&pids[..], &["--alias", "docker", "--cgroup", &sibling]].concat(),
        &[&pids[..], &["--alias", "docker", "--alias", "libpod_parent"]].concat(),
    ] {
        let refused = scene.attach(other).fails(1);
        let is = format!("(shape host-path, policy delegate, with controllers pids, alias docker, of {home})");
        assert!(refused.contains(&is), "{other:?}: {refused}");
    }
    scene.detach().ok();
}
