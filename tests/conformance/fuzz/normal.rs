//! Takes out of outcomes what may differ between two cgroups that are in the same state.
//!
//! Compared by shape only: numbers of processes; `*.stat`, `*.stat.local` and `*.pressure`, which count time; `*.current`, `*.peak`, `*_stat`
//! and `pids.events`, which count memory, and a process until the kernel has taken it apart; whether what is being frozen is frozen already; PRI and
//! ERR of what is notified with a delay.

use std::collections::HashMap;

use serde_json::{Value, json};
use testkit::probe::{Op, Outcome};

use super::pools;
use crate::case::Where;
use crate::differences::is_notified;
use crate::run::{comparable_list, numberless};

/// The state of a sequence on one subject so far.
pub(super) struct Normal {
    place: Where,
    /// The path of the subject's cgroup in its hierarchy.
    top: String,
    /// Whether numbers of processes have the same number of digits on both subjects.
    same_digits: bool,
    numbers: HashMap<String, String>,
    files: HashMap<String, String>,
}

/// Whether it's a list of processes or threads.
pub(super) fn is_list(file: &str) -> bool {
    matches!(file, "cgroup.procs" | "cgroup.threads" | "tasks")
}

fn is_volatile(file: &str) -> bool {
    [".stat", ".stat.local", ".pressure", ".current", ".peak", "_stat"].iter().any(|end| file.ends_with(end))
        && file != "cgroup.pressure"
        || matches!(file, "pids.events" | "freezer.state" | "cgroup.events")
}

/// Whether any number is taken, so that it can be that of a process.
fn is_number(file: &str) -> bool {
    matches!(file, "pids.max" | "cgroup.max.depth" | "cgroup.max.descendants")
}

fn last_name(path: &str) -> &str {
    path.trim_end_matches(['/', '.']).rsplit('/').next().unwrap_or(path)
}

impl Normal {
    /// `numbers` are those that have names already.
    pub(super) fn new(place: Where, top: String, same_digits: bool, numbers: HashMap<String, String>) -> Self {
        Self { place, top, same_digits, numbers, files: HashMap::new() }
    }

    /// The name of the file that an operation is about.
    pub(super) fn file(&self, op: &Op) -> String {
        let handle = |fd: &String| self.files.get(fd).cloned().unwrap_or_default();
        match op {
            Op::On { then, .. } => self.file(then),
            Op::ReadFile { path } | Op::WriteFile { path, .. } | Op::Stat { path } => last_name(path).into(),
            Op::Read { fd, .. }
            | Op::Pread { fd, .. }
            | Op::ReadAll { fd, .. }
            | Op::Write { fd, .. }
            | Op::Writev { fd, .. }
            | Op::Pwrite { fd, .. }
            | Op::Splice { fd }
            | Op::Lseek { fd, .. }
            | Op::Poll { fd }
            | Op::Mmap { fd, .. }
            | Op::Fstat { fd } => handle(fd),
            _ => String::new(),
        }
    }

