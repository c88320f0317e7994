//! Open backing files.

use std::os::fd::OwnedFd;

use super::{Credentials, WriterCredentials};
use crate::fs::SysResult;
use crate::fs::inode::{Attributes, Node};

/// The mode in which a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// Whether it's opened for reading.
    pub read: bool,
    /// Whether it's opened for writing.
    pub write: bool,
    /// Whether `O_TRUNC` is set, which changes nothing but causes an event for watchers.
    pub truncate: bool,
}

/// Opens, reads and writes backing files.
pub trait HostFiles {
    /// An open backing file.
    type File: std::fmt::Debug + Send + Sync + 'static;

    /// Opens a file, with the opener's rights if they are given, else with the server's.
    fn open(&self, file: &Node, mode: OpenMode, opener: Option<&Credentials>) -> SysResult<Self::File>;
    /// Returns the descriptor of an open file, and a byte that says how it was opened, from which the next server can
    /// make the same file. `None` if it can't.
    fn recorded(&self, _file: &Self::File) -> Option<(i32, u8)> {
        None
    }
    /// Takes over a file that an earlier server has left open. `None` if that isn't possible.
    fn take_over(&self, _descriptor: i32, _how: u8) -> Option<Self::File> {
        None
    }
    /// Takes over the second descriptor of a membership file, with which the kernel checks both ends.
    fn take_over_checked(&self, _descriptor: i32) -> Option<Self::File> {
        None
    }
    /// Returns the attributes of an open file, even after its removal.
    fn file_attributes(&self, file: &Self::File) -> SysResult<Attributes>;
    /// Returns a descriptor through which the kernel itself can serve reads of the file to everybody who opens it in
    /// the view.
    fn passthrough(&self, file: &Node) -> SysResult<OwnedFd>;
    /// Returns how many files the server can have open at once.
    fn most_files(&self) -> usize;
    /// Reads at an offset.
    fn read(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> SysResult<usize>;
    /// Writes once, with no more than the writer's rights. Files that the write makes appear belong to the writer.
    fn write(&self, file: &Self::File, data: &[u8], writer: &WriterCredentials) -> SysResult<usize>;
    /// Writes as [`write`](Self::write) does, to a file that changes the cpuset of the processes below `directory`.
    /// The kernel may compare their permitted capabilities with the writer's.
    fn write_migrating(
        &self,
        file: &Self::File,
        directory: &Node,
        data: &[u8],
        writer: &WriterCredentials,
    ) -> SysResult<usize>;
    /// Writes, with the server's rights, data that the kernel always rejects, to get its errno.
    fn write_invalid(&self, file: &Self::File, data: &[u8]) -> SysResult<usize>;
    /// fsync(2).
    fn sync(&self, file: &Self::File) -> SysResult<()>;
}
