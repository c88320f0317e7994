//! A host with v1 alone, whose kernel has cgroup2 all the same: a systemd in a container mounts it there and uses it.

use std::fs;

use testkit::{ContainerOptions, Need, hierarchy, require};

use crate::scene::{Host, MOUNT_METHODS, MountMethod, Said, Scene};

const NOTE: &str = "hierarchy unified isn't mounted on the host, so the view has none";

/// The container has all that this machine has.
fn scene(method: MountMethod, options: ContainerOptions) -> Scene {
    Scene::new(method, options).on(Host::Legacy)
}

/// Checks that the view is there, without cgroup2, and that a message said so.
#[track_caller]
fn lacks_cgroup2(scene: &Scene, said: &Said) {
    assert_eq!((said.code, said.stderr.as_str()), (0, format!("vcgroupfs: {NOTE}\n").as_str()));
    let seen = scene.sh("ls /sys/fs/cgroup").ok();
    assert!(seen.contains("systemd") && !seen.contains("unified"), "{seen}");
}

/// Without cgroup2 the container's systemd could start nothing more, so nothing is changed. Once the host has mounted cgroup2, the view has it, too.
#[test]
fn a_container_that_uses_its_cgroup2_is_refused() {
    require!(Need::Root, Need::Fuse, Need::LegacySyscalls, Need::Hierarchy("unified"), Need::Hierarchy("name=systemd"));
    for method in MOUNT_METHODS {
        let mut scene = scene(method, ContainerOptions::default());
        let before = scene.mounts();
        let refused = scene.attach(&[]).fails(1);
        for part in [NOTE, &format!("pid {} has it mounted and uses it", scene.pid()), "mount it on the host"] {
            assert!(refused.contains(part), "no '{part}' in {refused}");
        }
        scene.is_as_before(&before);

        scene.host = Host::Own;
        scene.attach(&[]).ok();
        let own = scene.own("unified", false).display().to_string();
        scene.sh(&format!("mkdir {own}/x && rmdir {own}/x")).ok();
        scene.detach().ok();
        scene.is_as_before(&before);
    }
}

/// The container is in a cgroup of its own there, but can't see it.
#[test]
fn a_container_without_cgroup2_gets_a_view() {
    require!(Need::Root, Need::Fuse, Need::LegacySyscalls, Need::Hierarchy("unified"), Need::Hierarchy("name=systemd"));
    let unified = hierarchy("unified").expect("cgroup2").mountpoint.display().to_string();
    for method in MOUNT_METHODS {
        let prepare = format!("umount {unified}");
        let scene = scene(method, ContainerOptions { prepare, ..ContainerOptions::default() });
        let before = scene.mounts();
        lacks_cgroup2(&scene, &scene.attach(&[]));
        scene.detach().ok();
        scene.is_as_before(&before);
    }
}

/// cgroup2 is mounted in the container, but its processes are in the root: nobody uses it.
#[test]
fn a_container_that_does_not_use_its_cgroup2_gets_a_view() {
    require!(Need::Root, Need::Fuse, Need::LegacySyscalls, Need::Hierarchy("unified"), Need::Hierarchy("name=systemd"));
    let unified = hierarchy("unified").expect("cgroup2").mountpoint;
    for method in MOUNT_METHODS {
        let scene = scene(method, ContainerOptions::default());
        fs::write(unified.join("cgroup.procs"), scene.pid()).expect("a migration");
        let before = scene.mounts();
        lacks_cgroup2(&scene, &scene.attach(&[]));
        scene.detach().ok();
        scene.is_as_before(&before);
    }
}
