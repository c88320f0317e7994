//! How the server tells the kernel to forget cached data.

use std::ffi::OsStr;

use crate::fs::inode::NodeId;

/// Tells the kernel to forget cached data. Must not be used by a thread that serves requests: the kernel may wait for
/// their answers first.
pub trait Invalidate {
    /// Invalidates a directory's listing and attributes, or a file's attributes.
    fn node(&self, node: NodeId, listing: bool);
    /// Invalidates the entry with this name.
    fn entry(&self, directory: NodeId, name: &OsStr);
}
