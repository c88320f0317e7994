//! Writes through the view to notified files, whose events may still come.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::note::{NOTE_DESCRIPTORS, NoteRecord, SavedNote, Topic};
use super::store::Records;

/// The monotonic clock, in nanoseconds.
fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

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
    /// How long ago it was over; 0 if it was being made.
    pub age: Duration,
}

impl Records {
    /// Records a write that is about to be made. `None` if there's no room.
    pub fn add_own_write(self: &Arc<Self>, hierarchy: usize, directory: u64, name: &OsStr) -> Option<NoteRecord> {
        let text = [&(hierarchy as u64).to_ne_bytes(), name.as_bytes()].concat();
        self.add_note(Topic::OwnWrite, directory, &text, [None; NOTE_DESCRIPTORS])
    }

    /// The writes that an earlier server left.
    pub(super) fn own_writes(&self) -> Vec<SavedOwnWrite> {
        let now = monotonic();
        let saved = |note: SavedNote| {
            let (hierarchy, name) = note.text.split_first_chunk()?;
            let hierarchy = usize::try_from(u64::from_ne_bytes(*hierarchy)).ok()?;
            let name = OsStr::from_bytes(name).to_owned();
            let over = Some(note.mark).filter(|mark| *mark != 0).unwrap_or(now);
            let age = Duration::from_nanos(now.saturating_sub(over));
            Some(SavedOwnWrite { hierarchy, directory: note.key, name, age, note })
        };
        self.notes(Topic::OwnWrite).into_iter().filter_map(saved).collect()
    }

    /// Notes that a write is over.
    pub fn end_own_write(record: &NoteRecord) {
        record.mark(monotonic());
    }

    /// Takes over the record of such a write.
    pub fn take_over_own_write(self: &Arc<Self>, saved: &SavedOwnWrite) -> NoteRecord {
        self.take_over_note(&saved.note)
    }
}
