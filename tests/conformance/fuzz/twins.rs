//! Two cgroups in equal states: one is seen by the kernel's cgroupfs, the other by a view.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use testkit::probe::{Op, Outcome};
use testkit::{Caller, Container, ContainerOptions, OWNER, Programs, Session, TIMEOUT, TestCgroup, View, run_to_end};

use super::generate::Setting;
use crate::case::Where;
use crate::run::give;

/// How long the removal of a sequence's cgroups may take.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(20);

/// Numbers of processes in a container begin behind this one, so that they have equally many digits.
const FIRST_NUMBER: &str = "20000";

/// One of the two subjects. The fields are dropped in their order.
pub(super) struct Twin {
    session: Session,
    /// The probe's number for itself.
    probe: String,
    /// The number of its thread, in this sequence.
    thread: Option<String>,
    _container: Option<Container>,
    view: Option<View>,
    /// The cgroup's directory for the probe.
    path: PathBuf,
    /// The cgroup's directory on the host.
    backing: PathBuf,
    cgroup: TestCgroup,
}

impl Twin {
    /// `mount` makes the view, if there is to be one, and says where the cgroup is then.
    pub(super) fn new(setting: Setting, mount: impl FnOnce(&TestCgroup) -> Option<(View, PathBuf)>) -> Self {
        let selector = setting.place.selector();
        let cgroup = TestCgroup::new(&[selector]);
        let backing = cgroup.dir(selector);
        if setting.place == Where::V2 {
            let available = fs::read_to_string(backing.join("cgroup.controllers")).expect("cgroup.controllers");
            for controller in available.split_whitespace() {
                let line = format!("+{controller}");
                fs::write(backing.join("cgroup.subtree_control"), line).expect("cgroup.subtree_control");
            }
        }
        if setting.place == Where::Cpuset {
            // What is made can hold processes: it inherits CPUs and nodes.
            fs::write(backing.join("cgroup.clone_children"), "1").expect("cgroup.clone_children");
        }
        let home = cgroup.child(selector, "home");
        if setting.caller == Caller::Owner {
            give(&backing, OWNER);
            give(&home, OWNER);
        }
        let mounted = mount(&cgroup);
        let (view, path) = mounted.map_or((None, backing.clone()), |(view, path)| (Some(view), path));
        let (container, mut session) = start(setting, home);
        let line = session.expect(&Op::ReadFile { path: "/proc/self/stat".into() });
        let probe = line.as_str().and_then(|line| line.split(' ').next()).expect("the probe's number").to_string();
        Self { session, probe, thread: None, _container: container, view, path, backing, cgroup }
    }

    /// The latest lines of the log of its view's server.
    pub(super) fn log(&self) -> String {
        let log = self.view.as_ref().map(View::log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n    ")
    }

    /// The path of the cgroup in its hierarchy.
    pub(super) fn top(&self) -> String {
        self.cgroup.path()
    }

    /// The names of the numbers of the probe and its thread.
    pub(super) fn numbers(&self) -> HashMap<String, String> {
        let thread = self.thread.iter().map(|number| (number.clone(), "T0".to_string()));
        thread.chain([(self.probe.clone(), "PID".to_string())]).collect()
    }

    /// Has the probe begin a sequence, in a cgroup that doesn't exist yet.
    pub(super) fn begin(&mut self, name: &str, ops: &[Op]) {
        let set = |name: &str, value: &Path| (name.to_string(), value.display().to_string());
        let mut variables = vec![
            set("HOME", &self.path.join("home")),
            set("CG", &self.path.join(name)),
            set("REAL", &self.backing.join(name)),
        ];
        for unset in ["C0", "C1", "T0", "FDF0", "FDF1", "FDF2", "FDF3", "FDD0", "FDD1"] {
            variables.push((unset.into(), "none".into()));
        }
        self.session.expect(&Op::Reset { set: variables });
        let has_thread = ops.iter().any(|op| matches!(op, Op::On { .. }));
        self.thread = has_thread.then(|| self.session.expect(&Op::Thread { name: "T0".into() }).to_string());
        self.session.begin(ops);
    }

    /// The outcomes; then nothing is left of the sequence.
    pub(super) fn finish(&mut self, name: &str, ops: &[Op]) -> Vec<Outcome> {
        let outcomes = self.session.finish(ops);
        for top in [name, "a"] {
            thaw(&self.backing.join(top));
        }
        self.session.expect(&Op::Reset { set: Vec::new() });
        for top in [name, "a"] {
            let dir = self.backing.join(top);
            remove(&dir, &self.backing.join("home/cgroup.procs"))
                .unwrap_or_else(|error| panic!("can't remove {}: {error}", dir.display()));
        }
        outcomes
    }
}

fn start(setting: Setting, home: PathBuf) -> (Option<Container>, Session) {
    let (container, mut session) = if setting.pid_namespace {
        let container = Container::start(ContainerOptions { cgroups: vec![home], ..ContainerOptions::default() });
        let script = format!("echo {FIRST_NUMBER} > /proc/sys/kernel/ns_last_pid");
        let output = run_to_end(container.command(Caller::Root).args(["sh", "-c", &script]), TIMEOUT);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        let session = container.session(setting.caller);
        (Some(container), session)
    } else {
        let probe = &Programs::find().probe;
        (None, Session::start(Command::new(probe).arg("--join").arg(home).arg("--").arg(probe)))
    };
    if setting.pid_namespace {
        session.expect(&Op::Spawn { name: "DEAD".into(), uid: None });
        session.expect(&Op::Kill { name: "DEAD".into() });
    } else {
        // The number of a process that ended could be somebody's on the host.
        session.set("DEAD", i32::MAX);
    }
    (container, session)
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Writes to a file that needn't exist.
fn try_write(path: &Path, value: &str) {
    // `fs::write` would create it.
    let file = fs::OpenOptions::new().write(true).open(path);
    let _ = file.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
}

fn thaw(dir: &Path) {
    try_write(&dir.join("freezer.state"), "THAWED");
    try_write(&dir.join("cgroup.freeze"), "0");
    for below in directories(dir) {
        thaw(&below);
    }
}

/// Removes a cgroup with everything below; its processes go to another one.
fn remove(dir: &Path, home: &Path) -> io::Result<()> {
    let end = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < end => {}
            other => return other,
        }
        for below in directories(dir) {
            remove(&below, home)?;
        }
        for list in ["tasks", "cgroup.threads"] {
            for number in fs::read_to_string(dir.join(list)).unwrap_or_default().lines() {
                try_write(home, number);
            }
        }
    }
}
