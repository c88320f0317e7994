//! The signals of a server: SIGTERM and SIGINT end it, SIGHUP has its log opened once more, and all others do nothing, but for those by which
//! the kernel reports a fault.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;
use crate::server::logging;
use crate::server::status::StatusPipe;
use crate::sys;

/// What a server is told by a signal.
const HANDLED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Signals that wait to be read.
#[derive(Debug)]
pub(crate) struct ServerSignals(SignalFd);

impl ServerSignals {
    /// From here on signals do to this process what they do to a server. The threads and children that it starts inherit that.
    pub(crate) fn install() -> Result<Self, Error> {
        let failed = |errno: Errno| Error::system("can't take over signals", io::Error::from(errno));
        sys::signal::ignore_all_but(&HANDLED.map(|signal| signal as i32)).map_err(failed)?;
        let set: SigSet = HANDLED.into_iter().collect();
        set.thread_block().map_err(failed)?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?))
    }

    /// Waits for a signal that tells the server to end.
    pub(crate) fn wait_for_end(&self) -> Signal {
        loop {
            if let Some(signal) = self.next() {
                return signal;
            }
            let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        }
    }

    /// Waits for what `status` tells.
    ///
    /// # Errors
    /// What it tells; also when the server is told to end meanwhile.
    pub(crate) fn wait_for(&self, status: StatusPipe) -> Result<(), Error> {
        loop {
            if let Some(signal) = self.next() {
                return Err(Error::failed(format!("the server was told to end ({signal})")));
            }
            let mut waited =
                [PollFd::new(self.0.as_fd(), PollFlags::POLLIN), PollFd::new(status.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waited, PollTimeout::NONE);
            if waited.get(1).is_some_and(|status| status.any().unwrap_or(false)) {
                return status.wait();
            }
        }
    }

    /// The signal to end that has come, if one has. Does what others ask for.
    fn next(&self) -> Option<Signal> {
        while let Ok(Some(info)) = self.0.read_signal() {
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGHUP) => logging::reopen(),
                Ok(signal) => return Some(signal),
                Err(_) => {}
            }
        }
        None
    }
}
