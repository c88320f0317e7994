//! Slow writes that a worker does itself.
//!
//! Handing a write to another thread takes longer than most writes. So the worker that has read it does it itself,
//! and a follower takes over the reading if it takes long. Only one worker does that at a time: other slow writes run
//! beside the workers meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::leader::WATCHDOG_INTERVAL;

/// How many slow writes run beside the workers after one that took so long that its worker may have been replaced. A
/// slow file mostly stays slow, and each replacement delays the view's other callers by two milliseconds.
const BACKOFF_WRITES: u32 = 64;

/// The right to do a slow write in a worker.
#[derive(Debug, Default)]
pub(super) struct SlowSlot {
    is_taken: AtomicBool,
    /// How many slow writes have to run elsewhere before the next one may take the slot.
    backoff: AtomicU32,
}

/// A slow write that a worker does. Dropping it frees the slot.
#[derive(Debug)]
pub(in crate::fuse) struct SlowSlotGuard<'a> {
    slot: &'a SlowSlot,
    since: Instant,
}

impl SlowSlot {
    /// Takes the slot, unless another worker has it, or a write took long lately.
    pub(super) fn take(&self) -> Option<SlowSlotGuard<'_>> {
        let backoff = self.backoff.load(Ordering::Relaxed);
        if backoff > 0 {
            self.backoff.store(backoff - 1, Ordering::Relaxed);
            return None;
        }
        self.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(SlowSlotGuard { slot: self, since: Instant::now() })
    }

    fn give_back(&self, taken_for: Duration) {
        if taken_for >= WATCHDOG_INTERVAL {
            self.backoff.store(BACKOFF_WRITES, Ordering::Relaxed);
        }
        self.is_taken.store(false, Ordering::Release);
    }
}

impl Drop for SlowSlotGuard<'_> {
    fn drop(&mut self) {
        self.slot.give_back(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_has_it_at_a_time() {
        let slot = SlowSlot::default();
        let guard = slot.take();
        assert!(guard.is_some() && slot.take().is_none());
        std::mem::forget(guard);
        slot.give_back(Duration::ZERO);
        assert!(slot.take().is_some());
    }

    #[test]
    fn after_a_write_that_took_long_others_run_elsewhere() {
        let slot = SlowSlot::default();
        std::mem::forget(slot.take());
        slot.give_back(WATCHDOG_INTERVAL);
        let elsewhere = (0..BACKOFF_WRITES).filter(|_| slot.take().is_none()).count();
        assert_eq!(elsewhere, 64);
        assert!(slot.take().is_some());
    }
}
