//! `mount` and `umount`: live when it returns, gone when it ends, whoever ends it.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Need, ViewProcesses, require};

use crate::support::{Running, Sandbox, is_mounted, said, wait_until};

/// The entry of `list` for the view on a directory.
fn listed(sandbox: &Sandbox, directory: &Path) -> Option<serde_json::Value> {
    let views = sandbox.vcgroupfs(&["list", "--json"]).json();
    let views = views.as_array().expect("a list").clone();
    views.into_iter().find(|view| view["directory"].as_str() == directory.to_str())
}

fn processes_of(sandbox: &Sandbox, directory: &Path) -> ViewProcesses {
    ViewProcesses::of_listed(&listed(sandbox, directory).expect("a live view"))
}

fn server_of(sandbox: &Sandbox, directory: &Path) -> i32 {
    processes_of(sandbox, directory).server.as_raw()
}

/// The process that the command has become, or has left in the background: the keeper, or the server where there's none.
fn first_of(sandbox: &Sandbox, directory: &Path) -> i32 {
    let processes = processes_of(sandbox, directory);
    processes.keeper.unwrap_or(processes.server).as_raw()
}

/// A view in the background.
fn mounted(sandbox: &Sandbox) -> std::path::PathBuf {
    let directory = sandbox.directory("view");
    let said = sandbox.vcgroupfs(&["mount", "--cgroup", &sandbox.path(), directory.to_str().expect("a path")]);
    assert_eq!(said.ok(), "", "it says nothing");
    directory
}

#[test]
fn the_view_is_live_when_mount_returns() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for _ in 0..5 {
        let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
        let directory = mounted(&sandbox);
        assert!(is_mounted(&directory));
        assert!(directory.join("unified").join(&sandbox.mark).join("cgroup.procs").is_file());
        let server = server_of(&sandbox, &directory);
        assert!(sandbox.processes().contains(&server));
        sandbox.vcgroupfs(&["umount", directory.to_str().expect("a path")]).ok();
        assert!(!is_mounted(&directory) && listed(&sandbox, &directory).is_none());
        sandbox.is_clean();
    }
}

#[test]
fn the_foreground_ends_by_a_signal_and_takes_the_mount_along() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let sandbox = Sandbox::with_cgroup(&["unified"]);
        let directory = sandbox.directory("view");
        let name = directory.to_str().expect("a path");
        let mut server = Running::start(&mut sandbox.command(&["mount", "-f", "--cgroup", &sandbox.path(), name]));
        wait_until("the view", || listed(&sandbox, &directory).is_some());
        wait_until("an answer", || directory.join("unified").is_dir());
        assert_eq!(first_of(&sandbox, &directory), server.child.id().cast_signed(), "it stays in the foreground");
        // In use, it goes nevertheless.
        let _held = fs::File::open(&directory).expect("the view's root");
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        assert!(!is_mounted(&directory), "{signal}");
        sandbox.is_clean();
    }
}

#[test]
fn umount_ends_the_foreground() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let directory = sandbox.directory("view");
    let name = directory.to_str().expect("a path");
    let mut server =
        Running::start(&mut sandbox.command(&["mount", "--foreground", "--cgroup", &sandbox.path(), name]));
    wait_until("the view", || listed(&sandbox, &directory).is_some() && is_mounted(&directory));
    sandbox.vcgroupfs(&["umount", name]).ok();
    assert_eq!(server.wait().code(), Some(0));
    sandbox.is_clean();
}

#[test]
fn the_background_has_no_terminal() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let directory = sandbox.directory("view");
    let name = directory.to_str().expect("a path");
    // A terminal of its own, which hangs up when setsid's command has ended and the master is closed.
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let mut command = sandbox.command_of("setsid");
    command.args(["--ctty", "--wait"]).arg(crate::support::program());
    command.args(["mount", "--cgroup", &sandbox.path(), name]);
    command.stdin(pty.slave.try_clone().expect("the slave")).stdout(pty.slave.try_clone().expect("the slave"));
    let status = command.stderr(pty.slave).spawn().expect("setsid").wait().expect("its end");
    drop(command);
    assert!(status.success(), "{status}");
    let (server, session) = (server_of(&sandbox, &directory), first_of(&sandbox, &directory).to_string());
    let stat = fs::read_to_string(format!("/proc/{server}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    // State, ppid, pgrp, session, tty_nr.
    assert_eq!((fields[3], fields[4]), (session.as_str(), "0"), "a session without a terminal: {stat}");
    drop(pty.master);
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{server}/fd/{fd}")).expect("a descriptor");
        assert_eq!(target, Path::new("/dev/null"), "descriptor {fd}");
    }
    assert_eq!(fs::read_link(format!("/proc/{server}/cwd")).expect("cwd"), Path::new("/"));
    assert!(directory.join("unified").join(&sandbox.mark).is_dir(), "it still answers");
    sandbox.vcgroupfs(&["umount", name]).ok();
    sandbox.is_clean();
}

