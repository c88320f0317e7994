//! Which descriptors the records name at some time, for a process that has them from then on, and no later ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::note::{NOTE_DESCRIPTORS, SavedNote, Topic};
use super::store::{Number, Records};

/// The topics of notes with descriptors.
const TOPICS: [Topic; 1] = [Topic::Namespace];

/// The numbers that stand for descriptors.
const NUMBERS: [Number; 2] = [Number::Watches, Number::BoundaryNamespace];

/// The descriptors of open files, by handle, of notes, and those that numbers stand for.
#[derive(Debug)]
pub struct HeldDescriptors {
    numbers: [u64; NUMBERS.len()],
    files: HashMap<u64, (i32, Option<i32>)>,
    notes: HashSet<(u64, [Option<i32>; NOTE_DESCRIPTORS])>,
}

impl Records {
    /// The descriptors that the records name now.
    pub fn held_descriptors(&self) -> HeldDescriptors {
        let files = self.files().into_iter();
        HeldDescriptors {
            numbers: NUMBERS.map(|number| self.get(number)),
            files: files.map(|file| (file.state.handle, (file.state.descriptor, file.checked))).collect(),
            notes: self.noted().map(|note| (note.key, note.descriptors)).collect(),
        }
    }

    /// Drops what was recorded with other descriptors than these. To be called while no server runs.
    pub fn drop_all_but(self: &Arc<Self>, held: &HeldDescriptors) {
        NUMBERS.into_iter().zip(held.numbers).for_each(|(number, before)| self.set(number, before));
        for file in self.files() {
            let record = self.take_over_file(&file);
            match held.files.get(&file.state.handle) {
                Some((descriptor, checked)) if *descriptor == file.state.descriptor => {
                    if *checked != file.checked {
                        record.forget_checked();
                    }
                    // It goes on.
                    std::mem::forget(record);
                }
                _ => drop(record),
            }
        }
        for note in self.noted().filter(|note| !held.notes.contains(&(note.key, note.descriptors))) {
            drop(self.take_over_note(&note));
        }
    }

    fn noted(&self) -> impl Iterator<Item = SavedNote> {
        TOPICS.into_iter().flat_map(|topic| self.notes(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::FileState;

    #[test]
    fn later_descriptors_are_dropped_and_others_stay() {
        let records = Records::new().unwrap();
        records.start();
        let file = |handle, descriptor| {
            let record = records.add_file(&FileState { handle, descriptor, ..FileState::default() });
            std::mem::forget(record);
            handle
        };
        let note = |key, descriptor| {
            std::mem::forget(records.add_note(Topic::Namespace, key, b"", [Some(descriptor), None, None, None]));
        };
        let closed = file(3, 32);
        file(1, 30);
        file(2, 31);
        note(7, 40);
        note(8, 41);
        records.set_descriptor(Number::Watches, 50);
        let held = records.held_descriptors();
        records.set_descriptor(Number::BoundaryNamespace, 33);
        let of = |handle| records.files().into_iter().find(|file| file.state.handle == handle).unwrap();
        // Another program's server opens a file, and one more with the number of one that it has closed.
        drop(records.take_over_file(&of(closed)));
        file(4, 33);
        file(5, 32);
        let first = records.take_over_file(&of(1));
        first.set_checked(34);
        std::mem::forget(first);
        let ended = records.notes(Topic::Namespace).into_iter().find(|note| note.key == 8).unwrap();
        drop(records.take_over_note(&ended));
        note(9, 41);
        records.start();
        records.drop_all_but(&held);
        let mut files: Vec<_> =
            records.files().iter().map(|file| (file.state.handle, file.state.descriptor, file.checked)).collect();
        files.sort_unstable();
        assert_eq!(files, [(1, 30, None), (2, 31, None)]);
        let numbers = NUMBERS.map(|number| records.descriptor(number));
        assert_eq!(numbers, [Some(50), None]);
        let notes: Vec<_> = records.notes(Topic::Namespace).iter().map(|note| note.key).collect();
        assert_eq!(notes, [7]);
    }
}
