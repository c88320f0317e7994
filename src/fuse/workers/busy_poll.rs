//! A worker that looks out for the next request before it sleeps.
//!
//! A caller that runs on another processor has its next request ready long before a sleeping worker is awake: to wake a halted processor takes
//! ten times as long as to answer. That it looks out costs the worker's processor time, so it does where requests come at once, and hardly ever
//! elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// For how long, at most. As long as it takes to wake the caller for the reply, and for what it does before it asks again.
const PATIENCE: Duration = Duration::from_micros(50);

/// After how many requests it looks out again when nothing came, doubled each time, as an exponent of 2.
const LONGEST_REST: u32 = 8;

/// What a worker has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// None, yet.
    Nothing,
    /// A request, which was there already.
    WasThere,
    /// A request that came.
    Came,
    /// None in time.
    Missed,
}

/// Where the reading worker looks out.
#[derive(Debug)]
pub(super) struct Lookout {
    device: OwnedFd,
    /// Whether it may: another processor is there for the caller.
    is_allowed: AtomicBool,
    /// How often nothing came since something did.
    misses: AtomicU32,
    /// Requests until it looks again.
    rest: AtomicU32,
}

impl Lookout {
    pub(super) fn of(device: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            device: device.try_clone_to_owned()?,
            is_allowed: AtomicBool::new(false),
            misses: AtomicU32::new(0),
            rest: AtomicU32::new(0),
        })
    }

    /// Whether it may from now on.
    pub(super) fn allow(&self, is_allowed: bool) {
        self.is_allowed.store(is_allowed, Ordering::Relaxed);
    }

    /// Looks out for the next request. One worker does at a time.
    pub(super) fn look_out(&self) -> Sight {
        if self.sees_one() {
            return Sight::WasThere;
        }
        let rest = self.rest.load(Ordering::Relaxed);
        if rest > 0 {
            self.rest.store(rest - 1, Ordering::Relaxed);
            return Sight::Nothing;
        }
        if !self.is_allowed.load(Ordering::Relaxed) {
            return Sight::Nothing;
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.sees_one() {
                self.misses.store(0, Ordering::Relaxed);
                return Sight::Came;
            }
        }
        let misses = (self.misses.load(Ordering::Relaxed) + 1).min(LONGEST_REST);
        self.misses.store(misses, Ordering::Relaxed);
        self.rest.store(1 << misses, Ordering::Relaxed);
        Sight::Missed
    }

    #[cfg(test)]
    pub(super) fn rest(&self) -> u32 {
        self.rest.load(Ordering::Relaxed)
    }

    /// Also when the connection has ended, or can't be looked at: reading will tell.
    fn sees_one(&self) -> bool {
        let mut device = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        poll(&mut device, PollTimeout::ZERO) != Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_out_ever_less_where_nothing_comes() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let lookout = Lookout::of(reader.as_fd()).unwrap();
        assert_eq!(lookout.look_out(), Sight::Nothing, "it isn't allowed to");
        lookout.allow(true);
        let missed = (0..2000).filter(|_| lookout.look_out() == Sight::Missed).count();
        assert_eq!(missed, 14, "after 2, 4 ... 128 others, then after 256 each");

        nix::unistd::write(&writer, b"x").unwrap();
        assert_eq!(lookout.look_out(), Sight::WasThere);
        nix::unistd::read(&reader, &mut [0; 1]).unwrap();
        drop(writer);
        assert_eq!(lookout.look_out(), Sight::WasThere, "the end, too, is to be read");
    }

    #[test]
    fn what_comes_is_seen() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let lookout = Lookout::of(reader.as_fd()).unwrap();
        lookout.allow(true);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    nix::unistd::write(&writer, b"x").unwrap();
                    std::thread::sleep(PATIENCE);
                }
            });
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(20) && lookout.look_out() != Sight::Came {
                if lookout.sees_one() {
                    nix::unistd::read(&reader, &mut [0; 4096]).unwrap();
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(lookout.sees_one());
        assert_eq!(lookout.misses.load(Ordering::Relaxed), 0);
    }
}
