//! The unit is restarted, and its processes are killed, while a container has its mount: the service manager keeps that.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::probe::Outcome;
use testkit::probe::names::{close, mkdir, open, pread, read_file, readdir, rmdir};
use testkit::{Caller, Container, ContainerOptions, Need, Session, TestCgroup, hierarchy, require};

use crate::program;

/// What an operation may take while there's no server.
const OPERATION_MAX: Duration = Duration::from_secs(5);

/// A service manager that runs the unit's main process.
struct Manager {
    process: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
}

impl Manager {
    fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = folder.path().join("cgroup");
        fs::create_dir(&directory).expect("a mount point");
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dist/manager.py")).arg(folder.path().join("notify"));
        command.arg(program()).arg("mount").args(options).arg("-f").arg(&directory);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a service manager");
        let (orders, said) = (process.stdin.take().expect("a pipe"), process.stdout.take().expect("a pipe"));
        let mut manager = Self { process, orders, said: BufReader::new(said), folder };
        manager.until("message", "READY=1");
        manager
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("cgroup")
    }

    /// Reads what it says up to this.
    fn until(&mut self, field: &str, value: &str) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.said.read_line(&mut line).expect("a line"), 0, "it has ended before {field} {value}");
            let said: Value = serde_json::from_str(&line).expect("JSON");
            let found = said[field].as_str().map_or_else(|| said[field].to_string(), str::to_owned);
            if !said[field].is_null() && (value.is_empty() || found == value) {
                return said;
            }
        }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("an order");
    }

    /// Gives an order, and waits until the next main process answers.
    fn again(&mut self, order: &str) -> Value {
        self.order(order);
        let ended = self.until("ended", "");
        self.until("message", "READY=1");
        ended
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.order("stop");
        let _ = self.process.wait();
    }
}

/// A caller in a container that has the mount bound, and whose cgroup there is `$OWN`.
fn bound(manager: &Manager, cgroup: &TestCgroup) -> (Container, Session) {
    let container = Container::start(ContainerOptions {
        cgroups: vec![cgroup.child("unified", "box")],
        prepare: format!("mount --bind {} /sys/fs/cgroup", manager.directory().display()),
        ..ContainerOptions::default()
    });
    let mut session = container.session(Caller::Root);
    let top = hierarchy("unified").expect("cgroup2").in_view(Path::new("/sys/fs/cgroup"));
    session.set("OWN", top.join(cgroup.name()).join("box").display());
    (container, session)
}

#[track_caller]
fn quickly<T>(action: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = action();
    assert!(begin.elapsed() < OPERATION_MAX, "{:?}", begin.elapsed());
    done
}

fn listed(directory: &Path) -> Vec<Value> {
    let output = Command::new(program()).args(["list", "--json"]).output().expect("the list");
    let views: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let here = |view: &&Value| view["directory"].as_str() == directory.to_str();
    views.as_array().expect("views").iter().filter(here).cloned().collect()
}

#[test]
fn a_restart_keeps_what_a_container_has_open() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::ResentRequests, Need::Program("python3"));
    let mut manager = Manager::start(&["--per-caller"]);
    let cgroup = TestCgroup::new(&["unified"]);
    let (_container, mut session) = bound(&manager, &cgroup);
    session.expect(&open("list", "$OWN/cgroup.procs", &["O_RDONLY"]));
    for _ in 0..3 {
        let ended = manager.again("restart");
        assert_eq!(ended["ended"], 75);
        quickly(|| session.expect(&pread("list", 100, 0)));
        session.expect(&mkdir("$OWN/made"));
        session.expect(&rmdir("$OWN/made"));
        let views = listed(&manager.directory());
        assert!(views.len() == 1 && views[0]["state"] == "live", "{views:?}");
    }
}

#[test]
fn a_container_goes_on_after_all_processes_were_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::ResentRequests, Need::Program("python3"));
    let mut manager = Manager::start(&["--per-caller"]);
    let cgroup = TestCgroup::new(&["unified"]);
    let (_container, mut session) = bound(&manager, &cgroup);
    for _ in 0..3 {
        session.expect(&mkdir("$OWN/made"));
        session.expect(&open("list", "$OWN/cgroup.procs", &["O_RDONLY"]));
        let ended = manager.again("crash");
        assert_eq!(ended["ended"], -9);
        // Its descriptor has gone with the processes, but the kernel may read it by itself.
        let held = quickly(|| session.run(&pread("list", 100, 0)));
        let is_gone = matches!(&held, Outcome::Err { errno, .. } if errno == "EBADF" || errno == "EIO");
        assert!(held.is_ok() || is_gone, "{held:?}");
        session.expect(&close("list"));
        quickly(|| session.expect(&read_file("$OWN/made/cgroup.procs")));
        session.expect(&rmdir("$OWN/made"));
        assert!(fs::read_dir(manager.directory()).expect("the mount").count() > 0);
    }
}

/// Nobody waits for a view that is kept and not wanted any more.
#[test]
fn a_view_with_other_options_is_another_one() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::ResentRequests, Need::Program("python3"));
    let mut manager = Manager::start(&["--per-caller"]);
    let cgroup = TestCgroup::new(&["unified"]);
    let (_container, mut session) = bound(&manager, &cgroup);
    session.expect(&readdir("/sys/fs/cgroup"));
    assert_eq!(manager.again("restart --hide-ancestor-limits")["ended"], 75);
    assert!(quickly(|| fs::read_dir(manager.directory()).expect("the mount").count()) > 0);
    let gone = quickly(|| session.run(&readdir("/sys/fs/cgroup")));
    assert!(matches!(&gone, Outcome::Err { errno, .. } if errno == "ENOTCONN"), "{gone:?}");
    let views = listed(&manager.directory());
    assert!(views.len() == 1 && views[0]["hides_ancestor_limits"] == true, "{views:?}");
}

#[test]
fn a_view_of_one_container_is_kept_too() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::ResentRequests, Need::Program("python3"));
    let cgroup = TestCgroup::new(&["unified"]);
    let option = format!("unified={}", cgroup.path());
    let mut manager = Manager::start(&["--shape", "rooted", "--cgroup", &option]);
    let top = hierarchy("unified").expect("cgroup2").in_view(&manager.directory());
    let held = File::open(top.join("cgroup.procs")).expect("a list");
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            for _ in 0..400 {
                let begin = Instant::now();
                held.read_at(&mut [0; 64], 0).expect("a file that was open");
                fs::read(top.join("cgroup.controllers")).expect("a file");
                longest = longest.max(begin.elapsed());
                thread::sleep(Duration::from_millis(5));
            }
            longest
        });
        for _ in 0..3 {
            assert_eq!(manager.again("restart")["ended"], 75);
        }
        assert!(reader.join().expect("no failure") < OPERATION_MAX);
    });
    drop(held);
    manager.again("crash");
    fs::create_dir(top.join("made")).expect("mkdir");
    fs::remove_dir(top.join("made")).expect("rmdir");
}
