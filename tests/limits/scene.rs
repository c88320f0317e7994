//! Trees of cgroups with limits, processes in them, and what `limits` says of these.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use testkit::{Programs, Random, TIMEOUT, TestCgroup, hierarchy, run_to_end};

/// The program under test.
pub(crate) fn program() -> &'static str {
    testkit::program(env!("CARGO_BIN_EXE_vcgroupfs"))
}

/// How many trees of each kind are tried.
pub(crate) const TREES: u64 = 6;

/// A branch of cgroups, from below the root of a hierarchy down to the process' own.
pub(crate) struct Branch {
    pub(crate) cgroup: TestCgroup,
    selector: &'static str,
    /// Their paths below the first one; that of the first is empty.
    names: Vec<String>,
}

/// The hierarchy that has a controller: that of v1, or v2 if the host gives the controller to the cgroups below its root.
pub(crate) fn hierarchy_of(controller: &'static str) -> Option<&'static str> {
    if hierarchy(controller).is_some() {
        return Some(controller);
    }
    let unified = hierarchy("unified")?;
    let enabled = fs::read_to_string(unified.mountpoint.join("cgroup.subtree_control")).unwrap_or_default();
    enabled.split_ascii_whitespace().any(|word| word == controller).then_some("unified")
}

/// Returns from the test unless the controller is there. `VCGROUPFS_REQUIRE` is asked for its v1 hierarchy.
macro_rules! require_controller {
    ($controller:literal) => {
        match crate::scene::hierarchy_of($controller) {
            Some(selector) => selector,
            None => {
                testkit::require!(testkit::Need::Hierarchy($controller));
                return;
            }
        }
    };
}
pub(crate) use require_controller;

impl Branch {
    /// Makes this many cgroups, each below the one before.
    pub(crate) fn new(selector: &'static str, controller: &str, depth: usize) -> Self {
        let cgroup = TestCgroup::new(&[selector]);
        let mut branch = Self { cgroup, selector, names: vec![String::new()] };
        // Before Linux 5.11 the limits of a cgroup's memory otherwise don't apply to those below.
        let use_hierarchy = branch.dir(0).join("memory.use_hierarchy");
        if use_hierarchy.exists() {
            fs::write(&use_hierarchy, "1").unwrap_or_else(|error| panic!("{}: {error}", use_hierarchy.display()));
        }
        for number in 1..depth {
            let above = branch.names.last().expect("the first").clone();
            branch.enable(&above, controller);
            let name = Path::new(&above).join(format!("c{number}")).display().to_string();
            branch.cgroup.child(selector, &name);
            branch.names.push(name);
        }
        branch
    }

    fn enable(&self, name: &str, controller: &str) {
        if self.is_v2() {
            let file = self.cgroup.dir(self.selector).join(name).join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}")).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }

    /// Makes a cgroup beside the own one, if that isn't the only one.
    pub(crate) fn sibling(&self) -> Option<PathBuf> {
        let [.., above, _] = self.names.as_slice() else { return None };
        Some(self.cgroup.child(self.selector, &Path::new(above).join("sibling").display().to_string()))
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.selector == "unified"
    }

    pub(crate) fn depth(&self) -> usize {
        self.names.len()
    }

    /// The directory of one of them.
    pub(crate) fn dir(&self, index: usize) -> PathBuf {
        let dir = self.cgroup.dir(self.selector);
        if self.names[index].is_empty() { dir } else { dir.join(&self.names[index]) }
    }

    pub(crate) fn own(&self) -> PathBuf {
        self.dir(self.depth() - 1)
    }

    /// The name that `limits` has for a file of one of them.
    pub(crate) fn name(&self, index: usize, file: &str) -> String {
        let below = if self.names[index].is_empty() { String::new() } else { format!("/{}", self.names[index]) };
        let kind = self.cgroup.hierarchies()[0].selector();
        format!("{kind}:{}{below}/{file}", self.cgroup.path())
    }

    pub(crate) fn set(&self, index: usize, file: &str, value: &str) {
        let path = self.dir(index).join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{value:?} > {}: {error}", path.display()));
    }
}

/// For some of so many cgroups a number from a range, for at least one of them.
pub(crate) fn some_limits(random: &mut Random, count: usize, from: u64, up_to: u64) -> Vec<Option<u64>> {
    let mut limits: Vec<Option<u64>> =
        (0..count).map(|_| random.percent(60).then(|| from + random.next_u64() % (up_to - from))).collect();
    let sure = random.below(count);
    limits[sure] = limits[sure].or(Some(up_to));
    limits
}

/// The least one, and of several the one nearest to the end.
pub(crate) fn tightest(limits: &[Option<u64>]) -> (usize, u64) {
    let all = limits.iter().enumerate().filter_map(|(index, limit)| limit.map(|limit| (index, limit)));
    all.min_by_key(|(index, limit)| (*limit, usize::MAX - index)).expect("one that has a limit")
}

/// A process of the testkit's probe in cgroups, which ends with this value.
pub(crate) struct Consumer(pub(crate) Child);

impl Consumer {
    pub(crate) fn start(cgroups: &[PathBuf], arguments: &[&str]) -> Self {
        let mut command = joining(cgroups, arguments);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a probe");
        let own = child.id();
        let consumer = Self(child);
        // It's there when it has become the command.
        let is_itself = || {
            let line = fs::read(format!("/proc/{own}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.next().is_some_and(|first| first.ends_with(b"vcgroupfs-probe")) && words.all(|word| word != b"--join")
        };
        testkit::wait_until("the probe in its cgroups", is_itself);
        consumer
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Ends its standard input; what it printed until its end.
    pub(crate) fn go(mut self) -> String {
        drop(self.0.stdin.take());
        let mut text = String::new();
        std::io::Read::read_to_string(self.0.stdout.as_mut().expect("a pipe"), &mut text).expect("text");
        text
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn joining(cgroups: &[PathBuf], arguments: &[&str]) -> Command {
    let probe = Programs::find().probe.clone();
    let mut command = Command::new(&probe);
    command.arg("--join").args(cgroups).arg("--").arg(&probe).args(arguments);
    command
}

/// Runs a probe in cgroups to its end.
pub(crate) fn consume(cgroups: &[PathBuf], arguments: &[&str]) -> Output {
    run_to_end(&mut joining(cgroups, arguments), TIMEOUT)
}

/// What `limits --json` says.
pub(crate) fn limits(arguments: &[&str]) -> Value {
    let output = run_to_end(Command::new(program()).args(["limits", "--json"]).args(arguments), TIMEOUT);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), complaint.as_ref()), (Some(0), ""));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The row of a resource.
pub(crate) fn row<'a>(answer: &'a Value, resource: &str) -> &'a Value {
    let rows = answer["limits"].as_array().expect("rows");
    rows.iter().find(|row| row["resource"] == resource).unwrap_or_else(|| panic!("no {resource}: {answer}"))
}

/// How often something happened in a cgroup, by the name of its limit's file.
pub(crate) fn events(row: &Value, event: &str, by: &str) -> u64 {
    let cgroup = by.rsplit_once('/').expect("a file").0;
    let events = row["events"].as_array().expect("events").iter();
    let found = events.filter(|one| one["event"] == event && one["cgroup"] == cgroup);
    found.map(|one| one["count"].as_u64().expect("a number")).sum()
}
