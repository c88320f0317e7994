//! The waiters of an open file, and what they were told.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Wakes the waiters of an open file.
pub trait Wake: Send {
    /// Wakes all waiters, once.
    fn wake(self: Box<Self>);
    /// The number by which the next server finds them.
    fn number(&self) -> u64;
}

/// The waiters of an open file.
#[derive(Default)]
pub(in crate::fs) struct PollWaiters {
    /// Leaf lock; no waiter is woken while it's held.
    pub(super) waker: Mutex<Option<Box<dyn Wake>>>,
    /// Whether the host reports this file's events.
    pub(super) armed: AtomicBool,
    /// Whether the host's first report will be of an event that was pending when the file was armed.
    pub(super) told_already: AtomicBool,
    /// The numbers of reads that have begun, that were done, and that were done when the file was armed.
    pub(super) reads_begun: AtomicU64,
    pub(super) reads_done: AtomicU64,
    pub(super) reads_before: AtomicU64,
    /// Events that the host's poll has taken from a PSI trigger, and that no waiter was told of yet
    /// (`psi_trigger_poll` reports each once).
    pub(super) latch: AtomicU16,
}

impl PollWaiters {
    /// Reads it, which re-arms it.
    pub(in crate::fs) fn while_reading<T>(&self, read: impl FnOnce() -> T) -> T {
        self.reads_begun.fetch_add(1, Ordering::AcqRel);
        let result = read();
        self.reads_done.fetch_add(1, Ordering::AcqRel);
        result
    }

    /// Notes the events that an earlier server has left.
    pub(in crate::fs) fn set_latch(&self, events: u16) {
        self.latch.store(events, Ordering::Release);
    }

    pub(super) fn wake(&self) {
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it may have been read since it was armed.
    pub(super) fn was_read(&self) -> bool {
        self.reads_begun.load(Ordering::Acquire) != self.reads_before.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for PollWaiters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("latch", &self.latch).finish_non_exhaustive()
    }
}
