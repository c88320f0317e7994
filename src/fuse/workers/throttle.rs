//! Waiting for processor time: a tenant that has used up its share of the server's time waits before costly work.

use std::thread;

use crate::fs::{CgroupFs, Host};

/// Whether the tenant of a filesystem has to wait before costly work.
pub(in crate::fuse) fn is_throttled<H: Host>(fs: &CgroupFs<H>) -> bool {
    !fs.processor().wait().is_zero()
}

/// Waits until the tenant of a filesystem has processor time again. Only a thread that serves nobody else meanwhile
/// may call this.
pub(in crate::fuse) fn wait_until_paid<H: Host>(fs: &CgroupFs<H>) {
    loop {
        let wait = fs.processor().wait();
        if wait.is_zero() {
            return;
        }
        thread::sleep(wait);
    }
}
