//! The size under which the kernel knows a file.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The size of a file in the kernel, which may differ from the host's, and the size to show.
#[derive(Debug, Default)]
pub struct ShownSize {
    /// One more than the size to show; 0 for the default size.
    to_tell: AtomicU64,
    /// The size that the kernel was told last, or has set itself.
    told: AtomicU64,
    /// Whether its length was measured.
    measured: AtomicBool,
    /// Whether its length has to be measured at each open.
    watched: AtomicBool,
    open: AtomicU32,
}

impl ShownSize {
    /// The size to show, if it isn't the default.
    pub fn to_tell(&self) -> Option<u64> {
        self.to_tell.load(Ordering::Acquire).checked_sub(1)
    }

    /// Sets the size to show from now on.
    pub fn show(&self, size: u64) {
        self.to_tell.store(size.saturating_add(1), Ordering::Release);
    }

    /// The size that the kernel has.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// Notes the size that the kernel is told.
    pub fn note_told(&self, size: u64) {
        self.told.store(size, Ordering::Release);
    }

    /// Notes that the kernel has found the file's end there, and takes that for its size.
    pub fn end_at(&self, end: u64) {
        self.show(end);
        self.note_told(end);
    }

    /// Makes each open measure its length, from now on.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Release);
    }

    /// Whether each open has to measure its length.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Notes that its length is measured. Returns whether it was before.
    pub fn measure(&self) -> bool {
        self.measured.swap(true, Ordering::AcqRel)
    }

    /// Counts an open of the file.
    pub fn open(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a close of the file.
    pub fn close(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether it's open.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// Whether it's open more than once.
    pub fn is_shared(&self) -> bool {
        self.open.load(Ordering::Acquire) > 1
    }
}
