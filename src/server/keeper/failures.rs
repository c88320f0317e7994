//! How often a server may fail.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time within which failures count.
const WINDOW: Duration = Duration::from_secs(60);

/// How many failures within that time a server is started again after.
const RESTARTS_MAX: usize = 5;

/// The pauses before a server is started again, by how many failures there were within the time.
const PAUSES: [Duration; RESTARTS_MAX] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
];

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start the server again, after a pause.
    StartAfter(Duration),
    /// Give up: it has failed that often.
    GiveUp(usize),
}

/// The failures of a view's servers.
#[derive(Debug)]
pub(super) struct Failures {
    latest: VecDeque<Instant>,
    most: usize,
}

impl Failures {
    pub(super) fn new() -> Self {
        Self { latest: VecDeque::new(), most: restarts_max() }
    }

    /// Notes a failure.
    pub(super) fn next(&mut self, now: Instant) -> Verdict {
        self.latest.retain(|failure| now.saturating_duration_since(*failure) < WINDOW);
        self.latest.push_back(now);
        let count = self.latest.len();
        if count > self.most {
            return Verdict::GiveUp(count);
        }
        // With more restarts than users have, a test doesn't want to wait.
        let pause = if self.most > RESTARTS_MAX { None } else { PAUSES.get(count - 1) };
        Verdict::StartAfter(pause.copied().unwrap_or_default())
    }
}

/// How many failures a minute may have. Tests kill servers more often than users do, and a program for tests lets them.
fn restarts_max() -> usize {
    let asked = std::env::var("VCGROUPFS_TEST_RESTARTS_MAX").ok().filter(|_| cfg!(debug_assertions));
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(RESTARTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_in_a_minute_are_forgiven() {
        let mut failures = Failures { latest: VecDeque::new(), most: RESTARTS_MAX };
        let start = Instant::now();
        for pause in PAUSES {
            assert_eq!(failures.next(start), Verdict::StartAfter(pause));
        }
        assert_eq!(failures.next(start + Duration::from_secs(59)), Verdict::GiveUp(6));
        assert_eq!(failures.next(start + Duration::from_secs(120)), Verdict::StartAfter(Duration::ZERO));
    }
}
