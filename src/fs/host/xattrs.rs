//! Extended attributes of backing objects.

use std::ffi::OsStr;

use super::{Credentials, HostFiles};
use crate::fs::SysResult;
use crate::fs::inode::Node;

/// Reads and changes extended attributes.
pub trait HostXattrs: HostFiles {
    /// An xattr's value.
    fn xattr(&self, node: &Node, name: &OsStr) -> SysResult<Vec<u8>>;
    /// The names of all xattrs that `reader` may see, each ended by a NUL.
    fn xattrs(&self, node: &Node, reader: &Credentials) -> SysResult<Vec<u8>>;
    /// Sets an xattr, with the writer's rights.
    fn set_xattr(&self, node: &Node, name: &OsStr, value: &[u8], flags: i32, writer: &Credentials) -> SysResult<()>;
    /// Removes an xattr, with the writer's rights.
    fn remove_xattr(&self, node: &Node, name: &OsStr, writer: &Credentials) -> SysResult<()>;
    /// Holds the cgroup that a directory has under this name, so that its xattrs can be cleared once it's removed.
    fn hold_directory(&self, directory: &Node, name: &OsStr) -> SysResult<Self::File>;
    /// Removes an xattr of a cgroup that was removed, if the xattr is there.
    fn clear_xattr(&self, removed: &Self::File, name: &OsStr);
}