    /// The outcome of the next operation of the sequence.
    pub(super) fn normalise(&mut self, op: &Op, outcome: Outcome) -> Outcome {
        if let Op::On { then, .. } = op {
            return self.normalise(then, outcome);
        }
        let Outcome::Ok(value) = outcome else {
            return outcome;
        };
        let file = self.file(op);
        Outcome::Ok(match op {
            Op::Open { path, fd, .. } => {
                let opened = match path.strip_prefix("/proc/self/fd/$FD") {
                    Some(again) if !again.contains('/') => {
                        self.files.get(&again.to_lowercase()).cloned().unwrap_or_default()
                    }
                    _ => last_name(path).into(),
                };
                self.files.insert(fd.clone(), opened);
                value
            }
            // Its number may be another's next, by which that is opened once more. A list is what has to be told apart by more than its text.
            Op::Close { fd } => {
                self.files.insert(fd.clone(), "cgroup.procs".into());
                value
            }
            Op::Dup { fd, to } => {
                self.files.insert(to.clone(), self.files.get(fd).cloned().unwrap_or_default());
                value
            }
            Op::Spawn { name, .. } | Op::Thread { name } => {
                self.numbers.insert(value.to_string(), name.clone());
                json!(name)
            }
            Op::Stat { .. } | Op::Fstat { .. } => self.stat(&file, value),
            Op::Membership { .. } | Op::ThreadMembership => {
                let path = value.get(self.place.selector()).and_then(Value::as_str).unwrap_or_default();
                json!(path.strip_prefix(&self.top).unwrap_or("elsewhere"))
            }
            // How many bytes a number has isn't of interest.
            Op::Write { data, .. } | Op::Pwrite { data, .. } | Op::WriteFile { data, .. } if data.contains('$') => {
                json!("written")
            }
            Op::Writev { data, .. } if data.iter().any(|one| one.contains('$')) => json!("written"),
            Op::ReadFile { .. } => self.content(&file, value),
            Op::Pread { len, off: 0, .. } if *len >= 65536 => self.content(&file, value),
            Op::Read { .. } | Op::ReadAll { .. } | Op::Pread { .. } | Op::Splice { .. } => self.part(&file, value),
            Op::Lseek { .. } if is_volatile(&file) || is_list(&file) && !self.same_digits => json!("somewhere"),
            Op::Poll { .. } if is_notified(&file) => {
                let quiet = |event: &&Value| !matches!(event.as_str(), Some("PRI" | "ERR"));
                json!(value.as_array().map(|set| set.iter().filter(quiet).collect::<Vec<_>>()))
            }
            Op::Tree { .. } => self.tree(value),
            _ => value,
        })
    }

    /// Without the number, and for files that the policy keeps from being written, without the write bits.
    fn stat(&self, file: &str, mut value: Value) -> Value {
        let Some(object) = value.as_object_mut() else {
            return value;
        };
        object.remove("ino");
        // crate::reading looks at it.
        object.remove("size");
        if pools::rejected(self.place).contains(&file) {
            object.remove("mode");
        }
        value
    }

    fn tree(&mut self, value: Value) -> Value {
        let Value::Object(entries) = value else {
            return value;
        };
        let seen = entries.into_iter().map(|(path, mut entry)| {
            let file = last_name(&path).to_string();
            if let Some(content) = entry.get_mut("content") {
                *content = self.content(&file, content.take());
            }
            let is_rejected = pools::rejected(self.place).contains(&file.as_str());
            if let Some(stat) = entry.get_mut("stat").filter(|_| is_rejected) {
                *stat = json!("a file that is only read");
            }
            (path, entry)
        });
        Value::Object(seen.collect())
    }

    /// A whole content.
    fn content(&mut self, file: &str, value: Value) -> Value {
        let Some(text) = value.as_str() else {
            return value;
        };
        match file {
            _ if is_list(file) => self.list(text),
            "freezer.state" => json!(text.replace("FREEZING", "FROZEN")),
            "cgroup.events" => json!(text.replace("frozen 1", "frozen N").replace("frozen 0", "frozen N")),
            _ if is_volatile(file) => json!(text.lines().map(numberless).collect::<Vec<_>>()),
            // The number of a process may have become a limit.
            _ => self.numbers.get(text.trim_end()).map_or(value.clone(), |name| json!(name)),
        }
    }

    /// Some of a content.
    fn part(&self, file: &str, value: Value) -> Value {
        let Some(text) = value.as_str() else {
            return value;
        };
        if text.is_empty() {
            value
        } else if is_list(file) && self.same_digits || is_number(file) {
            json!(text.replace(|one: char| one.is_ascii_digit(), "d"))
        } else if is_list(file) || is_volatile(file) {
            json!("some of it")
        } else {
            value
        }
    }

    /// Numbers become the names that the sequence gave them, or are counted by their first appearance.
    fn list(&mut self, text: &str) -> Value {
        let known = &mut self.numbers;
        comparable_list(self.place, text, |number| {
            let next = known.len();
            known.entry(number.to_string()).or_insert_with(|| format!("#{next}")).clone()
        })
    }
}
