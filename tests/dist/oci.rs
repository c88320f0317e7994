//! The hook of OCI runtimes: the view is there before the container's program is, or there's no container.

use std::path::Path;
use std::process::Command;

use testkit::{Need, TestCgroup, hierarchies, require};

use crate::{SCRIPT, dist, is_contained, is_unserved, output, program, root};

/// The hook as it is shipped, with the program under test.
fn hook() -> serde_json::Value {
    let text = std::fs::read_to_string(dist("oci/vcgroupfs.json")).expect("the hook");
    let mut hook: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&hook["version"], &hook["stages"]), (&"1.0.0".into(), &serde_json::json!(["createRuntime"])));
    assert_eq!(hook["when"], serde_json::json!({ "annotations": { "^vcgroupfs\\.attach$": "^true$" } }));
    assert_eq!(hook["hook"]["path"], "/usr/bin/vcgroupfs");
    hook["hook"]["path"] = program().into();
    hook["hook"].take()
}

fn bundle(folder: &Path, cgroup: &str, hook: &serde_json::Value) {
    root(folder);
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/",
            "args": ["/bin/sh", "-c", SCRIPT], "env": ["PATH=/bin"],
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] },
        ],
        "hooks": { "createRuntime": [hook] },
        "linux": {
            "cgroupsPath": format!("/{cgroup}/c1"),
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
        },
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a configuration");
}

fn run(folder: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new("runc");
    command.arg("--root").arg(folder.join("state")).args(["run", "c1"]).current_dir(folder);
    let output = output(&mut command, folder);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn cgroup() -> TestCgroup {
    let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
    TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn runc_attaches_before_the_program_starts() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("pids"),
        Need::Program("runc"),
        Need::StaticProgram("busybox")
    );
    let (cgroup, folder) = (cgroup(), tempfile::tempdir().expect("a directory"));
    bundle(folder.path(), cgroup.name(), &hook());
    let (code, said, complaint) = run(folder.path());
    assert_eq!(code, Some(0), "{complaint}");
    // runc mounts the container's own cgroup of each hierarchy.
    is_contained(&said, "rooted", cgroup.name());
    is_unserved(&format!("{}/c1", cgroup.name()));
}

/// A hook that fails keeps the container from being started.
#[test]
fn a_container_is_not_created_without_its_view() {
    require!(Need::Root, Need::Hierarchy("pids"), Need::Program("runc"), Need::StaticProgram("busybox"));
    let (cgroup, folder) = (cgroup(), tempfile::tempdir().expect("a directory"));
    let mut hook = hook();
    hook["args"] = serde_json::json!(["vcgroupfs", "attach", "--oci-state", "--cgroup", "/vcgroupfs-no-such-cgroup"]);
    bundle(folder.path(), cgroup.name(), &hook);
    let (code, said, complaint) = run(folder.path());
    assert_ne!(code, Some(0), "{said}");
    assert_eq!(said, "", "the container's program was started");
    assert!(complaint.contains("vcgroupfs-no-such-cgroup"), "{complaint}");
    is_unserved(&format!("{}/c1", cgroup.name()));
}

/// A state whose root isn't one in that mount namespace: nothing is mounted, above all not on the host.
#[test]
fn a_root_that_is_not_a_mount_is_refused() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let container = testkit::Container::start(testkit::ContainerOptions::default());
    let folder = tempfile::tempdir().expect("a directory");
    let before = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    for (root, expected) in [("rootfs", "isn't the container's root"), ("nowhere", "can't open the container's root")] {
        std::fs::create_dir_all(folder.path().join("rootfs/sys/fs/cgroup")).expect("a directory");
        let config = serde_json::json!({ "root": { "path": root } });
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("a configuration");
        let state = serde_json::json!({ "status": "creating", "pid": container.init(), "bundle": folder.path() });
        std::fs::write(folder.path().join("state.json"), state.to_string()).expect("a state");
        let input = std::fs::File::open(folder.path().join("state.json")).expect("the state");
        let said = Command::new(program()).args(["attach", "--oci-state"]).stdin(input).output().expect("the program");
        let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.code() == Some(1) && complaint.contains(expected), "{complaint}");
    }
    let after = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let ours = |text: &str| text.lines().filter(|line| line.contains("/sys/fs/cgroup")).count();
    assert_eq!(ours(&before), ours(&after));
}
