//! Registrations of v1 memory events.

use super::{Caller, HostFiles, Owner};
use crate::fs::SysResult;

/// A claimed eventfd of a caller.
pub trait Claim {
    /// What the control file is.
    fn control(&self) -> ControlFile;
}

/// The file of a caller's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The node id, if it's a file of a FUSE, which may be another one.
    pub node: Option<u64>,
    /// The file's mode.
    pub mode: u32,
    /// The file's owner.
    pub owner: Owner,
}

/// Registers a caller's eventfd by `cgroup.event_control`.
pub trait HostEventControl: HostFiles + 'static {
    /// A caller's eventfd, held to be registered.
    type EventClaim<'a>: Claim;

    /// Duplicates the caller's descriptor `eventfd` so that this file can register it, and inspects its descriptor
    /// `control`. `EBADF` and `EINVAL` as the kernel.
    fn claim_event(
        &self,
        caller: &Caller,
        event_control: &Self::File,
        eventfd: u32,
        control: u32,
    ) -> SysResult<Self::EventClaim<'_>>;
    /// Registers the eventfd with a control file, and closes it.
    fn register_event(&self, claim: Self::EventClaim<'_>, control: &Self::File, arguments: &[u8]) -> SysResult<()>;
}
