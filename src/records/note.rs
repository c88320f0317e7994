//! Notes: texts with a few descriptors, for what a server seldom makes.

use std::sync::Arc;

use super::cells::{CellNumber, TextRef};
use super::layout::Kind;
use super::layout::note::{DESCRIPTORS, KEY, MARK, TEXT, TOPIC};
use super::store::Records;

/// How many descriptors a note may have.
pub const NOTE_DESCRIPTORS: usize = 4;

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Topic {
    /// A pid namespace.
    Namespace = 1,
    /// A container.
    Container = 2,
    /// A caller that has to repeat an open.
    Retry = 3,
    /// A change by the view itself, whose event is still to come.
    OwnChange = 4,
    /// Xattrs that were set through a view.
    Xattr = 5,
    /// A write through the view to a notified file, whose event is still to come.
    OwnWrite = 6,
}

/// A note as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedNote {
    cell: CellNumber,
    /// The number of its subject.
    pub key: u64,
    /// The text.
    pub text: Vec<u8>,
    /// Its descriptors.
    pub descriptors: [Option<i32>; NOTE_DESCRIPTORS],
    /// The number that it was marked with; 0 for none.
    pub mark: u64,
}

/// The record of a note, which is dropped with this.
#[derive(Debug)]
pub struct NoteRecord {
    records: Arc<Records>,
    cell: CellNumber,
}

impl Records {
    /// Makes a note. `None` if there's no room.
    pub fn add_note(
        self: &Arc<Self>,
        topic: Topic,
        key: u64,
        text: &[u8],
        descriptors: [Option<i32>; NOTE_DESCRIPTORS],
    ) -> Option<NoteRecord> {
        let cell = self.cells.take()?;
        let Some(text) = self.cells.put_text(text) else {
            self.cells.give_back(cell);
            return None;
        };
        for (index, value) in [(TOPIC, topic as u64), (KEY, key), (TEXT, text.0), (MARK, 0)] {
            self.cells.store(cell, index, value);
        }
        self.set_descriptors_of(cell, descriptors);
        self.cells.store(cell, 0, Kind::Note as u64);
        Some(NoteRecord { records: Arc::clone(self), cell })
    }

    /// The notes about a topic that an earlier server left.
    pub fn notes(&self, topic: Topic) -> Vec<SavedNote> {
        let cells = self.cells.all(Kind::Note).into_iter();
        let saved = |cell| SavedNote {
            cell,
            key: self.cells.load(cell, KEY),
            text: self.cells.text(TextRef(self.cells.load(cell, TEXT))),
            descriptors: self.descriptors_of(cell),
            mark: self.cells.load(cell, MARK),
        };
        cells.filter(|cell| self.cells.load(*cell, TOPIC) == topic as u64).map(saved).collect()
    }

    /// Takes over a note that an earlier server left.
    pub fn take_over_note(self: &Arc<Self>, saved: &SavedNote) -> NoteRecord {
        NoteRecord { records: Arc::clone(self), cell: saved.cell }
    }

    /// The descriptors of all notes.
    pub(super) fn noted_descriptors(&self) -> Vec<i32> {
        let all = self.cells.all(Kind::Note).into_iter();
        all.flat_map(|cell| self.descriptors_of(cell)).flatten().collect()
    }

    /// Notes that a descriptor has another number now.
    pub(super) fn move_noted(&self, from: i32, to: i32) {
        for cell in self.cells.all(Kind::Note) {
            let moved = self.descriptors_of(cell).map(|one| if one == Some(from) { Some(to) } else { one });
            self.set_descriptors_of(cell, moved);
        }
    }

    fn descriptors_of(&self, cell: CellNumber) -> [Option<i32>; NOTE_DESCRIPTORS] {
        let [first, second] = DESCRIPTORS.map(|index| self.cells.load(cell, index));
        let halves = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
        halves.map(|half| half.checked_sub(1).map(u32::cast_signed))
    }

    fn set_descriptors_of(&self, cell: CellNumber, descriptors: [Option<i32>; NOTE_DESCRIPTORS]) {
        let [a, b, c, d] = descriptors.map(|one| one.map_or(0, |one| u64::from(one.cast_unsigned()) + 1));
        for (index, word) in DESCRIPTORS.into_iter().zip([a | b << 32, c | d << 32]) {
            self.cells.store(cell, index, word);
        }
    }
}

impl NoteRecord {
    /// Marks the note with a number.
    pub fn mark(&self, mark: u64) {
        self.records.cells.store(self.cell, MARK, mark);
    }
}

impl Drop for NoteRecord {
    fn drop(&mut self) {
        let cells = &self.records.cells;
        let text = cells.load(self.cell, TEXT);
        cells.give_back(self.cell);
        cells.drop_text(TextRef(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_with_their_descriptors() {
        let records = Records::new().unwrap();
        records.start();
        let descriptors = [Some(7), None, Some(0), Some(9)];
        let text = vec![b'x'; 300];
        let note = records.add_note(Topic::Namespace, 4711, &text, descriptors).unwrap();
        note.mark(5);
        std::mem::forget(note);
        drop(records.add_note(Topic::Namespace, 1, b"", [None; 4]));
        records.start();
        records.move_descriptor(9, 300);
        let notes = records.notes(Topic::Namespace);
        assert_eq!(notes.len(), 1);
        assert_eq!((notes[0].key, &notes[0].text, notes[0].mark), (4711, &text, 5));
        assert_eq!(notes[0].descriptors, [Some(7), None, Some(0), Some(300)]);
        assert_eq!(records.descriptors(), [7, 0, 300]);
        drop(records.take_over_note(&notes[0]));
        assert!(records.notes(Topic::Namespace).is_empty() && records.notes(Topic::Container).is_empty());
    }
}
