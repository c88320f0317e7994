//! A running probe that answers.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

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
}

/// How long an operation may take. A virtual machine whose processors are emulated takes many times as long for a thousand processes.
fn patience() -> std::time::Duration {
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
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, input, answers }
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
