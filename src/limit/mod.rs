//! What bounds that a container can bring about as often as it likes: how much is logged, and how much processor time it takes.

mod processor;

use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use processor::ProcessorTime;

/// Those who share what one may have of a server: descriptors, backing ids, listings, threads for what takes long, agents, processor time, lines of
/// the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// Whoever shares the server's pid namespace; everybody, where a mount has one view.
    #[default]
    Host,
    /// A container that the host's root made: a pid namespace right below the server's, by its number, with those inside it.
    Container(u64),
    /// A user of the host, by the number: all pid namespaces that it made, in user namespaces of its own.
    User(u32),
    /// All pid namespaces in user namespaces of which the kernel doesn't say who made them (before Linux 4.11).
    Unknown,
}

/// So many records can be logged at once.
const BURST: u32 = 50;
/// And then one per this time: a container that loops on a forbidden write can't fill the host's disk (6 MB a day with usual paths, at most 20 times that).
const REFILL: Duration = Duration::from_secs(4);

/// Bounds how much is logged of something that a container can bring about as often as it likes.
#[derive(Debug)]
pub struct Limiter(Mutex<Bucket>);

impl Limiter {
    /// Whether to log now, and then how many records were left out before.
    pub fn admit(&self) -> Option<u64> {
        self.0.lock().take(Instant::now())
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Default for Limiter {
    fn default() -> Self {
        Self(Mutex::new(Bucket { tokens: BURST, refilled: Instant::now(), suppressed: 0 }))
    }
}

impl Bucket {
    /// Takes a token, and says how many records went without one before.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let due = now.saturating_duration_since(self.refilled).as_millis() / REFILL.as_millis();
        if due > 0 {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(due).min(BURST);
            self.refilled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_trickle() {
        let start = Instant::now();
        let mut bucket = Bucket { tokens: BURST, refilled: start, suppressed: 0 };
        let logged = (0..1000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(logged, BURST as usize);
        assert_eq!(bucket.take(start + REFILL), Some(1000 - u64::from(BURST)));
        assert_eq!(bucket.take(start + REFILL), None);
        assert_eq!((0..1000).filter(|_| bucket.take(start + REFILL * 10_000).is_some()).count(), BURST as usize);
    }
}
