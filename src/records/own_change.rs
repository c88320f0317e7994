//! Changes by the view itself, whose events are still to come.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::note::{NOTE_DESCRIPTORS, NoteRecord, SavedNote, Topic};
use super::store::Records;

/// A change of a directory's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnChangeState {
    /// The number that the kernel has given the request.
    pub request: u64,
    /// The number of the hierarchy.
    pub hierarchy: u64,
    /// The inode number of the directory.
    pub directory: u64,
    /// The id of its node.
    pub node: u64,
    /// What happens to the entry; the number is up to the filesystem.
    pub kind: u64,
    /// The name of the entry.
    pub name: OsString,
}

/// A change as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedOwnChange {
    note: SavedNote,
    /// What it was.
    pub state: OwnChangeState,
}

impl Records {
    /// Records a change that is about to be made. `None` if there's no room.
    pub fn add_own_change(self: &Arc<Self>, change: &OwnChangeState) -> Option<NoteRecord> {
        let OwnChangeState { request, hierarchy, directory, node, kind, name } = change;
        let mut text: Vec<u8> = [hierarchy, directory, node, kind].iter().flat_map(|one| one.to_ne_bytes()).collect();
        text.extend(name.as_bytes());
        self.add_note(Topic::OwnChange, *request, &text, [None; NOTE_DESCRIPTORS])
    }

    /// The changes whose events may still come, or aren't dealt with. Drops the others.
    pub(super) fn own_changes(self: &Arc<Self>) -> Vec<SavedOwnChange> {
        let (left, over): (Vec<_>, Vec<_>) = self
            .notes(Topic::OwnChange)
            .into_iter()
            .partition(|note| note.mark == 0 || self.events().is_left(note.mark));
        over.iter().for_each(|note| drop(self.take_over_note(note)));
        left.into_iter().filter_map(|note| Some(SavedOwnChange { state: read(&note)?, note })).collect()
    }

    /// Takes over the record of such a change.
    pub fn take_over_own_change(self: &Arc<Self>, saved: &SavedOwnChange) -> NoteRecord {
        let record = self.take_over_note(&saved.note);
        record.mark(0);
        record
    }
}

fn read(note: &SavedNote) -> Option<OwnChangeState> {
    let mut rest = note.text.as_slice();
    let mut number = || {
        let (first, others) = rest.split_first_chunk()?;
        rest = others;
        Some(u64::from_ne_bytes(*first))
    };
    let [hierarchy, directory, node, kind] = [number()?, number()?, number()?, number()?];
    let name = OsStr::from_bytes(rest).to_owned();
    Some(OwnChangeState { request: note.key, hierarchy, directory, node, kind, name })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn changes_come_back_until_their_events_are_dealt_with() {
        let records = Records::new().unwrap();
        records.start();
        let change = |name: &[u8]| OwnChangeState {
            request: 6,
            hierarchy: 1,
            directory: u64::MAX,
            node: 3,
            kind: 2,
            name: OsString::from_vec(name.to_vec()),
        };
        let [dealt, left] = [8, 16].map(|length| records.events().place_of(records.events().add(&[0; 8]).min(length)));
        for (name, mark) in [(&b"dealt"[..], dealt), (b"left", left), (b"still to come \xff", 0)] {
            let record = records.add_own_change(&change(name)).unwrap();
            record.mark(mark);
            std::mem::forget(record);
        }
        records.events().dealt_with(dealt);
        records.start();
        let saved = records.own_changes();
        let mut found: Vec<_> = saved.iter().map(|saved| saved.state.clone()).collect();
        found.sort_by_key(|state| state.name.len());
        assert_eq!(found, [change(b"left"), change(b"still to come \xff")]);
        assert_eq!(records.notes(Topic::OwnChange).len(), 2);
        saved.iter().for_each(|saved| drop(records.take_over_own_change(saved)));
        assert!(records.own_changes().is_empty());
    }
}
