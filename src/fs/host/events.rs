//! Changes on the host that are reported to the filesystem.

use std::ffi::OsString;

use crate::fs::inode::{Node, Watch};

/// A change on the host, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// An entry was made or removed, or its attributes changed.
    Entry {
        /// The number of the hierarchy.
        hierarchy: usize,
        /// The inode number of the directory.
        directory: u64,
        /// Its name; `None` if it's the directory itself.
        name: Option<OsString>,
        /// What happened to it.
        kind: EntryChange,
    },
    /// A cgroup was renamed; it stays in its directory.
    Renamed {
        /// The number of the hierarchy.
        hierarchy: usize,
        /// The inode number of the directory.
        directory: u64,
        /// The name before.
        from: OsString,
        /// The name now.
        to: OsString,
    },
    /// The kernel notified a file, or somebody wrote to it.
    Modified {
        /// The number of the hierarchy.
        hierarchy: usize,
        /// The inode number of the directory.
        directory: u64,
        /// The name of the file.
        name: OsString,
    },
    /// Files may have come or gone in all children, or in the directory itself: `cgroup.subtree_control` or a similar
    /// file was written.
    Files {
        /// The number of the hierarchy.
        hierarchy: usize,
        /// The inode number of the directory.
        directory: u64,
        /// Whether the files are those of the children.
        of_children: bool,
    },
    /// Events were lost: anything may have changed.
    Anything,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryChange {
    /// A cgroup was made.
    Made,
    /// A cgroup was removed.
    Removed,
    /// A cgroup was renamed; the event has its old name.
    Renamed,
    /// Its attributes changed.
    Other,
}

/// Changes that were reported together. Each has a position among all reports, and so does their end: the host is told
/// once everything up to there is dealt with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The changes in their order, each with the position behind it.
    pub changes: Vec<(HostEvent, u64)>,
    /// The position behind all of them. There may be no change, if nothing that was reported matters.
    pub end: u64,
}

/// Watches the backing tree for changes.
pub trait HostEvents {
    /// Watches a directory until the result is dropped. `None` if it can't be watched.
    fn watch(&self, directory: &Node) -> Option<Box<dyn Watch>>;
    /// Takes over a watch that an earlier server has added, by its number. `None` if that isn't possible.
    fn watch_again(&self, _directory: &Node, _number: i32) -> Option<Box<dyn Watch>> {
        None
    }
    /// Returns the changes that an earlier server was told of and may not have dealt with, and those that nobody was
    /// told of yet.
    fn changes_left(&self) -> Report {
        Report::default()
    }
    /// Notes that all changes up to this position are dealt with.
    fn dealt_with(&self, _position: u64) {}
    /// Drops what the host keeps for a node that was removed, or that the kernel has forgotten.
    fn forget(&self, node: &Node);
    /// Waits for changes of watched directories. `None` once [`stop_watching`](Self::stop_watching) was called.
    fn wait_for_changes(&self) -> Option<Report>;
    /// Lets [`wait_for_changes`](Self::wait_for_changes) return.
    fn stop_watching(&self);
}
