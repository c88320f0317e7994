//! Pid namespaces as things to hold.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;

use mount_helper::clock::monotonic_ns;

/// A pid namespace, held open: while this exists, its id can't become another's.
#[derive(Debug)]
pub struct PidNamespace {
    file: OwnedFd,
    id: (u64, u64),
    /// When it was taken hold of, in monotonic ns.
    since: u64,
    /// A thread that is in it, which waits for its answer.
    thread: Option<i32>,
}

impl PidNamespace {
    /// The namespace that thread `tid` (a number in the server's pid namespace) is in.
    ///
    /// # Errors
    /// NotFound or ESRCH if there's no such thread, EACCES if it may not be inspected.
    pub fn open(tid: i32) -> io::Result<Self> {
        Ok(Self { thread: Some(tid), ..Self::from_path(&format!("/proc/{tid}/ns/pid"))? })
    }

    /// The server's own.
    ///
    /// # Errors
    /// Those of opening a file in /proc.
    pub fn own() -> io::Result<Self> {
        Self::from_path("/proc/self/ns/pid")
    }

    /// The same, for a request that comes now. No thread is known that is in it.
    ///
    /// # Errors
    /// EMFILE.
    pub fn for_new_request(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, id: self.id, since: monotonic_ns(), thread: None })
    }

    /// What tells it from all others that exist: device and inode number of its file.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// When it was taken hold of, in monotonic ns: a request that concerns it came then.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// A thread that is in it, as long as what concerns it isn't answered.
    pub(super) fn thread(&self) -> Option<i32> {
        self.thread
    }

    fn from_path(path: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { id: (metadata.st_dev(), metadata.st_ino()), file: file.into(), since: monotonic_ns(), thread: None })
    }
}

impl AsFd for PidNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
