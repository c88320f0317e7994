//! The cgroup namespace in which files are opened. With nsdelegate the kernel uses the opener's namespace to judge a
//! migration, and a write at a namespace's root (`cgroup_file_open`, `cgroup_attach_permissions`).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::proc::last_caller::{self, Kind};
use super::proc::procfs;
use crate::fs::SysResult;
use crate::sys::namespace::{Entered, enter_cgroup_namespace};

/// The server's own cgroup namespace.
#[derive(Debug)]
pub(super) struct OwnCgroupNamespace {
    file: File,
    id: procfs::Namespace,
}

impl OwnCgroupNamespace {
    /// Opens it. `None` on a kernel without cgroup namespaces.
    pub(super) fn new() -> Option<Self> {
        Some(Self { file: File::open("/proc/self/ns/cgroup").ok()?, id: procfs::own_namespace("cgroup").ok()? })
    }

    /// Returns the namespace of a thread that waits meanwhile, if it's another one. `EACCES` if it can't be opened.
    pub(super) fn other_of(&self, thread: i32) -> SysResult<Option<File>> {
        if last_caller::namespace(thread, Kind::Cgroup).map_err(|_| Errno::EACCES)? == self.id {
            return Ok(None);
        }
        File::open(format!("/proc/{thread}/ns/cgroup")).map(Some).map_err(|_| Errno::EACCES)
    }

    /// Enters another namespace. `EACCES` if that isn't possible.
    pub(super) fn enter(&self, other: BorrowedFd<'_>) -> SysResult<Entered<'_>> {
        enter_cgroup_namespace(other, self.file.as_fd()).map_err(|_| Errno::EACCES)
    }
}

/// The cgroup namespace in which a file was opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenedIn {
    /// A namespace around the delegation boundary: through this file, the kernel would accept processes from outside.
    Around,
    /// The server's own, which begins at the boundary.
    Boundary,
    /// The opener's own, which begins at the boundary or below.
    Inside,
    /// The opener's own, about which nothing is known.
    Elsewhere,
}

impl OpenedIn {
    const ALL: [Self; 4] = [Self::Around, Self::Boundary, Self::Inside, Self::Elsewhere];

    /// The number by which the next server knows it.
    pub(super) fn number(self) -> u8 {
        Self::ALL.iter().zip(0..).find(|(one, _)| **one == self).map_or(0, |(_, number)| number)
    }

    /// The one with this number.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}
