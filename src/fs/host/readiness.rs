//! Readiness of open backing files, as in poll(2).

use super::HostFiles;
use crate::fs::HandleId;
use crate::fs::SysResult;

/// An event of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The file, by the handle that it was armed with.
    pub handle: HandleId,
    /// The poll(2) bits.
    pub events: u16,
}

/// Reports when open files become ready.
pub trait HostReadiness: HostFiles {
    /// Returns the poll(2) bits of an open file.
    fn poll(&self, file: &Self::File) -> SysResult<u16>;
    /// Makes [`wait_for_ready`](Self::wait_for_ready) report each event of this file from now on, and first an event
    /// that is already pending.
    fn wake_when_ready(&self, file: &Self::File, handle: HandleId) -> SysResult<()>;
    /// Ends the reports about this file.
    fn stop_waking(&self, file: &Self::File);
    /// Waits for files to become ready. `None` once [`stop_waiting_for_ready`](Self::stop_waiting_for_ready) was called.
    fn wait_for_ready(&self) -> Option<Vec<Ready>>;
    /// Lets [`wait_for_ready`](Self::wait_for_ready) return.
    fn stop_waiting_for_ready(&self);
}
