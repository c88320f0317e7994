//! The questions: an operation on a node, and the node's zone.

use std::ffi::OsStr;

use crate::cgroup::{FileClass, HierarchyKind};

/// The position of a node relative to the delegated subtree of its hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Zone {
    /// Above the delegated subtree, beside it, or in a hierarchy without one.
    Outside,
    /// The top directory of the delegated subtree, and that directory's files.
    Boundary,
    /// Strictly below the boundary.
    Inside,
}

/// The kind of a node.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A node that the view makes itself: its root, a symlink, a component of the alias.
    Synthetic,
    /// A cgroup directory.
    Directory,
    /// An interface file.
    File {
        /// Its name.
        name: &'a OsStr,
        /// Its class.
        class: &'a FileClass,
    },
}

/// A node, as far as the policy knows it.
#[derive(Clone, Copy, Debug)]
pub struct PolicyNode<'a> {
    /// Its hierarchy; `None` for nodes outside all hierarchies.
    pub kind: Option<&'a HierarchyKind>,
    /// Its zone.
    pub zone: Zone,
    /// Its kind.
    pub subject: Subject<'a>,
}

/// An operation that a process tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Lookup, stat, list, read, and reading an xattr.
    Read,
    /// Open it for writing, or truncate it.
    Write,
    /// Make a cgroup in this directory.
    MakeDirectory,
    /// Remove this cgroup.
    RemoveDirectory,
    /// Rename this cgroup.
    Rename,
    /// chmod, chown, utimens.
    ChangeAttributes,
    /// Set or remove an xattr.
    ChangeXattrs,
    /// Create a regular file in this directory.
    CreateFile,
    /// link, symlink, mknod, unlink.
    MakeNode,
}
