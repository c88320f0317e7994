//! Limits on what a container can cause repeatedly: log records, and processor time.

mod processor;

use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use processor::ProcessorTime;

/// A tenant of a server. Each has a share of its descriptors, backing ids, listings, threads for slow work, agents, processor time and lines
/// of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// All processes in the server's pid namespace. A mount with one view has only this tenant.
    #[default]
    Host,
    /// A container that the host's root made: the pid namespace with this number directly below the server's, with
    /// all namespaces inside it.
    Container(u64),
    /// A user of the host, by number: all pid namespaces in user namespaces that it made.
    User(u32),
    /// All pid namespaces in user namespaces whose owner the kernel doesn't tell (before Linux 4.11).
    Unknown,
}

impl Tenant {
    /// It as numbers, for a record.
    pub fn as_numbers(self) -> (u64, u64) {
        match self {
            Self::Host => (0, 0),
            Self::Container(number) => (1, number),
            Self::User(user) => (2, u64::from(user)),
            Self::Unknown => (3, 0),
        }
    }

    /// The tenant with these numbers; `None` if there's none.
    pub fn of_numbers(numbers: (u64, u64)) -> Option<Self> {
        match numbers {
            (0, _) => Some(Self::Host),
            (1, number) => Some(Self::Container(number)),
            (2, user) => u32::try_from(user).ok().map(Self::User),
            (3, _) => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// How many records can be logged at once.
const BURST_RECORDS: u32 = 50;
/// The time after which one more can be logged. A container that loops on a forbidden write can't fill the host's
/// disk: with usual paths it causes 6 MB a day, and at most 20 times that.
const REFILL_INTERVAL: Duration = Duration::from_secs(4);

/// Limits the records about something that a container can cause repeatedly.
#[derive(Debug)]
pub struct LogLimiter(Mutex<TokenBucket>);

impl LogLimiter {
    /// Decides whether to log. `Some` is yes, with how many records were suppressed before.
    pub fn admit(&self) -> Option<u64> {
        self.0.lock().take(Instant::now())
    }
}

#[derive(Debug)]
struct TokenBucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Default for LogLimiter {
    fn default() -> Self {
        Self(Mutex::new(TokenBucket { tokens: BURST_RECORDS, refilled: Instant::now(), suppressed: 0 }))
    }
}

impl TokenBucket {
    /// Takes a token, and returns how many records got none before.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let due = now.saturating_duration_since(self.refilled).as_millis() / REFILL_INTERVAL.as_millis();
        if due > 0 {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(due).min(BURST_RECORDS);
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
    fn tenants_come_back_from_their_numbers() {
        for tenant in [Tenant::Host, Tenant::Container(u64::MAX), Tenant::User(u32::MAX), Tenant::Unknown] {
            assert_eq!(Tenant::of_numbers(tenant.as_numbers()), Some(tenant));
        }
        assert_eq!((Tenant::of_numbers((2, 1 << 32)), Tenant::of_numbers((4, 0))), (None, None));
    }

    #[test]
    fn a_burst_then_a_trickle() {
        let start = Instant::now();
        let mut bucket = TokenBucket { tokens: BURST_RECORDS, refilled: start, suppressed: 0 };
        let logged = (0..1000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(logged, BURST_RECORDS as usize);
        assert_eq!(bucket.take(start + REFILL_INTERVAL), Some(1000 - u64::from(BURST_RECORDS)));
        assert_eq!(bucket.take(start + REFILL_INTERVAL), None);
        assert_eq!(
            (0..1000).filter(|_| bucket.take(start + REFILL_INTERVAL * 10_000).is_some()).count(),
            BURST_RECORDS as usize
        );
    }
}
