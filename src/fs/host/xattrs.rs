//! Extended attributes of backing objects.

use std::ffi::OsStr;

use super::{Credentials, HostFiles};
use crate::fs::SysResult;
use crate::fs::inode::Node;

/// Reads and changes extended attributes.
pub trait HostXattrs: HostFiles {
    /// Returns an xattr's value.
    fn xattr(&self, node: &Node, name: &OsStr) -> SysResult<Vec<u8>>;
    /// Returns the names of all xattrs that `reader` may see, each ended by a NUL.
    fn xattrs(&self, node: &Node, reader: &Credentials) -> SysResult<Vec<u8>>;
    /// Sets an xattr, with the writer's rights.
    fn set_xattr(&self, node: &Node, name: &OsStr, value: &[u8], flags: i32, writer: &Credentials) -> SysResult<()>;
    /// Removes an xattr, with the writer's rights.
    fn remove_xattr(&self, node: &Node, name: &OsStr, writer: &Credentials) -> SysResult<()>;
    /// Opens the cgroup with this name in a directory, so that its xattrs can be cleared after its removal.
    fn hold_directory(&self, directory: &Node, name: &OsStr) -> SysResult<Self::File>;
    /// Removes an xattr of a removed cgroup, if the xattr exists.
    fn clear_xattr(&self, removed: &Self::File, name: &OsStr);
}