#[test]
fn a_signal_ends_the_background() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let directory = mounted(&sandbox);
    kill(Pid::from_raw(server_of(&sandbox, &directory)), Signal::SIGTERM).expect("a signal");
    sandbox.is_clean();
    assert!(!is_mounted(&directory));
}

#[test]
fn a_killed_server_can_be_unmounted() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let directory = mounted(&sandbox);
    let name = directory.to_str().expect("a path");
    processes_of(&sandbox, &directory).kill_to_the_end();
    wait_until("the end of all that it has", || sandbox.processes().is_empty());
    assert!(is_mounted(&directory) && fs::metadata(&directory).is_err());
    assert_eq!(listed(&sandbox, &directory).expect("it's still mounted")["state"], "failed");
    sandbox.vcgroupfs(&["umount", name]).ok();
    sandbox.is_clean();
    sandbox.vcgroupfs(&["mount", "--cgroup", &sandbox.path(), name]).ok();
    assert!(directory.join("unified").is_dir(), "and mounted again");
    sandbox.vcgroupfs(&["umount", name]).ok();
    sandbox.is_clean();
}

/// Nothing that the keeper leaves keeps the view from ending.
#[test]
fn a_view_whose_keeper_was_killed_ends_as_usual() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    for by_signal in [false, true] {
        let sandbox = Sandbox::with_cgroup(&["unified"]);
        let directory = mounted(&sandbox);
        let ViewProcesses { keeper, server } = processes_of(&sandbox, &directory);
        // Some kernels have none.
        let Some(keeper) = keeper else { return };
        kill(keeper, Signal::SIGKILL).expect("a signal");
        wait_until("the keeper's end", || !sandbox.processes().contains(&keeper.as_raw()));
        assert!(directory.join("unified").is_dir(), "it still answers");
        if by_signal {
            kill(server, Signal::SIGTERM).expect("a signal");
        } else {
            sandbox.vcgroupfs(&["umount", directory.to_str().expect("a path")]).ok();
        }
        wait_until("the end of all that it has", || {
            sandbox.processes().is_empty() && listed(&sandbox, &directory).is_none()
        });
        assert!(!is_mounted(&directory));
        sandbox.is_clean();
    }
}

#[test]
fn a_view_in_use_stays() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let directory = mounted(&sandbox);
    let name = directory.to_str().expect("a path");
    let held = fs::File::open(directory.join("unified").join(&sandbox.mark).join("cgroup.procs")).expect("a file");
    let line = sandbox.vcgroupfs(&["umount", name]).fails(1);
    assert!(line.contains("in use") && line.contains("fuser -vm"), "{line}");
    assert!(directory.join("unified").is_dir() && listed(&sandbox, &directory).is_some(), "it's still live");
    drop(held);
    sandbox.vcgroupfs(&["umount", name]).ok();
    sandbox.is_clean();
}

#[test]
fn a_view_is_not_mounted_over() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let directory = mounted(&sandbox);
    let name = directory.to_str().expect("a path");
    for path in [name.to_owned(), format!("{name}/"), format!("{name}/."), format!("{name}/../view")] {
        for foreground in [&[][..], &["-f"]] {
            let cgroup = sandbox.path();
            let arguments = [&["mount", "--cgroup", &cgroup], foreground, &[path.as_str()]].concat();
            let line = sandbox.vcgroupfs(&arguments).fails(1);
            assert!(line.contains("already a view"), "{path}: {line}");
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert_eq!(mounts.lines().filter(|line| line.contains(name)).count(), 1);
    sandbox.vcgroupfs(&["umount", &format!("{name}/../view/")]).ok();
    sandbox.is_clean();
}

#[test]
fn directories_may_have_any_name() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    fs::create_dir(sandbox.file("new\nline and space")).expect("a directory");
    std::os::unix::fs::symlink("new\nline and space", sandbox.file("link")).expect("a symlink");
    let base = sandbox.file("").display().to_string();
    for name in ["new\nline and space", "./new\nline and space", "link"] {
        let mut mount = Command::new(crate::support::program());
        mount.current_dir(&base).env("VCGROUPFS_TEST_MARK", &sandbox.mark).args(["mount", "--cgroup", &path, name]);
        said(&mut mount).ok();
        assert!(sandbox.file("new\nline and space/unified").is_dir());
        let mut umount = Command::new(crate::support::program());
        said(umount.current_dir(&base).args(["umount", name])).ok();
        assert!(!sandbox.file("link/unified").exists());
    }
    sandbox.is_clean();
}

