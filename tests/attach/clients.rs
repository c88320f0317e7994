//! Real clients in a container that has a view.

use std::fs;
use std::os::unix::fs::chown;

use testkit::{ContainerOptions, MAPPED_ROOT, Need, hierarchies, require};

use crate::scene::{MOUNT_METHODS, MountMethod, Scene};

const DELEGATED: [&str; 4] =
    ["--policy", "delegate", "--delegate-controllers", "cpu,cpuacct,cpuset,memory,devices,freezer,blkio,pids"];

/// What runc is to run, with its cgroups where Docker has them, and limits: of devices, too, which runc leaves alone
/// in a user namespace, where the kernel takes none.
fn bundle(folder: &std::path::Path) {
    let root = folder.join("rootfs");
    for name in ["bin", "proc", "dev", "sys", "tmp", "devices"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    testkit::copy_program("/usr/bin/busybox".as_ref(), &root.join("bin/busybox"));
    let script = "/bin/busybox head -n 20 /proc/self/cgroup
        /bin/busybox head -n 50 /devices$(/bin/busybox sed -n 's/^.*:devices://p' /proc/self/cgroup)/devices.list";
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/",
            "args": ["/bin/busybox", "sh", "-c", script], "env": ["PATH=/bin"],
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/devices", "type": "bind", "source": "/sys/fs/cgroup/devices", "options": ["bind"] },
        ],
        "linux": {
            "cgroupsPath": "/docker/c1",
            "resources": {
                "devices": [{ "allow": false, "access": "rwm" }],
                "memory": { "limit": 64 << 20 },
                "pids": { "limit": 50 },
            },
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
        },
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("a configuration");
}

/// Makes the container's root the owner of its cgroups, as a container manager does.
fn give_to_container(scene: &Scene, root: u32) {
    for hierarchy in hierarchies() {
        let home = hierarchy.mountpoint.join(&scene.home()[1..]);
        for name in ["", "cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"] {
            let path = home.join(name);
            if path.exists() {
                chown(&path, Some(root), Some(root)).expect("chown");
            }
        }
    }
}

/// Docker's runtime with Docker's cgroups, unmodified, below the container's own, with a user namespace and without.
#[test]
fn runc_runs_a_container_inside() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("memory"),
        Need::Hierarchy("pids"),
        Need::Program("runc"),
        Need::StaticProgram("busybox"),
        Need::LegacySyscalls
    );
    for (method, user_namespace) in MOUNT_METHODS.into_iter().flat_map(|method| [(method, false), (method, true)]) {
        let scene = Scene::new(method, ContainerOptions { user_namespace, ..ContainerOptions::default() });
        let root = if user_namespace { MAPPED_ROOT } else { 0 };
        give_to_container(&scene, root);
        scene.attach(&[&DELEGATED[..], &["--alias", "docker"]].concat()).ok();
        let folder = tempfile::tempdir().expect("a directory");
        bundle(folder.path());
        chown(folder.path(), Some(root), Some(root)).expect("chown");
        let path = folder.path().display();
        let ran = scene.sh(&format!("cd {path} && runc --root {path}/state run c1"));
        if user_namespace && matches!(method, MountMethod::Built) {
            // An old kernel lets nobody but administrators of the host migrate others in devices, by a view or not.
            assert!(ran.stderr.contains("devices/docker/c1/cgroup.procs: operation not permitted"), "{}", ran.stderr);
            continue;
        }
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        for hierarchy in hierarchies().iter().filter(|hierarchy| !hierarchy.is_unified()) {
            let line = format!("{}:{}/docker/c1", hierarchy.selector(), scene.home());
            assert!(ran.stdout.lines().any(|own| own.ends_with(&line)), "{line}:\n{}", ran.stdout);
        }
        // /dev/null is in every container; what the container's root may do in a user namespace is the host's.
        let devices = if user_namespace { "a *:* rwm" } else { "c 1:3 rwm" };
        assert!(ran.stdout.lines().any(|line| line == devices), "{devices}:\n{}", ran.stdout);
        assert_eq!(ran.stdout.lines().any(|line| line == "a *:* rwm"), user_namespace, "{}", ran.stdout);
        scene.detach().ok();
        scene.is_unserved();
    }
}
