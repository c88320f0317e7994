//! Rejections in the log, at a bounded rate.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::Denial;

/// So many rejections can be logged at once.
const BURST: u32 = 50;
/// And then one per this time: a container that loops on a forbidden write can't fill the host's disk (6 MB a day with usual paths, at most 20 times that).
const REFILL: Duration = Duration::from_secs(4);

/// How much of a path is logged, in bytes.
const LONGEST_PATH: usize = 1024;

/// Who was rejected, and where.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) operation: String,
    pub(super) path: OsString,
}

/// The log of a view's rejections.
#[derive(Debug, Default)]
pub struct RejectionLog(Limiter);

/// Bounds how much is logged of something that a container can bring about as often as it likes.
#[derive(Debug)]
pub(crate) struct Limiter(Mutex<Bucket>);

impl Limiter {
    /// Whether to log now, and then how many records were left out before.
    pub(crate) fn admit(&self) -> Option<u64> {
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

impl RejectionLog {
    /// Logs a rejection, unless there were too many. What it's about is only looked up if it is logged.
    pub(super) fn record(&self, denial: &Denial, subject: impl FnOnce() -> Subject) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let Some(suppressed) = self.0.admit() else {
            return;
        };
        let Subject { pid, uid, operation, path } = subject();
        tracing::info!(
            pid,
            uid,
            operation,
            path = ?shortened(&path),
            rule = denial.rule().name(),
            errno = ?denial.errno(),
            suppressed,
            "rejected: {}",
            denial.reason()
        );
    }
}

/// The end of a path that is too long for the log: how deep its cgroups are, and how long their names, is up to the container.
fn shortened(path: &OsStr) -> String {
    let bytes = path.as_bytes();
    match bytes.len().checked_sub(LONGEST_PATH) {
        None | Some(0) => path.to_string_lossy().into_owned(),
        Some(cut) => format!("...{}", String::from_utf8_lossy(bytes.get(cut..).unwrap_or_default())),
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

    #[test]
    fn long_paths_are_cut() {
        assert_eq!(shortened(OsStr::new("/a/b")), "/a/b");
        let long = format!("/{}end", "x".repeat(2 * LONGEST_PATH));
        let cut = shortened(OsStr::new(&long));
        assert!(cut.len() == LONGEST_PATH + 3 && cut.starts_with("...x") && cut.ends_with("xend"), "{cut}");
    }
}
