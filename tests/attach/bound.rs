//! The host has mounted another cgroup on one of the container's.

use std::fs;

use testkit::{Bind, ContainerOptions, Need, TestCgroup, require};

use crate::scene::{MOUNT_METHODS, Scene};

const NAMED: &str = "name=systemd";

/// Whether it's there before the view or comes later, and whether it lies on a cgroup inside or on the container's own: what the container does happens
/// in its own cgroups, and nothing of the other one is to be seen.
#[test]
fn a_bind_mount_of_another_cgroup_leads_nowhere() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(NAMED), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        for (onto, bound_first) in [("home/sub", true), ("home/sub", false), ("home", true), ("home", false)] {
            let what = format!("{method:?} {onto} {bound_first}");
            let scene = Scene::new(method, ContainerOptions::default());
            let sub = scene.cgroup.child(NAMED, "home/sub");
            let victim = TestCgroup::new(&[NAMED]);
            victim.child(NAMED, "sub");
            let before = scene.mounts();
            let bind = || Bind::new(&victim.dir(NAMED), scene.cgroup.dir(NAMED).join(onto));
            let mut bound = bound_first.then(bind);
            scene.attach(&["--shape", "rooted"]).ok();
            let bound = bound.take().unwrap_or_else(bind);
            let own = scene.own(NAMED, true).display().to_string();
            scene
                .sh(&format!("mkdir {own}/sub/by-the-view && rmdir {own}/sub/by-the-view && mkdir {own}/sub/stays"))
                .ok();
            let mounts = scene.mounts().join("\n");
            assert!(!mounts.contains(victim.name()), "{what}: {mounts}");
            fs::create_dir(bound.point().join("control")).expect("mkdir through the bind mount");
            assert!(victim.dir(NAMED).join("control").exists(), "{what}: the control reaches the other cgroup");
            drop(bound);
            assert!(sub.join("stays").exists(), "{what}");
            scene.detach().ok();
            scene.is_as_before(&before);
        }
    }
}
