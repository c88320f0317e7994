//! A worker that polls for the next request before it sleeps.
//!
//! A caller that runs on another processor has its next request ready long before a sleeping worker is awake: waking
//! a halted processor takes ten times as long as answering. Polling costs the worker's processor time, so it polls
//! where requests come at once, and hardly ever elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a worker polls: long enough to wake the caller for the reply, and for the caller to ask again.
const BUSY_POLL_TIMEOUT: Duration = Duration::from_micros(50);

/// The number of requests without polling doubles with each timeout in succession, up to this power of 2.
const BACKOFF_EXPONENT_MAX: u32 = 8;

/// Polls for the worker that reads.
#[derive(Debug)]
pub(super) struct BusyPoller {
    device: OwnedFd,
    /// How many times in succession no request came.
    timeouts: AtomicU32,
    /// How many requests will pass without polling.
    backoff: AtomicU32,
}

impl BusyPoller {
    pub(super) fn new(device: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { device: device.try_clone_to_owned()?, timeouts: AtomicU32::new(0), backoff: AtomicU32::new(0) })
    }

    /// Polls for the next request, unless none came in time lately. Returns whether one is ready. One worker polls at
    /// a time.
    pub(super) fn poll(&self) -> bool {
        if self.is_ready() {
            return true;
        }
        let backoff = self.backoff.load(Ordering::Relaxed);
        if backoff > 0 {
            self.backoff.store(backoff - 1, Ordering::Relaxed);
            return false;
        }
        let start = Instant::now();
        while start.elapsed() < BUSY_POLL_TIMEOUT {
            if self.is_ready() {
                self.timeouts.store(0, Ordering::Relaxed);
                return true;
            }
        }
        let timeouts = (self.timeouts.load(Ordering::Relaxed) + 1).min(BACKOFF_EXPONENT_MAX);
        self.timeouts.store(timeouts, Ordering::Relaxed);
        self.backoff.store(1 << timeouts, Ordering::Relaxed);
        false
    }

    #[cfg(test)]
    pub(super) fn backoff(&self) -> u32 {
        self.backoff.load(Ordering::Relaxed)
    }

    /// Whether a request is ready. Also true when the connection has ended or can't be polled: the read then reports
    /// that.
    fn is_ready(&self) -> bool {
        let mut device = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        poll(&mut device, PollTimeout::ZERO) != Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn polling_becomes_rare_where_nothing_comes() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let poller = BusyPoller::new(reader.as_fd()).unwrap();
        let times_out = |_: &u32| {
            let before = poller.backoff();
            !poller.poll() && poller.backoff() > before
        };
        assert_eq!((0..2000).filter(times_out).count(), 14, "after 2, 4 ... 128 other requests, then after 256 each");

        nix::unistd::write(&writer, b"x").unwrap();
        assert!(poller.poll());
        nix::unistd::read(&reader, &mut [0; 1]).unwrap();
        drop(writer);
        assert!(poller.poll(), "the end of the connection counts as readable");
    }

    #[test]
    fn a_request_that_comes_is_seen() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let poller = BusyPoller::new(reader.as_fd()).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    nix::unistd::write(&writer, b"x").unwrap();
                    std::thread::sleep(BUSY_POLL_TIMEOUT);
                }
            });
            let start = Instant::now();
            poller.timeouts.store(1, Ordering::Relaxed);
            while start.elapsed() < Duration::from_secs(20) && poller.timeouts.load(Ordering::Relaxed) > 0 {
                if poller.poll() {
                    nix::unistd::read(&reader, &mut [0; 4096]).unwrap();
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(poller.timeouts.load(Ordering::Relaxed), 0);
    }
}
