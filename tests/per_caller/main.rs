//! One mount for all callers: each container sees its own cgroups and nothing of another's, whatever the containers do to each other.

mod descriptors;
mod ends;
mod events;
mod nested;
mod rivals;
mod runtimes;
mod scene;
mod stalls;

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{Need, ViewOptions, require};

use scene::{Scene, directories, hierarchies, place};

/// Whether the machine has what these tests need; says what is missing.
fn is_possible() -> bool {
    let there = Need::Hierarchy(if scene::is_split() { "name=systemd" } else { "unified" });
    testkit::missing(&[Need::Root, Need::Fuse, Need::NamespacedPids, there]).is_none()
}

/// The host has mounted another container's cgroup on one of this container's, on kernels old and new.
#[test]
fn a_bind_mount_of_anothers_cgroup_leads_nowhere() {
    if !is_possible() || testkit::missing(&[Need::LegacySyscalls]).is_some() {
        return;
    }
    for legacy in [false, true] {
        let scene = Scene::with(ViewOptions::new().legacy(legacy));
        let containers = [scene.container("a"), scene.container("ab")];
        for &selector in hierarchies() {
            let (sub, other) = (scene.cgroup.child(selector, "a/sub"), scene.real(selector, "ab"));
            mount(Some(&other), &sub, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
            let mut session = scene.session(&containers[0], selector, "a", "ab");
            let made = session.run(&mkdir("$OWN/sub/by-the-view"));
            fs::create_dir(sub.join("control")).expect("mkdir through the bind mount");
            umount2(&sub, MntFlags::MNT_DETACH).expect("unmounting");
            assert_eq!(made.errno(), None, "{selector}");
            let found = [&other, &sub].map(|dir| dir.join("by-the-view").exists());
            assert_eq!((found, other.join("control").exists()), ([false, true], true), "{selector}, legacy {legacy}");
        }
    }
}

#[test]
fn each_container_sees_and_changes_its_own_only() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let containers = [scene.container("a"), scene.container("ab")];
    for &selector in hierarchies() {
        for (container, own, other) in [(&containers[0], "a", "ab"), (&containers[1], "ab", "a")] {
            let mut session = scene.session(container, selector, own, other);
            assert_eq!(directories(&session.expect(&Op::Readdir { path: "$ABOVE".into() })), [own], "{selector}");
            session.expect(&mkdir("$OWN/job"));
            assert!(scene.real(selector, own).join("job").is_dir());
            session.expect(&spawn("P"));
            session.expect(&write_file("$OWN/job/cgroup.procs", "$P"));
            // By its number in the container, which the host doesn't have there.
            let number = session.expect(&read_file("$OWN/job/cgroup.procs"));
            let real = fs::read_to_string(scene.real(selector, own).join("job/cgroup.procs")).expect("a list");
            assert_ne!(number.as_str(), Some(real.as_str()));
            assert_eq!(real.lines().count(), 1, "{selector}: {real:?}");
            for path in ["$OTHER", "$OTHER/cgroup.procs", "$OTHER/job", "$ABOVE/nothing"] {
                assert_eq!(session.run(&stat(path)).errno(), Some("ENOENT"), "{selector} {path}");
                assert_eq!(session.run(&write_file(path, "$P")).errno(), Some("ENOENT"), "{selector} {path}");
                assert_eq!(session.run(&rmdir(path)).errno(), Some("ENOENT"), "{selector} {path}");
            }
            for path in ["$ABOVE/new", "$OTHER"] {
                assert_eq!(session.run(&mkdir(path)).errno(), Some("EACCES"), "{selector} {path}");
            }
            session.expect(&kill("P"));
            session.expect(&rmdir("$OWN/job"));
        }
    }
}

/// A hierarchy in whose root a container sits has no subtree, as in any view.
#[test]
fn without_a_cgroup_there_is_only_the_root() {
    if !is_possible() {
        return;
    }
    require!(Need::Hierarchy("devices"));
    let scene = Scene::new();
    let container = scene.container("a");
    let mut session = scene.session(&container, place(), "a", "b");
    let found = testkit::hierarchy("devices").expect("the hierarchy that was required");
    let top = found.in_view(std::path::Path::new("/sys/fs/cgroup"));
    session.set("TOP", top.display());
    assert!(directories(&session.expect(&Op::Readdir { path: "$TOP".into() })).is_empty());
    assert_eq!(session.run(&mkdir("$TOP/new")).errno(), Some("EACCES"));
    assert_eq!(session.run(&write_file("$TOP/cgroup.procs", "0")).errno(), Some("EACCES"));
}

/// A caller in the host's pid namespace is in no container.
#[test]
fn a_caller_in_the_hosts_pid_namespace_has_no_subtree() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let _container = scene.container("a");
    for &selector in hierarchies() {
        let found = testkit::hierarchy(selector).expect("a hierarchy of the scene");
        let top = scene.view.hierarchy(&found);
        let entries = fs::read_dir(&top).expect("the root").flatten();
        assert!(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count() == 0, "{selector}");
        let errno = |done: std::io::Result<()>| done.err().and_then(|error| error.raw_os_error());
        assert_eq!(errno(fs::create_dir(top.join("vcgroupfs-new"))), Some(nix::libc::EACCES));
        assert_eq!(errno(fs::metadata(top.join(scene.cgroup.name())).map(drop)), Some(nix::libc::ENOENT));
        assert_eq!(errno(fs::write(top.join("cgroup.procs"), "0")), Some(nix::libc::EACCES));
        assert!(fs::read(top.join("cgroup.procs")).is_ok(), "{selector}");
    }
}

/// The options that rule writes are for all callers.
#[test]
fn the_policy_applies_to_all_containers() {
    if !is_possible() {
        return;
    }
    require!(Need::Hierarchy("pids"));
    for (policy, allowed) in [("strict", false), ("delegate", true)] {
        let options = ViewOptions::new().flag("--per-caller").policy(policy).flag("--no-passthrough");
        let options = if allowed { options.delegate_controllers(&["pids"]) } else { options };
        let cgroup = testkit::TestCgroup::new(hierarchies());
        let scene = Scene { view: testkit::View::mount(&scene::program(), &options), cgroup };
        let containers = [scene.container("a"), scene.container("b")];
        for (container, own, other) in [(&containers[0], "a", "b"), (&containers[1], "b", "a")] {
            let mut session = scene.session(container, "pids", own, other);
            scene.cgroup.child("pids", &format!("{own}/job"));
            assert_eq!(session.run(&write_file("$OWN/job/pids.max", "77")).is_ok(), allowed, "{policy} {own}");
            assert_eq!(session.run(&write_file("$OWN/pids.max", "77")).errno(), Some("EACCES"), "{policy} {own}");
        }
    }
}

/// Everything that the host makes, changes and removes shows at once, without any event.
#[test]
fn changes_by_the_host_show_at_once() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let container = scene.container("a");
    for &selector in hierarchies() {
        let mut session = scene.session(&container, selector, "a", "b");
        let real = scene.real(selector, "a/new");
        for _ in 0..50 {
            assert_eq!(session.run(&stat("$OWN/new")).errno(), Some("ENOENT"));
            fs::create_dir(&real).expect("a cgroup");
            session.expect(&stat("$OWN/new"));
            session.expect(&read_file("$OWN/new/cgroup.procs"));
            assert_eq!(directories(&session.expect(&Op::Readdir { path: "$OWN".into() })), ["new"]);
            fs::remove_dir(&real).expect("its removal");
        }
    }
}
