//! Slots of a mount for all containers, by pid namespaces that a user of the host makes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use testkit::probe::names::*;
use testkit::{Need, STRANGER, ViewOptions, require, write_program};

use super::scene::{Scene, program};

/// How many pid namespaces the user makes.
const NAMESPACES: usize = 24;

/// With so few descriptors a server has room for no more than 16 pid namespaces.
const DESCRIPTORS: u32 = 256;

/// Processes, each of which is number 1 of a pid namespace and has looked into the mount. They end when this is dropped.
struct Crowd(Vec<Child>);

impl Crowd {
    /// Makes pid namespaces as an unprivileged user, in user namespaces of its own.
    fn new(directory: &Path) -> Self {
        let look = format!("ls {} >/dev/null 2>&1; echo $?; read _", directory.display());
        let each = |_| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &STRANGER.to_string(), "--regid", &STRANGER.to_string(), "--clear-groups"]);
            command.args([
                "unshare",
                "--user",
                "--map-root-user",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                &look,
            ]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a namespace")
        };
        Self((0..NAMESPACES).map(each).collect())
    }

    /// How many of the namespaces the server has answered.
    fn served(&mut self) -> usize {
        let answer = |child: &mut Child| {
            let mut line = String::new();
            let output = child.stdout.as_mut().expect("its output");
            BufReader::new(output).read_line(&mut line).expect("a line");
            line
        };
        self.0.iter_mut().map(answer).filter(|line| line == "0\n").count()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

#[test]
fn a_user_of_the_host_is_one_tenant_however_many_namespaces_it_makes() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::UserNamespaces, Need::Program("setpriv"));
    let folder = tempfile::Builder::new().prefix("vcgroupfs-limited-").tempdir().expect("a temporary directory");
    let limited = folder.path().join("vcgroupfs");
    let script = format!("#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec {} \"$@\"\n", program().display());
    write_program(&limited, &script);
    let scene = Scene::with(&limited, &["unified"], ViewOptions::new());
    // The user comes to the mount by no more than its path.
    let above = scene.view.dir();
    for folder in above.ancestors().skip(1).take(1) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("chmod of a temporary directory");
    }
    let mut crowd = Crowd::new(&above);
    let served = crowd.served();
    assert!(served > 0 && served <= 8, "the user got {served} of 16");
    for name in ["a", "b", "c"] {
        let container = scene.container(name);
        let mut session = scene.session(&container, "unified", name);
        session.expect(&mkdir("$OWN/job"));
    }
}

/// The kernel's lock of the root that all share can't be mended: who chooses this mount is told, and what to use instead.
#[test]
fn the_help_warns_of_what_one_mount_for_all_cannot_separate() {
    let output = testkit::run_to_end(Command::new(program()).args(["mount", "--help"]), testkit::TIMEOUT);
    let help: Vec<_> = String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect();
    let help = help.join(" ");
    for part in ["the kernel's lock of the root directory", "'vcgroupfs attach' or the OCI hook"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
