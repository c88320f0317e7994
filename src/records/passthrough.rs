//! Records of nodes with open files, and of their backing files in the kernel.

use std::sync::Arc;

use super::cells::CellNumber;
use super::layout::Kind;
use super::layout::passthrough::{BACKING, COUNT, NODE, USER};
use super::store::Records;

/// How many files a node has whose backing file is being given back.
const ENDING: u64 = u64::MAX;

/// The open files of a node, as an earlier server left them.
#[derive(Clone, Debug)]
pub struct SavedPassthrough {
    number: CellNumber,
    /// The id under which the kernel knows the node.
    pub node: u64,
    /// The number of the backing file; `None` if the server reads the files.
    pub backing: Option<u32>,
    /// How many files are open.
    pub count: u64,
    /// The user whose share the backing file takes.
    pub user: u32,
}

impl SavedPassthrough {
    /// Whether the backing file was being given back. So it may be known to the kernel, or not.
    pub fn is_ending(&self) -> bool {
        self.count == ENDING
    }
}

/// The record of a node's open files, which is dropped with this.
#[derive(Debug)]
pub struct PassthroughRecord {
    records: Arc<Records>,
    cell: CellNumber,
}

impl Records {
    /// Makes the record of a node with a first open file. `None` if there's no room.
    pub fn add_passthrough(
        self: &Arc<Self>,
        node: u64,
        backing: Option<u32>,
        user: u32,
        count: u64,
    ) -> Option<PassthroughRecord> {
        let cell = self.cells.take()?;
        let backing = backing.map_or(0, |backing| u64::from(backing) + 1);
        let words = [(NODE, node), (BACKING, backing), (COUNT, count), (USER, u64::from(user))];
        words.into_iter().for_each(|(index, value)| self.cells.store(cell, index, value));
        self.cells.store(cell, 0, Kind::Passthrough as u64);
        Some(PassthroughRecord { records: Arc::clone(self), cell })
    }

    /// The nodes with open files that an earlier server left.
    pub fn passthroughs(&self) -> Vec<SavedPassthrough> {
        let saved = |cell| SavedPassthrough {
            number: cell,
            node: self.cells.load(cell, NODE),
            backing: self.cells.load(cell, BACKING).checked_sub(1).and_then(|backing| u32::try_from(backing).ok()),
            count: self.cells.load(cell, COUNT),
            user: self.cells.load(cell, USER) as u32,
        };
        self.cells.all(Kind::Passthrough).into_iter().map(saved).collect()
    }

    /// Takes over a record that an earlier server left.
    pub fn take_over_passthrough(self: &Arc<Self>, saved: &SavedPassthrough) -> PassthroughRecord {
        PassthroughRecord { records: Arc::clone(self), cell: saved.number }
    }
}

impl PassthroughRecord {
    /// Notes how many files are open.
    pub fn set_count(&self, count: u64) {
        self.records.cells.store(self.cell, COUNT, count);
    }

    /// Notes that the backing file is about to be given back.
    pub fn set_ending(&self) {
        self.set_count(ENDING);
    }
}

impl Drop for PassthroughRecord {
    fn drop(&mut self) {
        self.records.cells.give_back(self.cell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_being_given_back_is_known() {
        let records = Records::new().unwrap();
        records.start();
        let [kept, ended] = [(7, Some(3)), (8, Some(4))].map(|(node, backing)| {
            let record = records.add_passthrough(node, backing, 1000, 2).unwrap();
            (node, record)
        });
        ended.1.set_ending();
        std::mem::forget((kept, ended));
        records.start();
        let mut saved = records.passthroughs();
        saved.sort_by_key(|saved| saved.node);
        let found: Vec<_> = saved.iter().map(|saved| (saved.node, saved.backing, saved.is_ending())).collect();
        assert_eq!(found, [(7, Some(3), false), (8, Some(4), true)]);
    }
}
