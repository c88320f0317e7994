//! How a watcher is told to end.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;

/// The signals by which a user ends the command. They don't end it in the middle of a line.
#[derive(Debug)]
pub(super) struct StopSignals(SignalFd);

impl StopSignals {
    pub(super) fn new() -> Result<Self, Error> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP].into_iter().collect();
        let signals = set.thread_block().and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC));
        signals.map(Self).map_err(|errno| Error::system("can't wait for signals", errno.into()))
    }

    /// Waits so long, and returns whether a signal has come.
    pub(super) fn wait(&self, time: Duration) -> Result<bool, Error> {
        let [is_stopped] = Self::wait_for([self.0.as_fd()], time)?;
        Ok(is_stopped)
    }

    /// The same, or until this can be read. Also returns whether it can.
    pub(super) fn wait_or(&self, input: BorrowedFd<'_>, time: Duration) -> Result<[bool; 2], Error> {
        Self::wait_for([self.0.as_fd(), input], time)
    }

    fn wait_for<const N: usize>(files: [BorrowedFd<'_>; N], time: Duration) -> Result<[bool; N], Error> {
        let limit = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let mut waited = files.map(|file| PollFd::new(file, PollFlags::POLLIN));
        match poll(&mut waited, limit) {
            Ok(_) | Err(Errno::EINTR) => Ok(waited.map(|file| file.any().unwrap_or(false))),
            Err(errno) => Err(Error::system("can't wait for signals", errno.into())),
        }
    }
}
