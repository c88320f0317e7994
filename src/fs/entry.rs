//! The results of a lookup.

use std::time::Duration;

use super::inode::{Attributes, NodeId};

/// The result of a lookup.
#[derive(Debug)]
pub enum LookupResult {
    /// An entry, whose lookup is counted.
    Entry(Entry),
    /// Nothing (`ENOENT`), and how long the kernel may cache that.
    Negative(Duration),
}

/// An entry that a lookup found.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its node id.
    pub id: NodeId,
    /// Its attributes, with the mode to show.
    pub attributes: Attributes,
    /// How long the kernel may cache them.
    pub ttl: EntryTtl,
}

/// How long the kernel may cache a found entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryTtl {
    /// How long the kernel may cache the name.
    pub entry: Duration,
    /// How long the kernel may cache the attributes.
    pub attributes: Duration,
}

/// How long the kernel may cache watched entries. Changes are invalidated at once; this only bounds the effect of a
/// lost event.
pub(in crate::fs) const WATCHED_TTL: Duration = Duration::from_secs(60);
