//! The size under which the kernel knows a file.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// The size of a file in the kernel, which may differ from the host's, and the size to show.
#[derive(Debug, Default)]
pub struct ShownSize {
    /// One more than the length that it had last; 0 if that's unknown.
    length: AtomicU64,
    /// The size that the kernel was told last, or has set itself.
    told: AtomicU64,
    /// Whether its length was measured.
    measured: AtomicBool,
    /// Whether its length has to be measured at each open.
    watched: AtomicBool,
    /// Through how many open files the kernel may be filling a page.
    filling: AtomicU32,
    /// When the last one was closed through which it has: milliseconds of [`clock`], 0 if there was none.
    filled: AtomicU64,
}

/// How long a size that was asked for before can still reach the kernel after a file was opened: until the process that
/// asked goes on. Zeros would follow the content then.
const ON_ITS_WAY_MS: u64 = 100;

/// Milliseconds since some time before, never 0.
fn clock() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

impl ShownSize {
    /// The length that it had last, if that's known.
    pub fn length(&self) -> Option<u64> {
        self.length.load(Ordering::Acquire).checked_sub(1)
    }

    /// Notes its length.
    pub fn note_length(&self, length: u64) {
        self.length.store(length.saturating_add(1), Ordering::Release);
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
        self.note_length(end);
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

    /// Counts an open file through which the kernel may fill a page.
    pub fn begin_filling(&self) {
        self.filling.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts it no longer.
    pub fn end_filling(&self) {
        self.filling.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the kernel may be filling a page.
    pub fn is_being_filled(&self) -> bool {
        self.filling.load(Ordering::Acquire) > 0
    }

    /// Notes that a file is closed through which the kernel has filled a page.
    pub fn note_filled(&self) {
        self.filled.store(clock(), Ordering::Release);
    }

    /// Whether the kernel has filled a page a moment ago. Who did may do it again at once, while a size is on its way.
    pub fn was_just_filled(&self) -> bool {
        let filled = self.filled.load(Ordering::Acquire);
        filled != 0 && clock().saturating_sub(filled) < ON_ITS_WAY_MS
    }

    /// Whether the kernel may be filling a page through another open file than that of somebody who asks.
    pub fn is_being_filled_by_others(&self) -> bool {
        self.filling.load(Ordering::Acquire) > 1
    }
}
