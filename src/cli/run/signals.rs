//! Forwards signals to the command, and waits for its end.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::exit::EXIT_RUN_FAILED;
use crate::error::Error;
use crate::provision::cgroups::CreatedCgroups;

/// The signals that are forwarded.
const FORWARDED: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// The `si_code` of a signal from the kernel. The terminal sends its signals to the whole foreground process group,
/// so the command already has them.
const SI_KERNEL: i32 = 0x80;

/// Blocks signals in this process, and forwards them to another.
#[derive(Debug)]
pub(super) struct SignalForwarder {
    signals: SignalFd,
    /// The host's /proc, opened before the command's namespace gets its own. Process 1 doesn't inspect processes, and
    /// has none.
    proc: Option<File>,
}

impl SignalForwarder {
    /// Blocks the signals.
    pub(super) fn new() -> Result<Self, Error> {
        let failed = |errno: Errno| Error::system("can't take over signals", io::Error::from(errno));
        let set = blocked();
        set.thread_block().map_err(failed)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
        Ok(Self { signals, proc: None })
    }

    /// Blocks the signals, and opens /proc, so that [`SignalForwarder::wait_for`] sees that a child is about to end.
    pub(super) fn with_proc() -> Result<Self, Error> {
        let proc = File::open("/proc").map_err(|error| Error::system("can't open /proc", error))?;
        Ok(Self { proc: Some(proc), ..Self::new()? })
    }

    /// Forwards signals to `child` until it ends, and reaps other children. Returns the exit status, 128 + N if
    /// signal N ended the child.
    ///
    /// A frozen process gets no signal. On v1 it can't even be killed, and process 1 of its pid namespace waits for
    /// it when it exits. So `cgroups` are thawed after SIGTERM and SIGINT, and while the child is exiting. If it
    /// still doesn't end, this returns the status without waiting.
    pub(super) fn wait_for(&self, child: Pid, cgroups: Option<&CreatedCgroups>) -> u8 {
        let mut told: Option<Instant> = None;
        let mut ending: Option<Instant> = None;
        loop {
            loop {
                match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(pid, code)) if pid == child => return code as u8,
                    Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return 128 + signal as u8,
                    Ok(WaitStatus::StillAlive) => break,
                    Ok(_) | Err(Errno::EINTR) => {}
                    // No child is left.
                    Err(_) => return EXIT_RUN_FAILED,
                }
            }
            let mut timeout = PollTimeout::NONE;
            if let Some(cgroups) = cgroups {
                let is_ending = self.is_ending(child);
                ending = is_ending.then(|| ending.unwrap_or_else(Instant::now));
                if ending.is_some_and(|since| since.elapsed() > ENDING_TIMEOUT) {
                    tracing::warn!("the command has ended, but processes that it has left don't");
                    return self.status_of(child);
                }
                if is_ending || told.is_some_and(|at| at.elapsed() < ENDING_TIMEOUT) {
                    cgroups.thaw();
                    timeout = PollTimeout::from(THAW_INTERVAL_MS);
                } else {
                    timeout = PollTimeout::from(LOOK_INTERVAL_MS);
                }
            }
            let mut waiting = [PollFd::new(std::os::fd::AsFd::as_fd(&self.signals), PollFlags::POLLIN)];
            let _ = poll(&mut waiting, timeout);
            while let Ok(Some(info)) = self.signals.read_signal() {
                if let Ok(signal) = Signal::try_from(info.ssi_signo as i32)
                    && signal != Signal::SIGCHLD
                {
                    if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
                        told = Some(Instant::now());
                    }
                    if info.ssi_code != SI_KERNEL {
                        let _ = kill(child, signal);
                    }
                }
            }
        }
    }

    /// Whether all threads of a process have begun to exit.
    fn is_ending(&self, process: Pid) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Some(proc) = &self.proc else { return false };
        let threads = Dir::openat(proc, format!("{process}/task").as_str(), flags, Mode::empty());
        let Ok(mut threads) = threads else { return false };
        let names = threads.iter().flatten().filter_map(|entry| entry.file_name().to_str().ok()?.parse::<i32>().ok());
        let mut stats = names.filter_map(|thread| self.stat(process, thread)).peekable();
        stats.peek().is_some() && stats.all(|stat| field(&stat, 9).is_some_and(|flags| flags & PF_EXITING != 0))
    }

    /// Returns the exit status of an exiting process, which the kernel shows since Linux 3.5.
    fn status_of(&self, process: Pid) -> u8 {
        match self.stat(process, process.as_raw()).and_then(|stat| field(&stat, 52)) {
            Some(status) if status & 0x7f == 0 => (status >> 8) as u8,
            Some(status) => 128 + (status & 0x7f) as u8,
            None => EXIT_RUN_FAILED,
        }
    }

    fn stat(&self, process: Pid, thread: i32) -> Option<String> {
        let name = format!("{process}/task/{thread}/stat");
        let file =
            openat(self.proc.as_ref()?, name.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// How often to check whether the child is exiting, and how often to thaw cgroups then, in ms.
const LOOK_INTERVAL_MS: u16 = 1000;
const THAW_INTERVAL_MS: u16 = 50;

/// How long killed processes may take to end while their cgroups are thawed.
const ENDING_TIMEOUT: Duration = Duration::from_secs(10);

/// `PF_EXITING` of linux/sched.h, among the flags of /proc/PID/stat.
const PF_EXITING: u64 = 0x4;

/// Returns a field of /proc/PID/stat after the command's name, by its number in proc_pid_stat(5).
fn field(stat: &str, number: usize) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn blocked() -> SigSet {
    FORWARDED.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// Signals stay blocked until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct BlockedSignals(());

/// Blocks signals while this process makes objects that no other process would remove.
pub(super) fn block() -> BlockedSignals {
    // If this fails, a signal at the wrong time leaves something behind.
    let _ = blocked().thread_block();
    BlockedSignals(())
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        unblock();
    }
}

/// Unblocks the signals, for a new process.
pub(super) fn unblock() {
    let _ = blocked().thread_unblock();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_tells_the_end_of_a_process() {
        let forwarder = SignalForwarder::with_proc().unwrap();
        assert!(!forwarder.is_ending(Pid::this()));
        assert!(forwarder.stat(Pid::this(), Pid::this().as_raw()).is_some_and(|stat| field(&stat, 52).is_some()));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194564 1";
        assert_eq!(field(stat, 9), Some(4194564));
        assert_eq!((field(stat, 52), field("", 9)), (None, None));
        assert_ne!(4194564 & PF_EXITING, 0);
        assert!(!forwarder.is_ending(Pid::from_raw(i32::MAX)));
    }
}
