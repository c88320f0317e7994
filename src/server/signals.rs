//! The signals of a server. SIGTERM and SIGINT end it, SIGHUP reopens its log. It ignores all others, except those
//! with which the kernel reports a fault.

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

/// The signals that a server acts on.
const HANDLED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The signalfd of a server.
#[derive(Debug)]
pub(crate) struct ServerSignals(SignalFd);

impl ServerSignals {
    /// Blocks the signals that a server acts on, until it's ready for them. Until [`ServerSignals::install`] children
    /// can be waited for.
    pub(crate) fn block() -> Result<(), Error> {
        let set: SigSet = HANDLED.into_iter().collect();
        set.thread_block().map_err(|errno| Error::system("can't block signals", io::Error::from(errno)))
    }

    /// Gives this process a server's signal dispositions. Threads and children inherit them.
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

    /// Waits for the report of `status`.
    ///
    /// # Errors
    /// The error that it reports; also when a signal tells the server to end meanwhile.
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

    /// Returns the next signal that ends the server, if one has come. It handles the others.
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
