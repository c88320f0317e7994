//! Without privilege nothing is done, and the status says so.

use std::process::Command;

use testkit::{Need, require};

use crate::support::{Sandbox, said};

/// The program as a user who may do nothing; from a copy, wherever the build's directory is.
pub(crate) fn unprivileged(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let copy = sandbox.file("vcgroupfs");
    if !copy.exists() {
        let copied = said(Command::new("cp").arg(crate::support::program()).arg(&copy));
        assert_eq!(copied.code, 0, "{copied:?}");
    }
    let mut command = sandbox.command_of("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]).arg(copy).args(arguments);
    command
}

#[test]
fn changes_need_privilege() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    let directory = sandbox.directory("view");
    std::os::unix::fs::chown(&directory, Some(65534), Some(65534)).expect("chown");
    let directory = directory.to_str().expect("a path");
    for arguments in [
        vec!["mount", "--cgroup", &path, directory],
        vec!["mount", "-f", "--cgroup", &path, directory],
        vec!["run", "--cgroup", &path, "--name", "child", "--", "true"],
    ] {
        let line = said(&mut unprivileged(&sandbox, &arguments)).fails(4);
        assert!(line.contains("root"), "{arguments:?}: {line}");
    }
    sandbox.is_clean();
}

#[test]
fn a_view_is_unmounted_by_root_only() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    let directory = sandbox.directory("view");
    let name = directory.to_str().expect("a path");
    sandbox.vcgroupfs(&["mount", "--cgroup", &path, name]).ok();
    let line = said(&mut unprivileged(&sandbox, &["umount", name])).fails(4);
    assert!(line.contains("root"), "{line}");
    assert!(crate::support::is_mounted(&directory));
    sandbox.vcgroupfs(&["umount", name]).ok();
    sandbox.is_clean();
}

#[test]
fn questions_need_none() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    for arguments in [
        vec!["explain", "--cgroup", &path, "--json", "write", "/unified/cgroup.procs"],
        vec!["tree", "--cgroup", &path, "--json"],
        vec!["map", "--cgroup", &path, "--json", &path],
        vec!["list", "--json"],
    ] {
        said(&mut unprivileged(&sandbox, &arguments)).json();
    }
    sandbox.is_clean();
}
