//! Reading the backing tree.

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

/// The result of statfs(2), as far as FUSE passes it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The block size, in bytes.
    pub block_size: u32,
    /// The length of the longest name, in bytes.
    pub name_length: u32,
}

/// The changes in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirChanges {
    /// Nothing has changed.
    Nothing,
    /// The entries with these names may have come, gone or changed.
    Names(Vec<OsString>),
    /// Anything may have changed.
    Anything,
}

/// Reports changes of a directory's entries, until it's dropped.
pub trait FollowChanges: std::fmt::Debug + Send + Sync {
    /// Returns what has changed since the last call, or since the follower was made.
    fn take_changes(&self) -> DirChanges;
}

/// Reads the backing tree.
pub trait HostTree {
    /// Returns the attributes of a node.
    fn attributes(&self, node: &Node) -> SysResult<Attributes>;
    /// Returns the attributes of the entry with this name. `ENOENT` also for an entry on another filesystem.
    fn child(&self, directory: &Node, name: &OsStr) -> SysResult<Attributes>;
    /// Returns the entries of a directory, without `.` and `..`.
    fn list(&self, directory: &Node) -> SysResult<Vec<BackingEntry>>;
    /// Follows the changes of a directory's entries from now on. `None` if they can't be seen.
    fn follow_changes(&self, directory: &Node) -> Option<Box<dyn FollowChanges>>;
    /// Whether a cgroup has this inode number. Also true if that can't be found out.
    fn has_directory(&self, hierarchy: usize, inode: u64) -> bool;
    /// statfs(2) of a hierarchy.
    fn statistics(&self, hierarchy: usize) -> SysResult<Statistics>;
}
