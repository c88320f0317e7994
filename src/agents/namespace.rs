//! Pid namespaces, held by descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;

use mount_helper::clock::monotonic_ns;

/// A pid namespace, held open. While this exists, no other namespace gets its id.
#[derive(Debug)]
pub struct PidNamespace {
    file: OwnedFd,
    id: (u64, u64),
    /// The time at which it was opened, in monotonic ns.
    opened_at: u64,
    /// A thread in it that waits for its answer.
    thread: Option<i32>,
}

impl PidNamespace {
    /// Opens the namespace of thread `tid`, a number in the server's pid namespace.
    ///
    /// # Errors
    /// NotFound or ESRCH if there's no such thread, EACCES if it may not be inspected.
    pub fn open(tid: i32) -> io::Result<Self> {
        Ok(Self { thread: Some(tid), ..Self::from_path(&format!("/proc/{tid}/ns/pid"))? })
    }

    /// Opens the server's own namespace.
    ///
    /// # Errors
    /// The errors of opening a file in /proc.
    pub fn own() -> io::Result<Self> {
        Self::from_path("/proc/self/ns/pid")
    }

    /// Returns the same namespace for a request that comes now, without a thread.
    ///
    /// # Errors
    /// EMFILE.
    pub fn for_new_request(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, id: self.id, opened_at: monotonic_ns(), thread: None })
    }

    /// Returns its identity: device and inode number of its file.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Returns the time at which it was opened, in monotonic ns. The request that concerns it came then.
    pub(super) fn opened_at(&self) -> u64 {
        self.opened_at
    }

    /// Returns a thread that is in it until the request is answered.
    pub(super) fn thread(&self) -> Option<i32> {
        self.thread
    }

    fn from_path(path: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            id: (metadata.st_dev(), metadata.st_ino()),
            file: file.into(),
            opened_at: monotonic_ns(),
            thread: None,
        })
    }
}

impl AsFd for PidNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
