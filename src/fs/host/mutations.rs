//! Changes of the backing tree and of objects' attributes.

use std::ffi::OsStr;
use std::time::SystemTime;

use super::Caller;
use crate::fs::SysResult;
use crate::fs::inode::{Attributes, Node};

/// The attributes that setattr sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The permission bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The access time.
    pub access: Option<SetTime>,
    /// The modification time.
    pub modification: Option<SetTime>,
}

/// A time that setattr sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present time.
    Now,
    /// A given time.
    At(SystemTime),
}

/// Changes the backing tree, with the caller's rights.
pub trait HostMutations {
    /// Makes a cgroup, which the caller owns, and returns its attributes.
    fn make_directory(&self, caller: &Caller, directory: &Node, name: &OsStr, mode: u32) -> SysResult<Attributes>;
    /// Removes a cgroup.
    fn remove_directory(&self, caller: &Caller, directory: &Node, name: &OsStr) -> SysResult<()>;
    /// Renames a cgroup. Both directories are of one hierarchy.
    fn rename(&self, caller: &Caller, from: (&Node, &OsStr), to: (&Node, &OsStr)) -> SysResult<()>;
    /// Sets attributes: chmod(2), chown(2) and utimensat(2).
    fn set_attributes(&self, caller: &Caller, node: &Node, changes: &SetAttr) -> SysResult<()>;
}
