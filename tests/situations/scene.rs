//! A container with cgroups of its own, and the commands that the program prints about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Caller, Container, ContainerOptions, TIMEOUT, TestCgroup, ViewProcesses, hierarchies, run_to_end};

/// The most lines and columns of a summary.
const SCREEN: (usize, usize) = (25, 100);

/// A container in `/vcgroupfs-test-.../home` of each hierarchy.
pub(crate) struct Scene {
    // The container ends before its cgroups are removed.
    pub(crate) container: Container,
    pub(crate) cgroup: TestCgroup,
}

/// A command that the program has printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Printed {
    is_for_container: bool,
    pub(crate) command: String,
}

pub(crate) fn selectors() -> Vec<String> {
    hierarchies().iter().map(testkit::Hierarchy::selector).collect()
}

pub(crate) fn said(command: &mut Command) -> (i32, String, String) {
    let output = run_to_end(command, TIMEOUT);
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {:?}", output.status));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (code, text(&output.stdout), text(&output.stderr))
}

impl Scene {
    pub(crate) fn new() -> Self {
        let selectors = selectors();
        let cgroup = TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>());
        let cgroups = cgroup.children("home");
        let container = Container::start(ContainerOptions { cgroups, ..ContainerOptions::default() });
        Self { container, cgroup }
    }

    /// A container in the root of each hierarchy.
    pub(crate) fn in_roots() -> Self {
        let scene = Self { container: Container::start(ContainerOptions::default()), cgroup: TestCgroup::new(&[]) };
        hierarchies().iter().for_each(|hierarchy| scene.migrate(&hierarchy.mountpoint));
        scene
    }

    pub(crate) fn attached() -> Self {
        let scene = Self::new();
        scene.program(&["attach", &scene.pid()]);
        scene
    }

    pub(crate) fn pid(&self) -> String {
        self.container.init().to_string()
    }

    /// The path of its cgroup.
    pub(crate) fn home(&self) -> String {
        format!("{}/home", self.cgroup.path())
    }

    /// The host's directory of a cgroup beside or at its own.
    pub(crate) fn dir(&self, selector: &str, name: &str) -> PathBuf {
        self.cgroup.dir(selector).join(name)
    }

    /// Migrates its process 1.
    pub(crate) fn migrate(&self, cgroup: &Path) {
        let migrated = fs::write(cgroup.join("cgroup.procs"), self.pid());
        migrated.unwrap_or_else(|error| panic!("{}: {error}", cgroup.display()));
    }

    /// Migrates all processes of one of its cgroups into another one: process 1, and what has started that.
    pub(crate) fn migrate_all(&self, selector: &str, from: &str, to: &str) {
        let list = |name: &str| self.dir(selector, name).join("cgroup.procs");
        for pid in fs::read_to_string(list(from)).expect("members").lines() {
            fs::write(list(to), pid).unwrap_or_else(|error| panic!("{pid} to {to} of {selector}: {error}"));
        }
    }

    /// Migrates all its processes in every hierarchy.
    pub(crate) fn migrate_everywhere(&self, from: &str, to: &str) {
        selectors().iter().for_each(|selector| self.migrate_all(selector, from, to));
    }

    /// Removes this cgroup in every hierarchy.
    pub(crate) fn remove_everywhere(&self, name: &str) {
        for selector in selectors() {
            let dir = self.dir(&selector, name);
            let removed = || fs::remove_dir(&dir).is_ok();
            testkit::wait_until(&format!("the end of {}", dir.display()), removed);
        }
    }

    /// Removes its cgroup in every hierarchy, and makes it again.
    pub(crate) fn make_again(&self) {
        self.cgroup.children("other");
        self.migrate_everywhere("home", "other");
        self.remove_everywhere("home");
        self.cgroup.children("home");
        self.migrate_everywhere("other", "home");
    }

    /// Runs the program, which succeeds.
    #[track_caller]
    pub(crate) fn program(&self, words: &[&str]) -> String {
        let (code, stdout, stderr) = said(Command::new(program()).args(words));
        assert_eq!(code, 0, "{words:?}: {stdout}{stderr}");
        stdout
    }

    /// The summary of `doctor`, which fits a screen.
    #[track_caller]
    pub(crate) fn doctor(&self) -> String {
        let text = self.program(&["doctor", &self.pid()]);
        assert!(text.lines().count() <= SCREEN.0, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= SCREEN.1), "{text}");
        text
    }

    #[track_caller]
    pub(crate) fn explain(&self, options: &[&str], words: &[&str]) -> String {
        self.program(&[&["explain"], options, &[&self.pid()], words].concat())
    }

    /// Runs a script as root of the container.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) {
        let (code, stdout, stderr) = said(self.container.command(Caller::Root).args(["sh", "-ec", script]));
        assert_eq!(code, 0, "{script}: {stdout}{stderr}");
    }

    /// Whether a user of the container can do this.
    pub(crate) fn can(&self, caller: Caller, script: &str) -> bool {
        said(self.container.command(caller).args(["sh", "-ec", script])).0 == 0
    }

    /// Types commands as they were printed.
    #[track_caller]
    /// Types commands that are about this container. On the host others may be printed, too.
    pub(crate) fn type_all(&self, commands: &[Printed]) {
        let folder = Path::new(program()).parent().expect("a folder").display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").expect("a path"));
        let is_ours = |command: &str| [self.pid(), self.cgroup.path()].iter().any(|own| command.contains(own));
        let commands = commands.iter().filter(|printed| printed.is_for_container || is_ours(&printed.command));
        for Printed { is_for_container, command } in commands {
            let mut shell = if *is_for_container { self.container.command(Caller::Root) } else { Command::new("env") };
            let (code, stdout, stderr) = said(shell.args(["sh", "-c", command]).env("PATH", &path));
            assert_eq!(code, 0, "{command}: {stdout}{stderr}");
        }
    }

    pub(crate) fn view_processes(&self) -> ViewProcesses {
        let list = self.program(&["list", "--json"]);
        let views: Vec<serde_json::Value> = serde_json::from_str(&list).expect("a list");
        let is_its = |view: &&serde_json::Value| view["container"].as_u64() == Some(self.container.init().into());
        ViewProcesses::of_listed(views.iter().find(is_its).expect("its view"))
    }
}

/// A view that is left ends with its container, but its server would outlive the test for a moment.
impl Drop for Scene {
    fn drop(&mut self) {
        let _ = run_to_end(Command::new(program()).args(["detach", &self.pid()]), TIMEOUT);
    }
}

/// The commands in a text, in their order.
#[track_caller]
pub(crate) fn printed(text: &str) -> Vec<Printed> {
    let mut found: Vec<Printed> = Vec::new();
    for line in text.lines() {
        if let Some(last) = found.last_mut().filter(|last| last.command.ends_with('\\')) {
            last.command.push('\n');
            last.command.push_str(line);
            continue;
        }
        let line = line.strip_prefix("remedy").unwrap_or(line).trim_start();
        let labels = [("run: ", false), ("run in the container: ", true)];
        found.extend(labels.into_iter().find_map(|(label, is_for_container)| {
            Some(Printed { is_for_container, command: line.strip_prefix(label)?.to_owned() })
        }));
    }
    assert!(!found.is_empty(), "no command: {text}");
    found
}

/// A text without the breaks and the indentation of lines.
pub(crate) fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(crate) fn program() -> &'static str {
    testkit::program(env!("CARGO_BIN_EXE_vcgroupfs"))
}
