//! Writes through the view to notified files, whose events may still come.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::note::{NOTE_DESCRIPTORS, NoteRecord, SavedNote, Topic};
use super::store::Records;

/// A write as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedOwnWrite {
    note: SavedNote,
    /// The number of the hierarchy.
    pub hierarchy: usize,
    /// The inode number of the directory.
    pub directory: u64,
    /// The name of the file.
    pub name: OsString,
}

impl Records {
    /// Records a write that is about to be made. `None` if there's no room.
    pub fn add_own_write(self: &Arc<Self>, hierarchy: usize, directory: u64, name: &OsStr) -> Option<NoteRecord> {
        let text = [&(hierarchy as u64).to_ne_bytes(), name.as_bytes()].concat();
        self.add_note(Topic::OwnWrite, directory, &text, [None; NOTE_DESCRIPTORS])
    }

    /// The writes that an earlier server left.
    pub(super) fn own_writes(&self) -> Vec<SavedOwnWrite> {
        let saved = |note: SavedNote| {
            let (hierarchy, name) = note.text.split_first_chunk()?;
            let hierarchy = usize::try_from(u64::from_ne_bytes(*hierarchy)).ok()?;
            let name = OsStr::from_bytes(name).to_owned();
            Some(SavedOwnWrite { hierarchy, directory: note.key, name, note })
        };
        self.notes(Topic::OwnWrite).into_iter().filter_map(saved).collect()
    }

    /// Takes over the record of such a write.
    pub fn take_over_own_write(self: &Arc<Self>, saved: &SavedOwnWrite) -> NoteRecord {
        self.take_over_note(&saved.note)
    }
}
