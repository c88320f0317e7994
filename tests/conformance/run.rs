//! Runs a case on a subject, and makes what it came to comparable.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::probe::{Op, Outcome};
use testkit::{Caller, Container, ContainerOptions, OWNER, TestCgroup, wait_until};

use crate::case::{Case, Expect, Where};

/// A tree to run cases in: a cgroup of the kernel, and the path by which the cases reach it.
pub(crate) struct Subject<'a> {
    place: Where,
    cgroup: &'a TestCgroup,
    path: PathBuf,
    container: Container,
}

/// The outcome of one step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: &'static str,
    pub(crate) op: Op,
    pub(crate) outcome: Outcome,
}

impl<'a> Subject<'a> {
    /// `path` is where the processes of the subject find `cgroup`.
    pub(crate) fn new(place: Where, cgroup: &'a TestCgroup, path: PathBuf) -> Self {
        let backing = cgroup.dir(place.selector());
        if place == Where::V2 {
            let available = fs::read_to_string(backing.join("cgroup.controllers")).expect("cgroup.controllers");
            for controller in available.split_whitespace() {
                fs::write(backing.join("cgroup.subtree_control"), format!("+{controller}"))
                    .expect("cgroup.subtree_control");
            }
        }
        let home = cgroup.child(place.selector(), "home");
        let container = Container::start(ContainerOptions { cgroups: vec![home], ..ContainerOptions::default() });
        Self { place, cgroup, path, container }
    }

    /// Runs a case in a fresh cgroup.
    pub(crate) fn run(&self, case: &Case, caller: Caller) -> Vec<Record> {
        let owner = if caller == Caller::Owner { OWNER } else { 0 };
        let backing = self.cgroup.child(self.place.selector(), case.name);
        for dir in [&self.cgroup.dir(self.place.selector()), &backing, &backing.with_file_name("home")] {
            give(dir, owner);
        }
        if self.place == Where::Cpuset {
            // What the case makes can hold processes: it inherits CPUs and nodes.
            fs::write(backing.join("cgroup.clone_children"), "1").expect("cgroup.clone_children");
        }
        // A view keeps what it has seen until the host's event arrives: what was just prepared has to have arrived.
        for below in ["", case.name, "home"] {
            await_same(&backing.parent().expect("the test cgroup").join(below), &self.path.join(below));
        }
        let mut session = self.container.session(caller);
        session.set("UP", self.path.display());
        session.set("HOME", self.path.join("home").display());
        session.set("CG", self.path.join(case.name).display());
        for (name, value) in self.place.variables() {
            session.set(name, value);
        }
        let mut normal = Normal::new(self.place, self.cgroup.path());
        let mut records = Vec::new();
        for step in &case.steps {
            let outcome = normal.normalise(&step.op, session.run(&step.op));
            records.push(Record { id: step.id, op: step.op.clone(), outcome });
        }
        records
    }
}

/// Waits until a directory and its files are seen as they are.
fn await_same(dir: &Path, seen: &Path) {
    let facts = |path: &Path| {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some((metadata.uid(), metadata.gid(), metadata.nlink()))
    };
    let files = fs::read_dir(dir).expect("a test cgroup").flatten().map(|entry| entry.file_name());
    let names: Vec<_> = files.chain([".".into()]).collect();
    wait_until(&format!("{} looks like {}", seen.display(), dir.display()), || {
        // A subject that is no cgroup at all never looks the same; the table then says so.
        !seen.join("cgroup.procs").exists()
            || names.iter().all(|name| facts(&dir.join(name)) == facts(&seen.join(name)))
    });
}

pub(crate) fn give(dir: &Path, owner: u32) {
    chown(dir, Some(owner), Some(owner)).expect("chown of a test cgroup");
    for entry in fs::read_dir(dir).expect("a test cgroup").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            chown(entry.path(), Some(owner), Some(owner)).expect("chown of an interface file");
        }
    }
}

/// A list of processes or threads, with a name in place of each number but 0, so that the lists of two cgroups can be compared.
pub(crate) fn comparable_list(place: Where, text: &str, mut name_of: impl FnMut(&str) -> String) -> Value {
    let numbers: Vec<Option<u64>> = text.lines().map(|line| line.parse().ok()).collect();
    let is_number = |line: &str| line != "0" && line.parse::<u64>().is_ok();
    let mut lines: Vec<_> =
        text.lines().map(|line| if is_number(line) { name_of(line) } else { line.to_string() }).collect();
    // Which of two processes has the smaller number isn't the same in both cgroups: numbers begin anew when they have run out.
    lines.sort_unstable();
    json!({
        "lines": lines,
        // The kernel sorts in v1 only.
        "sorted": place == Where::V2 || numbers.is_sorted(),
        "ends with a newline": text.is_empty() || text.ends_with('\n'),
    })
}

