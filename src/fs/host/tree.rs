//! The backing tree, as it is read.

use std::ffi::{OsStr, OsString};

use crate::fs::SysResult;
use crate::fs::inode::{Attributes, Node};

/// An entry of a backing directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingEntry {
    /// Its name.
    pub name: OsString,
    /// Its inode number.
    pub inode: u64,
    /// Whether it's a directory.
    pub is_directory: bool,
}

/// What statfs(2) says, as far as FUSE passes it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The block size, in bytes.
    pub block_size: u32,
    /// The length of the longest name, in bytes.
    pub name_length: u32,
}

/// What has changed in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nothing has changed.
    Nothing,
    /// What is there under these names, or whether anything is.
    Names(Vec<OsString>),
    /// Anything may have changed.
    Anything,
}

/// Sees whether a directory's entries change, until it's dropped.
pub trait Follow: std::fmt::Debug + Send + Sync {
    /// What has changed since it was asked last, or made, as of now.
    fn since(&self) -> Since;
}

/// Reads the backing tree.
pub trait HostTree {
    /// Attributes of a node.
    fn attributes(&self, node: &Node) -> SysResult<Attributes>;
    /// Attributes of what a directory has under this name. `ENOENT` also for what isn't on the same filesystem.
    fn child(&self, directory: &Node, name: &OsStr) -> SysResult<Attributes>;
    /// The entries of a directory, without `.` and `..`.
    fn list(&self, directory: &Node) -> SysResult<Vec<BackingEntry>>;
    /// Follows the changes of a directory's entries from now on. `None` where they can't be seen.
    fn follow(&self, directory: &Node) -> Option<Box<dyn Follow>>;
    /// Whether a cgroup has this inode number. True also where that can't be told.
    fn has_directory(&self, hierarchy: usize, inode: u64) -> bool;
    /// statfs(2) of a hierarchy.
    fn statistics(&self, hierarchy: usize) -> SysResult<Statistics>;
}
