//! With what size the kernel knows a file.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// With what size the kernel knows a file, which it may have other ideas of than the host, and with what size it is to.
#[derive(Debug, Default)]
pub struct ShownSize {
    /// One more than the size to show; 0 if that's the usual one.
    to_tell: AtomicU64,
    /// What the kernel was told last, or has made of it.
    told: AtomicU64,
    /// Its length was looked at.
    measured: AtomicBool,
    /// Its length has to be looked at whenever it's opened.
    watched: AtomicBool,
    open: AtomicU32,
}

impl ShownSize {
    /// The size to show, if it isn't the usual one.
    pub fn to_tell(&self) -> Option<u64> {
        self.to_tell.load(Ordering::Acquire).checked_sub(1)
    }

    /// Takes note of the size that it has to be shown with from now on.
    pub fn show(&self, size: u64) {
        self.to_tell.store(size.saturating_add(1), Ordering::Release);
    }

    /// The size that the kernel has.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// Takes note of what the kernel is told.
    pub fn tell(&self, size: u64) {
        self.told.store(size, Ordering::Release);
    }

    /// Takes note that the kernel has found its end there: that's its size now.
    pub fn end_at(&self, end: u64) {
        self.show(end);
        self.tell(end);
    }

    /// From now on its length has to be looked at whenever it's opened.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Release);
    }

    /// Whether its length has to be looked at whenever it's opened.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Takes note that its length is looked at. Whether it was before.
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
