//! Cgroups around a delegation boundary in every hierarchy of the machine, and views of it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use testkit::{Hierarchy, TestCgroup, View, ViewOptions, hierarchies, run_to_end};

/// Every combination.
pub(crate) const MODES: [(&str, &str); 6] = [
    ("host-path", "strict"),
    ("host-path", "delegate"),
    ("rooted", "strict"),
    ("rooted", "delegate"),
    ("full", "strict"),
    ("full", "delegate"),
];

/// The boundary is `/NAME/box`, beside `/NAME/sibling`; below it are `home` and `below`.
pub(crate) struct Scene {
    pub(crate) cgroup: TestCgroup,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let found = hierarchies();
        let selectors: Vec<String> = found.iter().map(Hierarchy::selector).collect();
        let cgroup = TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>());
        for name in ["sibling", "box", "box/home", "box/below"] {
            for hierarchy in &found {
                if name == "sibling" && hierarchy.is_unified() {
                    enable_all(&cgroup.dir("unified"));
                }
                cgroup.child(&hierarchy.selector(), name);
                if name == "box" && hierarchy.is_unified() {
                    enable_all(&cgroup.dir("unified").join(name));
                }
            }
        }
        Self { cgroup }
    }

    /// The boundary's path in each hierarchy.
    pub(crate) fn path(&self) -> String {
        format!("{}/box", self.cgroup.path())
    }

    /// A directory of the machine's own tree; `below` is relative to the boundary.
    pub(crate) fn real(&self, hierarchy: &Hierarchy, below: &str) -> PathBuf {
        self.cgroup.dir(&hierarchy.selector()).join("box").join(below)
    }

    /// The homes of a container.
    pub(crate) fn homes(&self) -> Vec<PathBuf> {
        hierarchies().iter().map(|hierarchy| self.real(hierarchy, "home")).collect()
    }

    /// The same options for `mount` and the verbs that only ask.
    pub(crate) fn options(&self, shape: &str, policy: &str) -> Vec<String> {
        let mut options: Vec<String> =
            ["--cgroup", &self.path(), "--shape", shape, "--policy", policy].map(String::from).into();
        let delegated: Vec<&str> = ["memory", "pids"].into_iter().filter(|name| is_v1_controller(name)).collect();
        if policy == "delegate" && !delegated.is_empty() {
            options.extend(["--delegate-controllers".to_owned(), delegated.join(",")]);
        }
        options
    }

    pub(crate) fn view(&self, shape: &str, policy: &str) -> View {
        let options = self.options(shape, policy);
        let options = options.chunks(2).fold(ViewOptions::new(), |all, pair| all.option(&pair[0], &pair[1]));
        View::mount(&program(), &options)
    }

    /// Where a view shows the boundary of a hierarchy.
    pub(crate) fn seen(&self, view: &View, hierarchy: &Hierarchy, shape: &str) -> PathBuf {
        let top = view.hierarchy(hierarchy);
        if shape == "rooted" { top } else { top.join(self.path().trim_start_matches('/')) }
    }
}

/// Enables every controller for the children of a v2 cgroup.
pub(crate) fn enable_all(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).expect("cgroup.controllers");
    for controller in available.split_whitespace() {
        write(&dir.join("cgroup.subtree_control"), &format!("+{controller}")).expect("an available controller");
    }
}

/// Disables every controller for the children of a v2 cgroup.
pub(crate) fn disable_all(dir: &Path) {
    let control = dir.join("cgroup.subtree_control");
    for controller in fs::read_to_string(&control).expect("subtree_control").split_whitespace() {
        write(&control, &format!("-{controller}")).expect("an enabled controller");
    }
}

/// Whether a v1 hierarchy has this controller.
pub(crate) fn is_v1_controller(name: &str) -> bool {
    testkit::hierarchy(name).is_some_and(|found| !found.is_unified())
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("VCGROUPFS_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_vcgroupfs").into(), PathBuf::from)
}

/// Runs the program under test to its end.
pub(crate) fn vcgroupfs<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = std::process::Command::new(program());
    command.args(arguments);
    run_to_end(&mut command, Duration::from_secs(60))
}

/// Its standard output, after a success.
pub(crate) fn told<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = vcgroupfs(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// One open and one write, without O_TRUNC. `Err` is the system call and the error's number.
pub(crate) fn write(path: &Path, data: &str) -> Result<(), (&'static str, i32)> {
    let raw = |error: io::Error| error.raw_os_error().unwrap_or(0);
    let mut file = fs::File::options().write(true).open(path).map_err(|error| ("open", raw(error)))?;
    file.write(data.as_bytes()).map(drop).map_err(|error| ("write", raw(error)))
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Whether something comes true soon.
pub(crate) fn soon(is_true: impl FnMut() -> bool) -> bool {
    testkit::comes_true(Duration::from_secs(20), is_true)
}

/// Writes a line that the console shows when the tests have ended.
pub(crate) fn note(line: &str) {
    let notes = fs::File::options().append(true).create(true).open("/tmp/vm-notes");
    notes.and_then(|mut notes| writeln!(notes, "{line}")).expect("a note");
}

/// Fails with everything that was found.
pub(crate) fn report(found: &[String]) {
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
