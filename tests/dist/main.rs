//! The hooks and units of `dist/`, with the programs that they are for.

mod files;
mod kept;
mod lxc;
mod oci;
mod per_caller;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testkit::{TIMEOUT, end_of, wait_until};

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_vcgroupfs")
}

/// A file of `dist/`.
fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist").join(name)
}

/// A directory in which a container's root can be: its parents can be searched by everybody, and `bin` has a static busybox.
fn root(folder: &Path) -> PathBuf {
    let root = folder.join("rootfs");
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    testkit::copy_program("/usr/bin/busybox".as_ref(), &root.join("bin/busybox"));
    for name in ["sh", "cat", "grep", "ls", "mkdir", "rmdir"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a symlink");
    }
    root
}

/// The script that a container runs. It says whether it has a view, what it sees beside its cgroup, and whether it may make cgroups.
const SCRIPT: &str = r#"
echo "views $(grep -c ' fuse[.]vcgroupfs ' /proc/self/mountinfo)"
while IFS=: read -r id list path; do
    [ "$list" = name=systemd ] && own=/sys/fs/cgroup/systemd$path
done < /proc/self/cgroup
mkdir "$own/made" && rmdir "$own/made" && echo made
ls -d /sys/fs/cgroup/pids/*/ 2>/dev/null
exit 0
"#;

/// The output of [`SCRIPT`] in a container that has a view of this shape and is in a cgroup below this one.
fn is_contained(said: &str, shape: &str, cgroup: &str) {
    let views = format!("views {}\n", testkit::hierarchies().len());
    let beside = if shape == "rooted" { String::new() } else { format!("/sys/fs/cgroup/pids/{cgroup}/\n") };
    assert_eq!(said, format!("{views}made\n{beside}"));
}

/// No server is left that serves a container in this cgroup.
fn is_unserved(cgroup: &str) {
    let is_served = || {
        let records = fs::read_dir("/run/vcgroupfs").into_iter().flatten().flatten();
        let mut texts = records.map(|record| fs::read_to_string(record.path()).unwrap_or_default());
        texts.any(|text| text.contains(&format!("\"/{cgroup}\"")))
    };
    wait_until("no server is left", || !is_served());
}

/// Runs a command whose output a process that it leaves behind may keep open.
fn output(command: &mut Command, folder: &Path) -> Output {
    let file = |name: &str| fs::File::create(folder.join(name)).expect("a file");
    command.stdin(std::process::Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let Some(status) = end_of(&mut child, TIMEOUT) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} doesn't end");
    };
    let read = |name: &str| fs::read(folder.join(name)).expect("the output");
    Output { status, stdout: read("stdout"), stderr: read("stderr") }
}
