//! Whether the kernel reads files itself, or the server.

use std::sync::atomic::{AtomicBool, Ordering};

/// Who reads files, and whether their shown size matters: the kernel says so at mount time.
#[derive(Debug, Default)]
pub struct ReadMode {
    /// Whether the kernel reads files itself, where it may.
    pub(super) by_kernel: AtomicBool,
    /// Whether splice(2) of a file that the server reads ends at its size.
    pub(super) ends_at_size: AtomicBool,
}

impl ReadMode {
    /// Notes whether the kernel reads files itself, and whether splice(2) of all other files ends at their size.
    pub fn set(&self, by_kernel: bool, ends_at_size: bool) {
        self.by_kernel.store(by_kernel, Ordering::Release);
        self.ends_at_size.store(ends_at_size, Ordering::Release);
    }

    /// Notes that the kernel can't read files itself after all.
    pub fn disable_passthrough(&self) {
        self.by_kernel.store(false, Ordering::Release);
    }
}
