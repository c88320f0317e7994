//! A process that the host migrates out of the delegated subtree stays out, though the container writes its number again and again: as far as the
//! kernel can see to it. What gets through all the same isn't silent. With `nsdelegate`, where it can: tests/vm.

#[cfg(target_arch = "x86_64")]
mod held;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::expulsion::Expulsion;
use testkit::probe::names::*;
use testkit::{Caller, Container, ContainerOptions, Need, Session, TestCgroup, View, ViewOptions, require};

/// One hierarchy of each kind.
const HIERARCHIES: [&str; 3] = ["pids", "name=systemd", "unified"];

/// The message of the server about a process that may have come back.
const TOLD: &str = "may have brought a process back";

/// A container with a view of its cgroup, and a cgroup of the host beside it.
struct Scene {
    container: Container,
    view: View,
    ours: TestCgroup,
    hosts: TestCgroup,
}

impl Scene {
    fn new(selector: &str, host_pids: bool) -> Self {
        let (ours, hosts) = (TestCgroup::new(&[selector]), TestCgroup::new(&[selector]));
        let homes = ours.children("home");
        ours.children("a");
        ours.children("b");
        let options = ViewOptions::new()
            .cgroup(&ours)
            .shape("rooted")
            .policy("delegate")
            .delegate_controllers(if selector == "pids" { &["pids"] } else { &[] });
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        let container = Container::start(ContainerOptions { cgroups: homes, host_pids, ..ContainerOptions::default() });
        Self { container, view, ours, hosts }
    }

    fn session(&self, selector: &str) -> Session {
        let mut session = self.container.session(Caller::Root);
        let hierarchy = testkit::hierarchy(selector).expect("a required hierarchy");
        session.set("CG", self.view.hierarchy(&hierarchy).display());
        session
    }

    fn outside(&self, selector: &str) -> PathBuf {
        self.hosts.dir(selector)
    }

    fn expulsion(&self, selector: &str, list: &'static str, number: &str) -> Expulsion {
        let mut session = self.session(selector);
        session.expect(&spawn("P"));
        Expulsion {
            session,
            between: ["a", "b"],
            list,
            number: number.into(),
            writes: 150,
            boundary: self.ours.dir(selector),
            outside: self.outside(selector),
        }
    }

    /// How often the server has told of a process that may have come back, once it has so often: the kernel may tell it later than the write
    /// is over, and what it tells is written aside.
    fn told(&self, expected: usize) -> usize {
        let told = |log: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(TOLD)).count();
        told(&self.view.log_once(|log| told(log) >= expected))
    }
}

/// Before Linux 4.20 the kernel watches mounts alone: then it's the host's own mount, which isn't the server's.
#[test]
fn the_hosts_mount_is_watched_where_filesystems_cannot_be() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Program("strace"));
    let scene = Scene::new("pids", false);
    let server = scene.view.server().to_string();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let log = folder.path().join("log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-e", "trace=fanotify_mark", "-e", "inject=fanotify_mark:error=EINVAL:when=1"]);
    let mut strace = strace.arg("-o").arg(&log).args(["-p", &server]).spawn().expect("strace");
    let is_traced = || {
        let tasks = fs::read_dir(format!("/proc/{server}/task")).expect("the server's threads").flatten();
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
        tasks.map(status).all(|status| !status.contains("TracerPid:\t0\n"))
    };
    testkit::wait_until("strace traces the server", is_traced);
    let mut session = scene.session("pids");
    session.expect(&spawn("P"));
    session.expect(&write_file("$CG/a/cgroup.procs", "$P"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(strace.id().cast_signed()), nix::sys::signal::SIGINT)
        .expect("a signal");
    strace.wait().expect("its end");
    let calls = fs::read_to_string(&log).expect("what was traced");
    let point = format!("<{}>", testkit::hierarchy("pids").expect("required").mountpoint.display());
    let is_watched = |call: &str| call.contains("FAN_MARK_MOUNT,") && call.contains(&point) && call.ends_with("= 0");
    assert!(calls.lines().any(is_watched), "{calls}");
}

/// No process comes back without a message, whatever the container writes.
#[test]
fn every_process_that_comes_back_is_logged() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("unified")
    );
    let mut silent = Vec::new();
    for selector in HIERARCHIES {
        for (host_pids, list, number) in [
            (false, "cgroup.procs", "$P"),
            (true, "cgroup.procs", "$P"),
            (false, "cgroup.procs", "0"),
            (false, "tasks", "$P"),
        ] {
            if list == "tasks" && selector == "unified" {
                continue;
            }
            let scene = Scene::new(selector, host_pids);
            let back = scene.expulsion(selector, list, number).count(40);
            let told = scene.told(back);
            eprintln!("{selector}, {list}, {number}, host's pids {host_pids}: {back} of 40 came back, {told} warnings");
            if told < back {
                silent.push((selector, host_pids, list, number, back, told));
            }
        }
    }
    assert!(silent.is_empty(), "came back in silence: {silent:?}");
}
