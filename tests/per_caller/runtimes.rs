//! A container runtime needs only a bind mount of the view.

use std::fs;
use std::process::{Command, Output};

use testkit::{Need, TIMEOUT, require, run_to_end};

use super::is_possible;
use super::scene::Scene;

/// A container that says what it sees, makes a cgroup and migrates itself into it.
fn bundle(scene: &Scene, folder: &std::path::Path, name: &str, script: &str) {
    let root = folder.join("rootfs");
    for directory in ["bin", "proc", "dev", "sys/fs/cgroup", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    testkit::copy_program("/usr/bin/busybox".as_ref(), &root.join("bin/busybox"));
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/",
            "args": ["/bin/busybox", "sh", "-c", script], "env": ["PATH=/bin"],
            "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"] },
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/sys/fs/cgroup", "type": "bind", "source": scene.view.dir(), "options": ["rbind", "rw"] },
        ],
        "linux": {
            "cgroupsPath": format!("{}/{name}", scene.cgroup.path()),
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
        },
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("a configuration");
}

fn run(program: &str, folder: &std::path::Path, name: &str) -> Output {
    let mut command = Command::new(program);
    command.arg("--root").arg(folder.join("state")).arg("run").arg("--bundle").arg(folder).arg(name);
    run_to_end(&mut command, TIMEOUT)
}

fn containers_by(program: &str) {
    let scene = Scene::new();
    let above = scene.shown("name=systemd", "");
    let above = above.display();
    for (name, other) in [("one", "other"), ("other", "one")] {
        // A neighbour that could be seen.
        scene.cgroup.children(other);
        let script = format!(
            "b=/bin/busybox; cd {above} && $b ls && cd {name} && $b mkdir job && echo $$ > job/cgroup.procs && \
             $b grep systemd /proc/self/cgroup; $b stat ../{other} 2>/dev/null && echo seen; \
             $b mkdir ../new 2>/dev/null && echo made; echo $$ > cgroup.procs; $b rmdir job && echo done"
        );
        let folder = tempfile::tempdir().expect("a directory");
        bundle(&scene, folder.path(), name, &script);
        let ran = run(program, folder.path(), name);
        let (said, wrong) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{program}: {wrong}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines.first(), lines.last()), (Some(&name), Some(&"done")), "{said} {wrong}");
        assert!(said.contains(&format!("{}/{name}/job", scene.cgroup.path())), "{said} {wrong}");
        assert!(lines.len() == 3, "{said}");
        for selector in super::scene::hierarchies() {
            let _ = fs::remove_dir(scene.real(selector, other));
        }
    }
    // A runtime makes its cgroups, and those above, in all hierarchies.
    for hierarchy in testkit::hierarchies() {
        let above = hierarchy.mountpoint.join(scene.cgroup.path().trim_start_matches('/'));
        let is_ours = super::scene::hierarchies().contains(&hierarchy.selector().as_str());
        assert!(is_ours || !above.exists() || fs::remove_dir(&above).is_ok(), "{} stays", above.display());
    }
}

#[test]
fn runc_needs_a_bind_and_nothing_else() {
    if !is_possible() {
        return;
    }
    require!(Need::Hierarchy("name=systemd"), Need::Program("runc"), Need::StaticProgram("busybox"));
    containers_by("runc");
}
