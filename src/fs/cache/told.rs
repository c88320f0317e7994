//! The cgroups of a directory that its watchers know of.

use std::ffi::OsStr;

use crate::fs::host::{BackingEntry, EntryChange};
use crate::fs::inode::{Cgroups, Node};

/// Notes what the kernel tells the watchers of a directory once it gets the answer. The kernel holds the directory's
/// lock until then, so notes that are made before the answer are in the watchers' order.
pub(in crate::fs) fn note_told(directory: &Node, name: &OsStr, kind: EntryChange) {
    directory.note_told_change(|cgroups| match kind {
        EntryChange::Made => drop(cgroups.insert(name.to_os_string(), 0)),
        EntryChange::Removed => drop(cgroups.remove(name)),
        EntryChange::Renamed | EntryChange::Other => {}
    });
}

/// Returns the cgroups among these entries.
pub(in crate::fs) fn cgroups(entries: &[BackingEntry]) -> Cgroups {
    entries.iter().filter(|entry| entry.is_directory).map(|entry| (entry.name.clone(), entry.inode)).collect()
}
