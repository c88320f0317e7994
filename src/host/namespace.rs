//! The cgroup namespace in which files are opened: with nsdelegate the kernel judges a migration, and a write at a namespace's root, by the
//! opener's (`cgroup_file_open`, `cgroup_attach_permissions`).

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::procfs;
use crate::fs::host::Answer;
use crate::sys::namespace::{Entered, enter_cgroup_namespace};

/// The server's own cgroup namespace.
#[derive(Debug)]
pub(super) struct OwnNamespace {
    file: File,
    id: procfs::Namespace,
}

impl OwnNamespace {
    /// `None` on a kernel without cgroup namespaces.
    pub(super) fn new() -> Option<Self> {
        Some(Self { file: File::open("/proc/self/ns/cgroup").ok()?, id: procfs::own_namespace("cgroup").ok()? })
    }

    /// Enters the namespace of a thread that waits meanwhile, if it's another one. `EACCES` if that can't be.
    pub(super) fn enter_that_of(&self, thread: i32) -> Answer<Option<Entered<'_>>> {
        if procfs::namespace(thread, "cgroup").map_err(|_| Errno::EACCES)? == self.id {
            return Ok(None);
        }
        let other = File::open(format!("/proc/{thread}/ns/cgroup")).map_err(|_| Errno::EACCES)?;
        enter_cgroup_namespace(other.as_fd(), self.file.as_fd()).map(Some).map_err(|_| Errno::EACCES)
    }
}
