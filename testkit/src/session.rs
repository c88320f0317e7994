//! A running probe that answers.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::probe::{Op, Outcome};
use crate::{TIMEOUT, comes_true};

/// A running probe. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    // What it has written of the line that isn't complete yet.
    partial: Arc<Mutex<Vec<u8>>>,
}

/// How long an operation may take. A virtual machine whose processors are emulated takes many times as long for a thousand processes.
fn patience() -> Duration {
    if std::env::var_os("VCGROUPFS_VM").is_some() { TIMEOUT * 5 } else { TIMEOUT }
}

impl Session {
    /// Starts a probe with a command that finally executes one.
    ///
    /// # Panics
    ///
    /// When the command can't be started.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
        let input = child.stdin.take();
        let output = child.stdout.take().expect("the probe's output is a pipe");
        let (sender, answers) = channel();
        let partial = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&partial);
        thread::spawn(move || forward_lines(output, &shared, &sender));
        Self { child, input, answers, partial }
    }

    /// The started process, by its number in this pid namespace. It isn't always the probe itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has the probe perform one operation.
    ///
    /// # Panics
    ///
    /// When no answer comes in time, or the script is wrong.
    pub fn run(&mut self, op: &Op) -> Outcome {
        self.send(op);
        let outcome = self.receive(op);
        assert!(!matches!(outcome, Outcome::Bad(_)), "{op:?}: {outcome:?}");
        outcome
    }

    /// Has the probe begin some operations. Call [`Session::finish`] next.
    ///
    /// # Panics
    ///
    /// When the probe has ended.
    pub fn begin(&mut self, ops: &[Op]) {
        self.send(ops);
    }

    /// The outcomes of the operations that were begun.
    ///
    /// # Panics
    ///
    /// As [`Session::run`].
    pub fn finish(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let outcomes: Vec<Outcome> = self.receive(ops);
        let bad = outcomes.iter().position(|outcome| matches!(outcome, Outcome::Bad(_)));
        assert!(bad.is_none() && outcomes.len() == ops.len(), "{ops:?}: {bad:?} of {outcomes:?}");
        outcomes
    }

    /// The outcomes of the operations that were begun, if they come in time and the script is right.
    ///
    /// # Errors
    ///
    /// Says which operation had no answer, and in which system calls the probe is.
    pub fn finish_within(&mut self, ops: &[Op], patience: Duration) -> Result<Vec<Outcome>, String> {
        let answer = match self.answers.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(error) => {
                let partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let partial = format!("{}]", String::from_utf8_lossy(&partial).trim_end_matches(','));
                let done = serde_json::from_str::<Vec<Outcome>>(&partial).map_or(0, |outcomes| outcomes.len());
                let waiting = waiting_calls(self.child.id()).join("\n");
                return Err(format!("no answer ({error}) to operation {done} {:?}\n{waiting}", ops.get(done)));
            }
        };
        let outcomes: Vec<Outcome> = serde_json::from_str(&answer).map_err(|error| format!("{answer}: {error}"))?;
        match outcomes.iter().find(|outcome| matches!(outcome, Outcome::Bad(_))) {
            None if outcomes.len() == ops.len() => Ok(outcomes),
            bad => Err(format!("{ops:?}: {bad:?} of {outcomes:?}")),
        }
    }

    /// Whether the started process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    fn send<T: Serialize + Debug + ?Sized>(&mut self, what: &T) {
        let line = serde_json::to_string(what).expect("an operation has a JSON form");
        let input = self.input.as_mut().expect("a session has an input until it's dropped");
        if let Err(error) = writeln!(input, "{line}") {
            panic!("the probe is gone ({error}) before {what:?}");
        }
    }

    fn receive<T: DeserializeOwned>(&mut self, to: &(impl Debug + ?Sized)) -> T {
        let answer = match self.answers.recv_timeout(patience()) {
            Ok(answer) => answer,
            Err(error) => {
                let _ = self.child.kill();
                panic!("no answer to {to:?}: {error}");
            }
        };
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"))
    }

    /// Has the probe perform an operation that has to succeed, and returns its value.
    ///
    /// # Panics
    ///
    /// When the operation fails.
    pub fn expect(&mut self, op: &Op) -> serde_json::Value {
        match self.run(op) {
            Outcome::Ok(value) => value,
            other => panic!("{op:?}: {other:?}"),
        }
    }

    /// Defines a variable.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.expect(&Op::Set { name: name.into(), value: value.to_string() });
    }
}

/// Sends each complete line on.
fn forward_lines(output: ChildStdout, partial: &Mutex<Vec<u8>>, sender: &Sender<String>) {
    let mut output = BufReader::new(output);
    while let Ok(piece) = output.fill_buf() {
        let mut line = partial.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, is_complete) = match piece.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (piece.len(), false),
        };
        line.extend_from_slice(&piece[..count]);
        if count == 0 {
            return;
        }
        output.consume(count);
        if is_complete {
            let text = String::from_utf8_lossy(&std::mem::take(&mut *line)).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    }
}

/// For each thread of a process and of those below it: its name, its state, and where in the kernel it is.
fn waiting_calls(process: u32) -> Vec<String> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| {
            let text = std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let (name, state) = (read("comm"), read("stat"));
        let state = state.rsplit_once(") ").map_or("?", |(_, fields)| &fields[..1]).to_owned();
        found.push(format!("{process} {name} {state} in {}: {}", read("wchan"), read("stack")));
    }
    found.extend(crate::children_of(process).into_iter().flat_map(waiting_calls));
    found
}

impl Drop for Session {
    fn drop(&mut self) {
        // The probe ends with its input, and its children with it.
        drop(self.input.take());
        if !comes_true(TIMEOUT, || !self.child.try_wait().is_ok_and(|status| status.is_none())) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
