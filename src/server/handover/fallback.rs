//! The fallback: a process that has all descriptors of the keeper while that tries another program. If that ends or hangs,
//! this one executes the old program and is the keeper.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, getppid, pipe2, read, write};

use crate::cgroup::stat_field;
use crate::server::handover::{TRIAL_LIMIT, execute};
use crate::sys;

/// How long the keeper may take with the other program: it gives that up itself before.
const LIMIT: Duration = TRIAL_LIMIT.saturating_add(Duration::from_secs(5));

/// How often the keeper's servers are looked for, which it may be starting.
const ROUNDS: u32 = 20;

/// The keeper's handle of its fallback. While it's held, the fallback waits; when it's dropped, that ends.
#[derive(Debug)]
pub(crate) struct Fallback {
    process: Pid,
    pipe: OwnedFd,
}

impl Fallback {
    /// Starts the fallback of the calling process, which must have one thread. `spared` are children of the calling process
    /// that aren't its servers.
    ///
    /// # Errors
    /// Those of pipe(2) and fork(2).
    pub(crate) fn start(program: BorrowedFd<'_>, state: BorrowedFd<'_>, spared: Option<Pid>) -> io::Result<Self> {
        let (waits, pipe) = pipe2(OFlag::O_CLOEXEC)?;
        match sys::process::fork()? {
            ForkResult::Parent { child } => Ok(Self { process: child, pipe }),
            ForkResult::Child => {
                let keeper = getppid();
                let _ = prctl::set_name(c"fallback");
                drop(pipe);
                let reason = match wait(&waits) {
                    Outcome::Success => sys::process::exit_now(0),
                    Outcome::Ended => "the new program has ended",
                    Outcome::Hangs => "the new program hangs",
                };
                let ending = if end(keeper, spared) { &["--ending"][..] } else { &[] };
                let _ = execute(program, state, &[&["--back", reason], ending].concat());
                sys::process::exit_now(1)
            }
        }
    }
}

impl Fallback {
    /// The word by which the next program gets the handle.
    pub(crate) fn word(&self) -> String {
        format!("{}:{}", self.process, self.pipe.as_raw_fd())
    }

    /// Takes over the handle. `None` if it isn't one.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let (process, pipe) = word.split_once(':')?;
        let process = Pid::from_raw(process.parse().ok()?);
        Some(Self { process, pipe: sys::descriptors::duplicate(pipe.parse().ok()?).ok()? })
    }
}

impl AsFd for Fallback {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Fallback {
    fn drop(&mut self) {
        // The server that has this as well exits without dropping it.
        let _ = write(&self.pipe, &[0]);
        let _ = nix::sys::wait::waitpid(self.process, None);
    }
}

enum Outcome {
    Success,
    Ended,
    Hangs,
}

fn wait(pipe: &OwnedFd) -> Outcome {
    let limit = PollTimeout::try_from(LIMIT).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], limit) {
        Ok(0) => Outcome::Hangs,
        _ => match read(pipe, &mut [0]) {
            Ok(1) => Outcome::Success,
            _ => Outcome::Ended,
        },
    }
}

/// Ends the keeper and its servers. Returns whether it had been told to end, and didn't.
fn end(keeper: Pid, spared: Option<Pid>) -> bool {
    let is_told = has_pending_end(keeper);
    // Otherwise it could start another server meanwhile.
    let _ = kill(keeper, Signal::SIGSTOP);
    for _ in 0..ROUNDS {
        let spared = [spared, Some(Pid::this())];
        let servers = children(keeper).into_iter().filter(|child| !spared.contains(&Some(*child)));
        let killed = servers.filter(|server| kill(*server, Signal::SIGKILL).is_ok()).count();
        if killed == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = kill(keeper, Signal::SIGKILL);
    while kill(keeper, None) != Err(Errno::ESRCH) && getppid() == keeper {
        thread::sleep(Duration::from_millis(1));
    }
    is_told
}

/// Whether a signal that ends the view waits for a process.
fn has_pending_end(process: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or_default();
    [Signal::SIGTERM, Signal::SIGINT].into_iter().any(|signal| pending & (1 << (signal as u32 - 1)) != 0)
}

/// The children of a process that haven't ended.
fn children(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |number: &i32| {
        let stat = std::fs::read(format!("/proc/{number}/stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        let lives = stat_field(&stat, 3).is_some_and(|state| !"ZXx".contains(state));
        lives && stat_field(&stat, 4).and_then(|found| found.parse().ok()) == Some(parent.as_raw())
    };
    numbers.filter(is_child).map(Pid::from_raw).collect()
}