/// The steps whose outcome isn't what the kernel is known to answer.
pub(crate) fn surprises(case: &Case, place: Where, records: &[Record]) -> Vec<String> {
    let variables = place.variables();
    let replace = |text: &str| {
        variables.iter().fold(text.to_string(), |text, (name, value)| text.replace(&format!("${name}"), value))
    };
    let mut found = Vec::new();
    for (number, (step, record)) in case.steps.iter().zip(records).enumerate() {
        let fits = match &step.expect {
            Expect::Success => record.outcome.is_ok(),
            Expect::Value(value) => record.outcome == Outcome::Ok(value.clone()),
            Expect::Text(text) => record.outcome.text() == Some(&replace(text)),
            Expect::Errno(name) => record.outcome.errno() == Some(name),
            Expect::Whatever => true,
        };
        if !fits {
            found.push(format!(
                "{} {number} {:?}: expected {:?}, got {:?}",
                case.name, step.op, step.expect, record.outcome
            ));
        }
    }
    found
}

/// Takes out of outcomes what may differ between two subjects.
struct Normal {
    place: Where,
    path: String,
    names: HashMap<String, String>,
    unknown: HashMap<String, usize>,
}

impl Normal {
    fn new(place: Where, path: String) -> Self {
        Self { place, path, names: HashMap::new(), unknown: HashMap::new() }
    }

    fn normalise(&mut self, op: &Op, outcome: Outcome) -> Outcome {
        let Outcome::Ok(value) = outcome else {
            return outcome;
        };
        Outcome::Ok(match op {
            Op::On { then, .. } => return self.normalise(then, Outcome::Ok(value)),
            Op::Spawn { name, .. } | Op::Thread { name } | Op::Busy { name } => {
                self.names.insert(value.to_string(), name.clone());
                json!(name)
            }
            Op::Stat { .. } | Op::Fstat { .. } => sizeless(without(value, "ino")),
            Op::Membership { .. } | Op::ThreadMembership => self.membership(&value),
            // How many bytes a number has isn't of interest.
            Op::Write { data, .. } | Op::Pwrite { data, .. } | Op::WriteFile { data, .. } if data.contains('$') => {
                json!("written")
            }
            Op::ReadFile { path } => self.content(path, value),
            Op::Read { fd, .. } | Op::ReadAll { fd, .. } | Op::Pread { fd, .. } | Op::Splice { fd } => {
                self.content(fd, value)
            }
            _ => value,
        })
    }

    /// `name` is the path, or the name of a handle: those on lists of processes are called `list`.
    fn content(&mut self, name: &str, value: Value) -> Value {
        let file = name.rsplit('/').next().unwrap_or(name);
        let Some(text) = value.as_str() else {
            return value;
        };
        if matches!(file, "cgroup.procs" | "cgroup.threads" | "tasks" | "$TASKS") || file.starts_with("list") {
            self.list(text)
        } else if file.ends_with(".stat") || file.ends_with(".pressure") || file.ends_with(".stat.local") {
            json!(text.lines().map(numberless).collect::<Vec<_>>())
        } else {
            value
        }
    }

    /// Numbers become the names that the script gave them, or are counted by their first appearance.
    fn list(&mut self, text: &str) -> Value {
        let (names, unknown) = (&self.names, &mut self.unknown);
        comparable_list(self.place, text, |number| match names.get(number) {
            Some(name) => name.clone(),
            None => {
                let next = unknown.len();
                format!("#{}", unknown.entry(number.to_string()).or_insert(next))
            }
        })
    }

    fn membership(&self, value: &Value) -> Value {
        let path = value.get(self.place.selector()).and_then(Value::as_str).unwrap_or_default();
        json!(path.strip_prefix(&self.path).unwrap_or("elsewhere"))
    }
}

fn without(mut value: Value, key: &str) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove(key);
    }
    value
}

/// The size that a file is shown with isn't its own where splice(2) goes by it: [`crate::reading`] looks at it.
pub(crate) fn sizeless(mut value: Value) -> Value {
    if value.get("type").and_then(Value::as_str) == Some("file")
        && let Some(size) = value.get_mut("size")
    {
        *size = json!(0);
    }
    value
}

pub(crate) fn numberless(line: &str) -> String {
    line.split(' ')
        .map(|word| {
            let (key, number) = word.split_once('=').unwrap_or(("", word));
            if number.parse::<f64>().is_ok() { format!("{key}=N") } else { word.to_string() }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
