//! Records of the nodes that the kernel holds in a mount for all callers.

use std::sync::Arc;

use super::cells::CellNumber;
use super::layout::Kind;
use super::layout::entry::{CONTAINER, INNER, LOOKUPS, NUMBER};
use super::store::Records;

/// A node as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedEntry {
    cell: CellNumber,
    /// The id under which the kernel knows it.
    pub number: u64,
    /// The number of its container.
    pub container: u64,
    /// Its id in the container's filesystem.
    pub inner: u64,
    /// How many lookups of it the kernel has.
    pub lookups: u64,
}

/// The record of a node, which is dropped with this.
#[derive(Debug)]
pub struct EntryRecord {
    records: Arc<Records>,
    cell: CellNumber,
}

impl Records {
    /// Makes the record of a node that the kernel knows by `number`. `None` if there's no room.
    pub fn add_entry(self: &Arc<Self>, number: u64, container: u64, inner: u64) -> Option<EntryRecord> {
        let cell = self.cells.take()?;
        let words = [(NUMBER, number), (CONTAINER, container), (INNER, inner), (LOOKUPS, 0)];
        words.into_iter().for_each(|(index, value)| self.cells.store(cell, index, value));
        self.cells.store(cell, 0, Kind::Entry as u64);
        Some(EntryRecord { records: Arc::clone(self), cell })
    }

    /// The nodes that an earlier server left.
    pub fn entries(&self) -> Vec<SavedEntry> {
        let saved = |cell| SavedEntry {
            cell,
            number: self.cells.load(cell, NUMBER),
            container: self.cells.load(cell, CONTAINER),
            inner: self.cells.load(cell, INNER),
            lookups: self.cells.load(cell, LOOKUPS),
        };
        self.cells.all(Kind::Entry).into_iter().map(saved).collect()
    }

    /// Takes over the record of a node that an earlier server left.
    pub fn take_over_entry(self: &Arc<Self>, saved: &SavedEntry) -> EntryRecord {
        EntryRecord { records: Arc::clone(self), cell: saved.cell }
    }
}

impl EntryRecord {
    /// Notes how many lookups the kernel has.
    pub fn set_lookups(&self, lookups: u64) {
        self.records.cells.store(self.cell, LOOKUPS, lookups);
    }
}

impl Drop for EntryRecord {
    fn drop(&mut self) {
        self.records.cells.give_back(self.cell);
    }
}
