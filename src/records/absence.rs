//! Records of absent names that the kernel may cache.

use std::sync::Arc;

use super::cells::{CellNumber, TextRef};
use super::layout::Kind;
use super::layout::absence::{DIRECTORY, NAME};
use super::store::Records;

/// An absent name as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedAbsence {
    number: CellNumber,
    /// The id of the directory.
    pub directory: u64,
    /// The name.
    pub name: Vec<u8>,
}

/// The record of an absent name, which is dropped with this.
#[derive(Debug)]
pub struct AbsenceRecord {
    records: Arc<Records>,
    cell: CellNumber,
}

impl Records {
    /// Makes the record of an absent name. `None` if there's no room.
    pub fn add_absence(self: &Arc<Self>, directory: u64, name: &[u8]) -> Option<AbsenceRecord> {
        let cell = self.cells.take()?;
        let Some(name) = self.cells.put_text(name) else {
            self.cells.give_back(cell);
            return None;
        };
        self.cells.store(cell, DIRECTORY, directory);
        self.cells.store(cell, NAME, name.0);
        self.cells.store(cell, 0, Kind::Absence as u64);
        Some(AbsenceRecord { records: Arc::clone(self), cell })
    }

    /// The absent names that an earlier server left.
    pub fn absences(&self) -> Vec<SavedAbsence> {
        let saved = |cell| SavedAbsence {
            number: cell,
            directory: self.cells.load(cell, DIRECTORY),
            name: self.cells.text(TextRef(self.cells.load(cell, NAME))),
        };
        self.cells.all(Kind::Absence).into_iter().map(saved).collect()
    }

    /// Takes over a record that an earlier server left.
    pub fn take_over_absence(self: &Arc<Self>, saved: &SavedAbsence) -> AbsenceRecord {
        AbsenceRecord { records: Arc::clone(self), cell: saved.number }
    }
}

impl Drop for AbsenceRecord {
    fn drop(&mut self) {
        let cells = &self.records.cells;
        let name = cells.load(self.cell, NAME);
        cells.give_back(self.cell);
        cells.drop_text(TextRef(name));
    }
}
