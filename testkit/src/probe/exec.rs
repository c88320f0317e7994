//! The probe's loop, which reads operations and writes outcomes, a line each.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use serde_json::{Value, json};

use super::op::{Op, Outcome};
use super::{files, passing, people, ring, trees, waiting};

/// Why an operation has no value.
#[derive(Debug)]
pub(super) enum Failure {
    /// This system call failed, with this errno.
    Sys(&'static str, i32),
    /// The script is wrong.
    Script(String),
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Sys("", error.raw_os_error())
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Sys("", error as i32)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or_else(|| Self::Script(error.to_string()), |raw| Self::Sys("", raw))
    }
}

/// The value of an operation that succeeded.
pub(super) type Answer = Result<Value, Failure>;

/// A request to a thread of the probe, and the channel for its answer.
pub(super) type Job = (Op, Sender<Outcome>);

/// Handles, variables, processes and threads that a script has made so far.
#[derive(Debug)]
pub(super) struct State {
    vars: Mutex<HashMap<String, String>>,
    fds: Mutex<HashMap<String, Arc<OwnedFd>>>,
    pub(super) children: Mutex<HashMap<String, Child>>,
    pub(super) threads: Mutex<HashMap<String, Sender<Job>>>,
    pub(super) exe: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn define(&self, name: &str, value: impl ToString) {
        lock(&self.vars).insert(name.into(), value.to_string());
    }

    pub(super) fn keep(&self, name: &str, fd: OwnedFd) {
        lock(&self.fds).insert(name.into(), Arc::new(fd));
    }

    /// The descriptor of a handle. A handle whose open failed is a bad descriptor.
    pub(super) fn fd(&self, name: &str) -> Result<Arc<OwnedFd>, Failure> {
        lock(&self.fds).get(name).cloned().ok_or(Failure::Sys("handle", Errno::EBADF as i32))
    }

    pub(super) fn forget(&self, name: &str) -> Answer {
        lock(&self.fds).remove(name).map(|_| Value::Null).ok_or(Failure::Sys("handle", Errno::EBADF as i32))
    }

    /// Drops every handle and thread.
    pub(super) fn forget_all(&self) {
        lock(&self.fds).clear();
        lock(&self.threads).clear();
    }

    pub(super) fn children(&self) -> MutexGuard<'_, HashMap<String, Child>> {
        lock(&self.children)
    }

    pub(super) fn threads(&self) -> MutexGuard<'_, HashMap<String, Sender<Job>>> {
        lock(&self.threads)
    }

    /// Replaces every `$NAME`; names are made of capitals, digits and `_`.
    pub(super) fn expand(&self, text: &str) -> Result<String, Failure> {
        let vars = lock(&self.vars);
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let end =
                rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).unwrap_or(rest.len());
            let name = &rest[..end];
            if name == "TID" {
                out.push_str(&nix::unistd::gettid().to_string());
            } else {
                let value = vars.get(name).ok_or_else(|| Failure::Script(format!("no variable ${name}")))?;
                out.push_str(value);
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Performs one operation in the calling thread.
    pub(super) fn execute(self: &Arc<Self>, op: &Op) -> Outcome {
        let answer = match op {
            Op::Set { name, value } => self.expand(value).map(|value| {
                self.define(name, value);
                Value::Null
            }),
            Op::On { thread, then } => return people::on(self, thread, then),
            _ => people::execute(self, op)
                .or_else(|| passing::execute(self, op))
                .or_else(|| ring::execute(self, op))
                .or_else(|| waiting::execute(self, op))
                .or_else(|| files::execute(self, op))
                .or_else(|| trees::execute(self, op))
                .unwrap_or_else(|| Err(Failure::Script(format!("nobody executes {op:?}")))),
        };
        match answer {
            Ok(value) => Outcome::Ok(value),
            Err(Failure::Sys(stage, raw)) => {
                Outcome::Err { errno: format!("{:?}", Errno::from_raw(raw)), stage: stage.into() }
            }
            Err(Failure::Script(what)) => Outcome::Bad(what),
        }
    }
}

/// Executes the operations that `input` brings, one JSON object a line, and writes one answer a line to `output`.
///
/// # Errors
///
/// Only those of `input` and `output`; everything else is an answer.
pub fn run(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let state = Arc::new(State {
        vars: Mutex::default(),
        fds: Mutex::default(),
        children: Mutex::default(),
        threads: Mutex::default(),
        exe: std::env::current_exe()?,
    });
    state.define("PID", std::process::id());
    for line in input.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let text = if line.starts_with('[') {
            match serde_json::from_str::<Vec<Op>>(&line) {
                Ok(ops) => serde_json::to_string(&ops.iter().map(|op| state.execute(op)).collect::<Vec<_>>()),
                Err(error) => serde_json::to_string(&[Outcome::Bad(error.to_string())]),
            }
        } else {
            serde_json::to_string(&match serde_json::from_str::<Op>(&line) {
                Ok(op) => state.execute(&op),
                Err(error) => Outcome::Bad(error.to_string()),
            })
        };
        let text = text.unwrap_or_else(|error| json!({"bad": error.to_string()}).to_string());
        writeln!(output, "{text}")?;
        output.flush()?;
    }
    for child in state.children().values_mut() {
        // The process may have ended already, or be of a user whom this one can't signal: it ends with its parent then.
        let _ = child.kill();
    }
    Ok(())
}
