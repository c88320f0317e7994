//! A view that is upgraded.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::Pid;
use serde_json::Value;
use testkit::{NEXT_COMMIT, TIMEOUT, TestCgroup, View, ViewOptions, next_version, run_to_end, wait_for, wait_until};

/// The program under test.
pub(crate) fn program() -> &'static Path {
    Path::new(testkit::program(env!("CARGO_BIN_EXE_vcgroupfs")))
}

/// The options of all views here: rooted at a cgroup.
pub(crate) fn options(cgroup: &TestCgroup) -> ViewOptions {
    ViewOptions::new().cgroup(cgroup).shape("rooted")
}

/// Runs a command of the program, or of the other one, to its end.
pub(crate) fn run(program: &Path, arguments: &[&str]) -> Output {
    run_to_end(Command::new(program).args(arguments), TIMEOUT)
}

/// The same for a command that succeeds. Returns what it prints.
#[track_caller]
pub(crate) fn told(program: &Path, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {said}", program.display());
    String::from_utf8(output.stdout).expect("text")
}

/// A live view, by what `list` says of it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// The field that tells it from others, and its value.
    field: &'static str,
    value: Value,
}

impl Listed {
    pub(crate) fn on(directory: PathBuf) -> Self {
        Self { field: "directory", value: directory.to_str().expect("text").into() }
    }

    pub(crate) fn of_container(init: u32) -> Self {
        Self { field: "container", value: init.into() }
    }

    pub(crate) fn of_run(name: &str) -> Self {
        Self { field: "target", value: format!("run {name}").into() }
    }

    /// Its entry.
    pub(crate) fn entry(&self) -> Option<Value> {
        let views: Value = serde_json::from_str(&told(program(), &["list", "--json"])).expect("JSON");
        views.as_array().expect("views").iter().find(|view| view[self.field] == self.value).cloned()
    }

    /// Its entry, once it's live.
    pub(crate) fn live(&self) -> Value {
        wait_for("the view is live", || self.entry().filter(|entry| entry["state"] == "live"))
    }

    pub(crate) fn process(&self, field: &str) -> Pid {
        let number = self.live()[field].as_i64().expect("a process");
        Pid::from_raw(i32::try_from(number).expect("a number of a process"))
    }

    /// Whether the other program serves it.
    pub(crate) fn is_next(&self) -> bool {
        self.live()["version"].as_str().expect("a version").contains(NEXT_COMMIT)
    }

    /// Has a program take it over, as a user would.
    #[track_caller]
    pub(crate) fn upgrade(&self, with: &Path, target: &str) {
        let server = self.process("pid");
        let keeper = self.process("keeper");
        let said = told(with, &["upgrade", target]);
        assert!(said.contains("is served by vcgroupfs"), "{said}");
        assert_eq!(self.is_next(), with == next_version(), "{said}");
        assert_eq!(self.process("keeper"), keeper, "the keeper is another process");
        assert_ne!(self.process("pid"), server, "the server is the same process");
        assert_eq!(self.live()["restarts"], 0);
    }

    #[track_caller]
    pub(crate) fn is_gone(&self) {
        wait_until("the view isn't listed any more", || self.entry().is_none());
    }
}

/// A view on a directory, with its cgroup.
pub(crate) struct Mounted {
    pub(crate) view: View,
    pub(crate) cgroup: TestCgroup,
    pub(crate) listed: Listed,
}

impl Mounted {
    pub(crate) fn new(change: impl FnOnce(ViewOptions) -> ViewOptions) -> Self {
        let cgroup = TestCgroup::new(&["name=systemd", "unified"]);
        let view = View::mount(program(), &change(options(&cgroup)));
        let listed = Listed::on(view.dir());
        Self { view, cgroup, listed }
    }

    pub(crate) fn target(&self) -> String {
        self.view.dir().display().to_string()
    }

    pub(crate) fn upgrade(&self, with: &Path) {
        self.listed.upgrade(with, &self.target());
    }

    /// Has the other program take it over, which fails. Returns what is said.
    pub(crate) fn fail(&self) -> String {
        let output = run(next_version(), &["upgrade", &self.target()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }
}
