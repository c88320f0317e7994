//! A pid namespace that a mount for all callers knows.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::kernel_host::KernelHost;
use super::proc::pid_namespace::PidNamespaceFd;
use crate::fs::dispatch::Tenant;
use crate::fs::dispatch::per_caller::Container;
use crate::records::NoteRecord;

/// A container with the host's cgroups.
pub(super) type HostContainer = Arc<Container<KernelHost>>;

/// A pid namespace with a caller.
#[derive(Debug)]
pub(super) struct KnownNamespace {
    /// What the next server needs to know of it. It's dropped before the descriptors are closed.
    pub(super) record: Option<NoteRecord>,
    pub(super) namespace: PidNamespaceFd,
    pub(super) around: Option<Arc<KnownNamespace>>,
    pub(super) tenant: Tenant,
    pub(super) init: OwnedFd,
    /// `/proc/PID/cgroup` of process 1. After that process was reaped it can't be read any more, and never shows
    /// another one.
    pub(super) memberships: OwnedFd,
    /// Readable once process 1 has ended. `None` before Linux 5.3.
    pub(super) end: Option<OwnedFd>,
    /// Held while memberships are read and a container is made: only callers of this namespace wait for that.
    pub(super) seen: Mutex<Option<LastSeen>>,
}

/// The memberships that were read last, and the container made from them.
#[derive(Debug)]
pub(super) struct LastSeen {
    pub(super) memberships: Vec<u8>,
    /// The enclosing container, which limits the view.
    pub(super) around: Option<u64>,
    pub(super) container: HostContainer,
}
