//! Records of open files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cells::{CellNumber, TextRef};
use super::layout::Kind;
use super::layout::file::{DESCRIPTORS, HANDLE, LATCH_SHIFT, MODE_SHIFT, NODE, OPENER, POLL, USER};
use super::store::{Number, Records};

/// What the record of an open file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// The number under which the kernel knows it.
    pub handle: u64,
    /// The number of its node's record.
    pub node: u32,
    /// The descriptor of the backing file.
    pub descriptor: i32,
    /// The mode and the namespace in which it was opened, as the filesystem encodes them.
    pub mode: u32,
    /// The user whose share of open files it takes.
    pub user: u32,
    /// The opener's rights, as the filesystem encodes them.
    pub opener: Option<Vec<u8>>,
}

/// An open file as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedFile {
    number: CellNumber,
    /// What it is.
    pub state: FileState,
    /// The second descriptor of a membership file.
    pub checked: Option<i32>,
    /// Who polls it, as the kernel numbers them.
    pub poll: Option<u64>,
    /// The events that nobody was told of.
    pub latch: u16,
}

/// The record of an open file, which is dropped with this.
#[derive(Debug)]
pub struct FileRecord {
    records: Arc<Records>,
    cell: CellNumber,
}

impl Records {
    /// Makes the record of an open file. `None` if there's no room.
    pub fn add_file(self: &Arc<Self>, state: &FileState) -> Option<FileRecord> {
        let cell = self.cells.take()?;
        let opener = match state.opener.as_deref().map(|opener| self.cells.put_text(opener)) {
            None => 0,
            Some(Some(text)) => text.0,
            Some(None) => {
                self.cells.give_back(cell);
                return None;
            }
        };
        let words = [
            (HANDLE, state.handle),
            (NODE, u64::from(state.node)),
            (DESCRIPTORS, u64::from(state.descriptor.cast_unsigned())),
            (USER, u64::from(state.user)),
            (POLL, 0),
            (OPENER, opener),
        ];
        words.into_iter().for_each(|(index, value)| self.cells.store(cell, index, value));
        self.cells.store(cell, 0, Kind::File as u64 | u64::from(state.mode) << MODE_SHIFT);
        Some(FileRecord { records: Arc::clone(self), cell })
    }

    /// The open files that an earlier server left.
    pub fn files(&self) -> Vec<SavedFile> {
        self.cells.all(Kind::File).into_iter().map(|cell| self.file(cell)).collect()
    }

    fn file(&self, cell: CellNumber) -> SavedFile {
        let word = |index| self.cells.load(cell, index);
        let opener = TextRef(word(OPENER));
        let (descriptor, second) = (word(DESCRIPTORS) as u32, (word(DESCRIPTORS) >> 32) as u32);
        SavedFile {
            number: cell,
            state: FileState {
                handle: word(HANDLE),
                node: word(NODE) as CellNumber,
                descriptor: descriptor.cast_signed(),
                mode: (word(0) >> MODE_SHIFT) as u32,
                user: word(USER) as u32,
                opener: (opener.0 >> 32 != 0).then(|| self.cells.text(opener)),
            },
            checked: second.checked_sub(1).map(u32::cast_signed),
            poll: Some(word(POLL)).filter(|poll| *poll != 0),
            latch: (word(USER) >> LATCH_SHIFT) as u16,
        }
    }

    /// Takes over the record of a file that an earlier server left.
    pub fn take_over_file(self: &Arc<Self>, file: &SavedFile) -> FileRecord {
        FileRecord { records: Arc::clone(self), cell: file.number }
    }

    /// All descriptors that the next server takes over.
    pub fn descriptors(&self) -> Vec<i32> {
        let numbers = [Number::Watches, Number::BoundaryNamespace].map(|number| self.descriptor(number));
        let files = self.files().into_iter().flat_map(|file| [Some(file.state.descriptor), file.checked]);
        numbers.into_iter().chain(files).flatten().chain(self.noted_descriptors()).collect()
    }

    /// Notes that a descriptor has another number now. For a keeper, while no server runs.
    pub fn move_descriptor(&self, from: i32, to: i32) {
        for number in [Number::Watches, Number::BoundaryNamespace] {
            if self.descriptor(number) == Some(from) {
                self.set_descriptor(number, to);
            }
        }
        self.move_file(from, to);
        self.move_noted(from, to);
    }

    fn move_file(&self, from: i32, to: i32) {
        let (from, to) = (u64::from(from.cast_unsigned()), u64::from(to.cast_unsigned()));
        for cell in self.cells.all(Kind::File) {
            let word = self.cells.load(cell, DESCRIPTORS);
            let (first, second) = (word & u64::from(u32::MAX), word >> 32);
            let first = if first == from { to } else { first };
            let second = if second == from + 1 { to + 1 } else { second };
            self.cells.store(cell, DESCRIPTORS, first | second << 32);
        }
    }
}

impl FileRecord {
    /// Notes the second descriptor of a membership file.
    pub fn set_checked(&self, descriptor: i32) {
        if let Some(word) = self.records.cells.word(self.cell, DESCRIPTORS) {
            let first = word.load(Ordering::Acquire) & u64::from(u32::MAX);
            word.store(first | (u64::from(descriptor.cast_unsigned()) + 1) << 32, Ordering::Release);
        }
    }

    /// Notes that it has no second descriptor.
    pub(super) fn forget_checked(&self) {
        if let Some(word) = self.records.cells.word(self.cell, DESCRIPTORS) {
            word.fetch_and(u64::from(u32::MAX), Ordering::AcqRel);
        }
    }

    /// Notes who polls it.
    pub fn set_poll(&self, poll: u64) {
        self.records.cells.store(self.cell, POLL, poll);
    }

    /// Notes the events that nobody was told of.
    pub fn set_latch(&self, events: u16) {
        if let Some(word) = self.records.cells.word(self.cell, USER) {
            let user = word.load(Ordering::Acquire) & u64::from(u32::MAX);
            word.store(user | u64::from(events) << LATCH_SHIFT, Ordering::Release);
        }
    }
}

impl Drop for FileRecord {
    fn drop(&mut self) {
        let cells = &self.records.cells;
        let opener = cells.load(self.cell, OPENER);
        cells.give_back(self.cell);
        if opener >> 32 != 0 {
            cells.drop_text(TextRef(opener));
        }
    }
}
