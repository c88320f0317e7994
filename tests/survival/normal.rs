//! Takes out of outcomes what may differ between two cgroups that are in the same state.

use std::collections::HashMap;

use serde_json::{Value, json};
use testkit::probe::{Op, Outcome};

use crate::scene::Place;

/// What one side of a pair has done so far, as far as it says what outcomes mean.
#[derive(Debug)]
pub(crate) struct Normal {
    place: Place,
    /// The path of the side's cgroup in its hierarchy.
    path: String,
    /// The names of processes, by their numbers.
    names: HashMap<String, String>,
    /// The names of the files that are open, by their handles.
    files: HashMap<String, String>,
}

impl Normal {
    pub(crate) fn new(place: Place, path: String) -> Self {
        Self { place, path, names: HashMap::new(), files: HashMap::new() }
    }

    /// The outcome of an operation, comparable with that of the same operation on the other side.
    pub(crate) fn of(&mut self, op: &Op, outcome: Outcome) -> Outcome {
        if let Op::Open { path, fd, .. } = op {
            self.files.insert(fd.clone(), last_name(path).to_owned());
        }
        match outcome {
            Outcome::Ok(value) => Outcome::Ok(self.value(op, value)),
            failed => failed,
        }
    }

    fn value(&mut self, op: &Op, value: Value) -> Value {
        match op {
            Op::Spawn { name, .. } => {
                self.names.insert(value.to_string(), name.clone());
                json!(name)
            }
            Op::Stat { .. } | Op::Fstat { .. } => {
                let field = |name: &str| value.get(name).cloned().unwrap_or_default();
                json!(["type", "mode", "uid", "gid", "nlink"].map(field))
            }
            Op::Membership { .. } => {
                let path = value.get(self.place.selector()).and_then(Value::as_str).unwrap_or_default();
                json!(path.strip_prefix(&self.path).unwrap_or("elsewhere"))
            }
            // How many digits a number has doesn't matter.
            Op::Write { data, .. } | Op::WriteFile { data, .. } if data.contains('$') => json!("written"),
            Op::ReadFile { path } => self.content(last_name(path), &value),
            Op::Read { fd, .. } | Op::Pread { fd, .. } | Op::ReadAll { fd, .. } => {
                let file = self.files.get(fd).cloned().unwrap_or_default();
                self.content(&file, &value)
            }
            Op::Tree { .. } => self.tree(&value),
            Op::PollDuring { then, .. } => {
                let done = value.get(1).and_then(|done| serde_json::from_value(done.clone()).ok());
                let done: Outcome = done.unwrap_or_else(|| Outcome::Bad("no outcome".into()));
                json!([value.get(0), self.of(then, done)])
            }
            // The kernel notifies once more if the last notification was less than 10 ms ago (CGROUP_FILE_NOTIFY_MIN_INTV).
            Op::InotifyRead { .. } => {
                let mut events = value.as_array().cloned().unwrap_or_default();
                events.dedup();
                json!(events)
            }
            _ => value,
        }
    }

    fn tree(&self, value: &Value) -> Value {
        let entries = value.as_object().into_iter().flatten().map(|(path, entry)| {
            let content = self.content(last_name(path), &entry["content"]);
            (path.clone(), json!([entry["stat"], content]))
        });
        Value::Object(entries.collect())
    }

    fn content(&self, file: &str, value: &Value) -> Value {
        let Some(text) = value.as_str() else { return value.clone() };
        if matches!(file, "cgroup.procs" | "cgroup.threads" | "tasks") {
            let name = |number: &str| self.names.get(number).cloned().unwrap_or_else(|| number_of(number));
            let mut lines: Vec<String> = text.lines().map(name).collect();
            // Which of two processes has the smaller number isn't the same on both sides.
            lines.sort_unstable();
            json!(lines)
        } else if file.ends_with(".stat") || file.ends_with(".stat.local") || file.ends_with(".pressure") {
            json!(text.lines().map(numberless).collect::<Vec<_>>())
        } else {
            value.clone()
        }
    }
}

/// A number in a list: of whom that isn't the test's, or 0 for who can't be seen.
fn number_of(text: &str) -> String {
    match text.parse::<u32>() {
        Ok(0) => "0".into(),
        Ok(_) => "somebody".into(),
        Err(_) => format!("{text:?}"),
    }
}

fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn numberless(line: &str) -> String {
    let word = |word: &str| {
        let (key, number) = word.split_once('=').unwrap_or(("", word));
        if number.parse::<f64>().is_ok() { format!("{key}=N") } else { word.to_owned() }
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
