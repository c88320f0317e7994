//! The fallback: a process that has all descriptors of the keeper while that tries another program. If that ends or hangs,
//! this one executes the old program and is the keeper.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, getppid, pipe2, read, write};

use crate::records::{Number, Records};
use crate::server::handover::{TRIAL_LIMIT, execute};
use crate::sys;

/// How long the keeper may take with the other program: it gives that up itself before.
const LIMIT: Duration = TRIAL_LIMIT.saturating_add(Duration::from_secs(5));

/// How often it looks whether the keeper lives, in milliseconds.
const INTERVAL_MS: u16 = 100;

/// How often the servers are looked for, which the keeper may be starting.
const ROUNDS: u32 = 20;

/// The keeper's handle of its fallback, which waits until it's released, or this is closed in all processes.
#[derive(Debug)]
pub(crate) struct Fallback {
    process: Pid,
    pipe: OwnedFd,
}

impl Fallback {
    /// Starts the fallback of the calling process, which must have one thread.
    ///
    /// # Errors
    /// Those of pipe(2) and fork(2).
    pub(crate) fn start(program: BorrowedFd<'_>, state: BorrowedFd<'_>, records: &Arc<Records>) -> io::Result<Self> {
        let (waits, pipe) = pipe2(OFlag::O_CLOEXEC)?;
        // Before the new program can start a server.
        let held = records.held_descriptors();
        match sys::process::fork()? {
            ForkResult::Parent { child } => Ok(Self { process: child, pipe }),
            ForkResult::Child => {
                let keeper = getppid();
                let _ = prctl::set_name(c"fallback");
                drop(pipe);
                let reason = match wait(&waits, keeper) {
                    Outcome::Success => sys::process::exit_now(0),
                    Outcome::Ended => "the new program has ended",
                    Outcome::Hangs => "the new program hangs",
                };
                if end(keeper, &waits) {
                    records.set(Number::Ending, 1);
                }
                // What the new program's servers have opened isn't here, and its numbers can mean something else.
                records.drop_all_but(&held);
                let _ = execute(program, state, &["--back", reason]);
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

impl Fallback {
    /// Ends the fallback, which isn't needed any more. Without this call, the end of the keeper and its servers lets it take
    /// over.
    pub(crate) fn release(self) {
        let _ = write(&self.pipe, &[0]);
        let _ = waitpid(self.process, None);
    }
}

enum Outcome {
    Success,
    Ended,
    Hangs,
}

/// Waits until the keeper says that it's not needed, or ends, or takes too long. A server that the keeper has started has
/// the pipe's other end as well, so that the pipe alone doesn't tell.
fn wait(pipe: &OwnedFd, keeper: Pid) -> Outcome {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], INTERVAL_MS) != Ok(0) {
            return match read(pipe, &mut [0]) {
                Ok(1) => Outcome::Success,
                _ => Outcome::Ended,
            };
        }
        if getppid() != keeper {
            return Outcome::Ended;
        }
    }
    Outcome::Hangs
}

/// Ends the keeper, if it hangs, and its servers: all who have the pipe's other end. Returns whether the keeper had been
/// told to end, and didn't.
fn end(keeper: Pid, pipe: &OwnedFd) -> bool {
    let is_parent = || getppid() == keeper;
    let is_told = is_parent() && has_pending_end(keeper);
    if is_parent() {
        // Otherwise it could start another server meanwhile.
        let _ = kill(keeper, Signal::SIGSTOP);
    }
    for _ in 0..ROUNDS {
        let others = holders(pipe).into_iter().filter(|holder| *holder != keeper || !is_parent());
        if others.filter(|server| kill(*server, Signal::SIGKILL).is_ok()).count() == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    if is_parent() {
        let _ = kill(keeper, Signal::SIGKILL);
        while is_parent() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    is_told
}

/// The other processes that have an end of a pipe.
fn holders(pipe: &OwnedFd) -> Vec<Pid> {
    let Ok(own) = std::fs::read_link(format!("/proc/self/fd/{}", pipe.as_raw_fd())) else { return Vec::new() };
    let has = |process: &i32| {
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|file| std::fs::read_link(file).is_ok_and(|found| found == own))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all = numbers.filter(|number| *number != Pid::this().as_raw());
    all.filter(has).map(Pid::from_raw).collect()
}

/// Whether a signal that ends the view waits for a process.
fn has_pending_end(process: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or_default();
    [Signal::SIGTERM, Signal::SIGINT].into_iter().any(|signal| pending & (1 << (signal as u32 - 1)) != 0)
}
