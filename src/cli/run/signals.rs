//! Signals on their way to the command.

use std::io;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::error::Failed;

/// What is passed on.
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

/// `si_code` of a signal that the kernel made: the terminal sends its own to the whole foreground process group, the command included.
const SI_KERNEL: i32 = 0x80;

/// Holds signals back from this process and hands them to another.
#[derive(Debug)]
pub(super) struct Forwarder {
    signals: SignalFd,
}

impl Forwarder {
    /// Blocks the signals from here on.
    pub(super) fn new() -> Result<Self, Failed> {
        let failed = |errno: Errno| Failed::system("can't take over signals", io::Error::from(errno));
        let set = blocked();
        set.thread_block().map_err(failed)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
        Ok(Self { signals })
    }

    /// Passes signals on to `child` until it ends; returns its exit status, 128 + N if signal N ended it. Other children are reaped by the
    /// way.
    pub(super) fn wait_for(&self, child: Pid) -> u8 {
        loop {
            loop {
                match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(pid, code)) if pid == child => return code as u8,
                    Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return 128 + signal as u8,
                    Ok(WaitStatus::StillAlive) => break,
                    Ok(_) | Err(Errno::EINTR) => {}
                    // Nobody is left to wait for.
                    Err(_) => return super::init::OWN_FAILURE,
                }
            }
            let mut waiting = [PollFd::new(std::os::fd::AsFd::as_fd(&self.signals), PollFlags::POLLIN)];
            let _ = poll(&mut waiting, PollTimeout::NONE);
            while let Ok(Some(info)) = self.signals.read_signal() {
                if let Ok(signal) = Signal::try_from(info.ssi_signo as i32)
                    && signal != Signal::SIGCHLD
                    && info.ssi_code != SI_KERNEL
                {
                    let _ = kill(child, signal);
                }
            }
        }
    }
}

fn blocked() -> SigSet {
    FORWARDED.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// Gives a new process the signals back.
pub(super) fn unblock() {
    let _ = blocked().thread_unblock();
}
