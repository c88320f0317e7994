//! However a `run` ends, no cgroup, mount and process of it is left.

use std::fs;
use std::os::fd::AsRawFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Need, ViewProcesses, require};

use crate::run::command;
use crate::support::{Running, Sandbox, said, wait_until};

/// A run whose command says that it's there, and waits.
fn waiting(sandbox: &Sandbox, name: &str) -> Running {
    let child = Running::start(&mut command(sandbox, name, &[], &["sh", "-c", "echo ready; exec sleep 1000"]));
    assert_eq!(child.line(), "ready");
    child
}

/// The processes that serve a run.
pub(crate) fn processes_of(sandbox: &Sandbox, name: &str) -> ViewProcesses {
    let views = sandbox.vcgroupfs(&["list", "--json"]).json();
    // The names of runs aren't unique on a host, the cgroups are.
    let path = format!("{}/{name}", sandbox.path());
    let is_ours = |view: &&serde_json::Value| view["delegated"]["unified"].as_str() == Some(&path);
    let found = views.as_array().expect("a list").iter().find(is_ours).unwrap_or_else(|| panic!("{views}"));
    ViewProcesses::of_listed(found)
}

pub(crate) fn server_of(sandbox: &Sandbox, name: &str) -> i32 {
    processes_of(sandbox, name).server.as_raw()
}

#[test]
fn nothing_is_left_when_the_command_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::everywhere();
    let mut child = waiting(&sandbox, "child");
    let procs = fs::read_to_string(sandbox.cgroup().dir("unified").join("child/cgroup.procs")).expect("processes");
    for pid in procs.lines().filter_map(|line| line.parse().ok()) {
        // With process 1 the others have gone already.
        let sent = kill(Pid::from_raw(pid), Signal::SIGKILL);
        assert!(matches!(sent, Ok(()) | Err(nix::errno::Errno::ESRCH)), "{sent:?}");
    }
    assert_eq!(child.wait().code(), Some(128 + 9));
    sandbox.is_clean();
}

#[test]
fn nothing_is_left_when_the_supervisor_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::everywhere();
    let mut child = waiting(&sandbox, "child");
    child.signal(Signal::SIGKILL);
    child.wait();
    sandbox.is_clean();
}

#[test]
fn nothing_is_left_when_the_server_is_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::everywhere();
    let script = "echo ready; read wait; ls /sys/fs/cgroup >/dev/null 2>&1 && echo served; exit 5";
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    let mut child = start_reading(&sandbox, &command(&sandbox, "child", &[], &["sh", "-c", script]), &reader);
    assert_eq!(child.line(), "ready");
    processes_of(&sandbox, "child").kill();
    nix::unistd::write(&writer, b"go on\n").expect("a write");
    drop(writer);
    assert_eq!(child.wait().code(), Some(5), "the command goes on, without cgroups");
    assert_eq!(child.output(), "ready\n");
    // Its record is a dead one's, which the next list takes away.
    sandbox.vcgroupfs(&["list", "--json"]).json();
    sandbox.is_clean();
}

/// Starts a child that reads this pipe.
fn start_reading(sandbox: &Sandbox, command: &std::process::Command, reader: &std::os::fd::OwnedFd) -> Running {
    let pipe = format!("/proc/{}/fd/{}", std::process::id(), reader.as_raw_fd());
    let mut shell = sandbox.command_of("sh");
    shell.args(["-c", "exec \"$@\" < \"$0\"", &pipe]).arg(command.get_program()).args(command.get_args());
    Running::start(&mut shell)
}

#[test]
fn daemons_that_are_left_behind_are_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::everywhere();
    let script =
        "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1000; done' & done; exit 3";
    let mut inside = command(&sandbox, "child", &[], &["sh", "-c", script]);
    inside.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert_eq!(Running::start(&mut inside).wait().code(), Some(3));
    sandbox.is_clean();
}

#[test]
fn cgroups_that_were_made_inside_are_removed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Hierarchy("name=systemd"));
    let sandbox = Sandbox::everywhere();
    let script = r#"
        own=$(sed -n 's/^0:://p' /proc/self/cgroup)
        for dir in /sys/fs/cgroup/unified$own /sys/fs/cgroup/systemd$own; do
            mkdir -p $dir/a/b/c/d "$dir/a/with space" $dir/e || exit 9
            sleep 1000 & echo $! > $dir/a/b/c/d/cgroup.procs || exit 8
        done
        deep=/sys/fs/cgroup/unified$own
        for i in $(seq 100); do deep=$deep/d; done
        mkdir -p $deep || exit 7
    "#;
    let said = said(&mut command(&sandbox, "child", &[], &["sh", "-c", script]));
    assert_eq!(said.code, 0, "{said:?}");
    sandbox.is_clean();
}

#[test]
fn a_cgroup_that_exists_is_left_alone() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Hierarchy("pids"));
    let sandbox = Sandbox::everywhere();
    // In the hierarchy that comes last, so that the others have to be removed again.
    let last = sandbox.cgroup().hierarchies().last().expect("a hierarchy").selector();
    for selector in ["unified", last.as_str()] {
        let kept = sandbox.cgroup().child(selector, "kept");
        fs::create_dir(kept.join("inner")).expect("a cgroup");
        let line = said(&mut command(&sandbox, "kept", &[], &["true"])).fails(1);
        assert!(line.contains("--name"), "{line}");
        assert!(kept.join("inner").is_dir(), "{selector}");
        let made: Vec<_> = sandbox
            .cgroup()
            .hierarchies()
            .iter()
            .filter(|one| one.mountpoint.join(&sandbox.mark).join("kept").exists())
            .collect();
        assert_eq!(made.len(), 1, "{made:?}");
        fs::remove_dir(kept.join("inner")).expect("rmdir");
        fs::remove_dir(kept).expect("rmdir");
    }
    sandbox.is_clean();
}

#[test]
fn two_runs_at_once_do_not_disturb_each_other() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::everywhere();
    let (mut one, mut two) = (waiting(&sandbox, "one"), waiting(&sandbox, "two"));
    assert_ne!(server_of(&sandbox, "one"), server_of(&sandbox, "two"));
    let line = said(&mut command(&sandbox, "one", &[], &["true"])).fails(1);
    assert!(line.contains("--name"), "{line}");
    for name in ["one", "two"] {
        let view = format!("/proc/{}/root/sys/fs/cgroup/unified", command_of(&sandbox, name));
        let shown: Vec<_> = fs::read_dir(format!("{view}{}", sandbox.path()))
            .expect("the view")
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(shown, [name], "each sees itself only");
    }
    one.signal(Signal::SIGTERM);
    assert_eq!(one.wait().code(), Some(128 + 15));
    wait_until("the first one's cgroup", || !sandbox.cgroup().dir("unified").join("one").exists());
    assert!(sandbox.cgroup().dir("unified").join("two").is_dir(), "the other one lives");
    two.signal(Signal::SIGTERM);
    assert_eq!(two.wait().code(), Some(128 + 15));
    sandbox.is_clean();
}

/// A process of the command, as the host numbers it.
fn command_of(sandbox: &Sandbox, name: &str) -> i32 {
    let procs = fs::read_to_string(sandbox.cgroup().dir("unified").join(name).join("cgroup.procs")).expect("processes");
    procs.lines().next_back().and_then(|line| line.parse().ok()).expect("a process")
}
