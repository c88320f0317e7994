//! The children of a keeper: how they end.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// Whether a child has exited, with all of its threads. It's left to be reaped.
pub(super) fn has_exited(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)))
}

/// How a process ended.
#[derive(Debug)]
pub(super) enum Ended {
    Exited(i32),
    Killed(Signal),
    Unknown(Errno),
}

impl Ended {
    /// Whether it did so itself, by a fault of the program.
    pub(super) fn is_crash(&self) -> bool {
        matches!(
            self,
            Self::Exited(1..)
                | Self::Killed(
                    Signal::SIGSEGV
                        | Signal::SIGBUS
                        | Signal::SIGABRT
                        | Signal::SIGILL
                        | Signal::SIGFPE
                        | Signal::SIGTRAP
                        | Signal::SIGSYS
                )
        )
    }

    /// The words for it.
    pub(super) fn into_words(self) -> String {
        match self {
            Self::Exited(0) => "it has ended by itself".to_owned(),
            Self::Exited(status) => format!("it has ended with status {status}"),
            Self::Killed(signal) => format!("killed by {signal}"),
            Self::Unknown(errno) => errno.to_string(),
        }
    }
}

/// Waits until a child has ended with all of its threads, and says how. `None` if it hasn't within the limit.
pub(super) fn reap(pid: Pid, limit: Duration) -> Option<Ended> {
    let end = Instant::now() + limit;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => return Some(Ended::Exited(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(Ended::Killed(signal)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Some(Ended::Unknown(errno)),
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reaps all children that have ended. To be called before there's one that somebody waits for.
pub(super) fn reap_all() {
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {}
}

/// Reaps the children that nobody else waits for.
pub(super) fn reap_others(awaited: &[Option<Pid>]) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = waitid(Id::All, flags) {
        if awaited.contains(&Some(pid)) {
            break;
        }
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}