/// A mount for all callers takes no option that chooses a container or a shape.
#[test]
fn a_per_caller_mount_takes_no_target() {
    require!(Need::Root, Need::Fuse);
    let sandbox = Sandbox::new();
    let directory = sandbox.directory("view");
    let name = directory.to_str().expect("a path");
    for option in
        [["--pid", "1"], ["--cgroup", "/x"], ["--shape", "host-path"], ["--alias", "docker"], ["--place", "x"]]
    {
        let said = sandbox.vcgroupfs(&["mount", "--per-caller", option[0], option[1], name]).fails(2);
        assert!(said.contains(option[0]), "{said}");
    }
    let unknown = ["mount", "--per-caller", "--policy", "delegate", "--delegate-controllers", "nothing", name];
    let said = sandbox.vcgroupfs(&unknown);
    assert!(said.code == 0 && said.stderr.contains("nothing has no effect"), "{}", said.stderr);
    sandbox.vcgroupfs(&["umount", name]).ok();
    assert!(!is_mounted(&directory));
    assert_eq!(sandbox.vcgroupfs(&["mount", "--per-caller", name]).ok(), "");
    assert!(is_mounted(&directory));
    let view = listed(&sandbox, &directory).expect("a live view");
    assert_eq!((&view["per_caller"], &view["delegated"]), (&true.into(), &serde_json::json!({})));
    assert!(sandbox.vcgroupfs(&["list"]).ok().contains("each caller's container"));
    sandbox.vcgroupfs(&["mount", "--per-caller", name]).fails(1);
    sandbox.vcgroupfs(&["umount", name]).ok();
    assert!(!is_mounted(&directory) && listed(&sandbox, &directory).is_none());
    sandbox.is_clean();
}

/// Removes how much is hidden from a tree: other tests' cgroups come and go.
fn forget_counts(tree: &mut serde_json::Value) {
    match tree {
        serde_json::Value::Object(fields) => {
            fields.remove("hidden");
            fields.values_mut().for_each(forget_counts);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(forget_counts),
        _ => {}
    }
}

/// If a server can't have its own mounts of the hierarchies, it doesn't serve. Questions are answered all the same.
#[test]
fn a_server_uses_mounts_of_its_own() {
    require!(Need::Root, Need::Fuse, Need::Program("strace"), Need::LegacySyscalls);
    let sandbox = Sandbox::everywhere();
    let (path, directory) = (sandbox.path(), sandbox.directory("view"));
    let name = directory.to_str().expect("a path");
    let without = |arguments: &[&str]| {
        let mut command = sandbox.command_of("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=mount", "-e", "inject=mount:error=ENOSPC", "-P"]);
        command.arg(&testkit::hierarchies()[0].mountpoint);
        command.arg(&testkit::Programs::find().legacy).arg(crate::support::program());
        said(command.args(arguments))
    };
    for foreground in [&[][..], &["-f"]] {
        let refused = without(&[&["mount", "--cgroup", &path], foreground, &[name]].concat()).fails(1);
        assert!(refused.contains("user.max_mnt_namespaces"), "{refused}");
        assert!(!is_mounted(&directory));
    }
    let [mut shown, mut expected] =
        [without(&["tree", "--cgroup", &path, "--json"]), sandbox.vcgroupfs(&["tree", "--cgroup", &path, "--json"])]
            .map(|said| said.json());
    forget_counts(&mut shown);
    forget_counts(&mut expected);
    assert_eq!(shown, expected);
    sandbox.is_clean();
}

/// A directory is a TARGET: `detach` unmounts its view, `doctor` examines the process for which it was mounted.
#[test]
fn a_directory_is_a_target_of_detach_and_doctor() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
    let directory = mounted(&sandbox);
    let name = directory.to_str().expect("a path");
    let line = sandbox.vcgroupfs(&["doctor", name]).fails(1);
    assert!(line.contains("mounted for cgroups, without --pid; name a process or a container"), "{line}");
    assert_eq!(sandbox.vcgroupfs(&["detach", name]).ok(), "");
    assert!(!is_mounted(&directory) && listed(&sandbox, &directory).is_none());
    let line = sandbox.vcgroupfs(&["doctor", name]).fails(1);
    assert!(line.contains("no live view is mounted on"), "{line}");

    let mut sleeper = Running::start(sandbox.command_of("sleep").arg("1000"));
    let pid = sleeper.child.id();
    for hierarchy in sandbox.cgroup().hierarchies() {
        let procs = hierarchy.mountpoint.join(&sandbox.mark).join("cgroup.procs");
        fs::write(procs, pid.to_string()).expect("a migration");
    }
    sandbox.vcgroupfs(&["mount", "--pid", &pid.to_string(), name]).ok();
    let answer = sandbox.vcgroupfs(&["doctor", "--json", name]).json();
    assert_eq!(answer["pid"].as_u64(), Some(u64::from(pid)), "{answer}");
    sleeper.child.kill().expect("its end");
    sleeper.child.wait().expect("its end");
    let line = sandbox.vcgroupfs(&["doctor", name]).fails(1);
    assert!(line.contains(&format!("the process {pid}, for which the view on {name} was mounted, isn't")), "{line}");
    // A dead view, too.
    processes_of(&sandbox, &directory).kill_to_the_end();
    assert_eq!(listed(&sandbox, &directory).expect("it's still mounted")["state"], "failed");
    sandbox.vcgroupfs(&["detach", name]).ok();
    assert!(!is_mounted(&directory));
    sandbox.is_clean();
}
