//! What changes the backing tree, or an object's attributes.

use std::ffi::OsStr;
use std::time::SystemTime;

use super::Caller;
use crate::fs::SysResult;
use crate::fs::inode::{Attributes, Node};

/// What setattr changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub access: Option<SetTime>,
    /// Modification time.
    pub modification: Option<SetTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// This one.
    At(SystemTime),
}

/// Changes the backing tree, with the caller's rights.
pub trait HostMutations {
    /// Makes a cgroup, which belongs to the caller, and returns its attributes.
    fn make_directory(&self, caller: &Caller, directory: &Node, name: &OsStr, mode: u32) -> SysResult<Attributes>;
    /// Removes a cgroup.
    fn remove_directory(&self, caller: &Caller, directory: &Node, name: &OsStr) -> SysResult<()>;
    /// Renames a cgroup. Both directories are of one hierarchy.
    fn rename(&self, caller: &Caller, from: (&Node, &OsStr), to: (&Node, &OsStr)) -> SysResult<()>;
    /// chmod(2), chown(2) and utimensat(2).
    fn change(&self, caller: &Caller, node: &Node, changes: &SetAttr) -> SysResult<()>;
}
