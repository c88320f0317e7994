//! How the kernel is told to forget.

use std::ffi::OsStr;

use crate::fs::inode::NodeId;

/// The way to tell the kernel. Must not be used by a thread that serves requests: the kernel may wait for their answers first.
pub trait Invalidate {
    /// A directory's listing and attributes, or a file's attributes.
    fn node(&self, node: NodeId, listing: bool);
    /// What a directory has under this name.
    fn entry(&self, directory: NodeId, name: &OsStr);
}
