//! What a script has made so far, and what an operation answers.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use serde_json::Value;

use super::op::{Op, Outcome};

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
    children: Mutex<HashMap<String, Child>>,
    threads: Mutex<HashMap<String, Sender<Job>>>,
    pub(super) exe: PathBuf,
    perform: Perform,
}

/// Performs one operation in the calling thread.
type Perform = fn(&Arc<State>, &Op) -> Outcome;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The state of a script that has done nothing yet. `perform` performs its operations, in whichever thread they are for.
    ///
    /// # Errors
    /// Those of finding the probe's own executable.
    pub(super) fn new(perform: Perform) -> io::Result<Self> {
        Ok(Self {
            vars: Mutex::default(),
            fds: Mutex::default(),
            children: Mutex::default(),
            threads: Mutex::default(),
            exe: std::env::current_exe()?,
            perform,
        })
    }

    /// Performs one operation in the calling thread.
    pub(super) fn perform(self: &Arc<Self>, op: &Op) -> Outcome {
        (self.perform)(self, op)
    }

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
}
