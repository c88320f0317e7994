//! The kernel memory of xattrs that were set through a view.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::note::{NOTE_DESCRIPTORS, NoteRecord, SavedNote, Topic};
use super::store::Records;

/// An xattr, or many that nobody can remove any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrState {
    /// Whose budget it takes, as the filesystem encodes it.
    pub tenant: (u64, u64),
    /// The number of the hierarchy.
    pub hierarchy: u64,
    /// The inode number of the directory; 0 for those that nobody can remove any more.
    pub directory: u64,
    /// The kernel memory in bytes.
    pub cost: u64,
    /// The name.
    pub name: OsString,
}

/// An xattr as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedXattr {
    note: SavedNote,
    /// What it is.
    pub state: XattrState,
}

impl Records {
    /// Records an xattr. `None` if there's no room.
    pub fn add_xattr(self: &Arc<Self>, xattr: &XattrState) -> Option<NoteRecord> {
        let XattrState { tenant: (kind, number), hierarchy, directory, cost, name } = xattr;
        let mut text: Vec<u8> = [kind, number, hierarchy, cost].iter().flat_map(|one| one.to_ne_bytes()).collect();
        text.extend(name.as_bytes());
        self.add_note(Topic::Xattr, *directory, &text, [None; NOTE_DESCRIPTORS])
    }

    /// The xattrs that an earlier server left.
    pub fn xattrs(&self) -> Vec<SavedXattr> {
        let notes = self.notes(Topic::Xattr).into_iter();
        notes.filter_map(|note| Some(SavedXattr { state: read(&note)?, note })).collect()
    }

    /// Takes over the record of an xattr.
    pub fn take_over_xattr(self: &Arc<Self>, saved: &SavedXattr) -> NoteRecord {
        self.take_over_note(&saved.note)
    }
}

fn read(note: &SavedNote) -> Option<XattrState> {
    let (numbers, name) = note.text.split_at_checked(4 * size_of::<u64>())?;
    let mut numbers = numbers.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes));
    let mut number = || numbers.next();
    let (tenant, hierarchy, cost) = ((number()?, number()?), number()?, number()?);
    Some(XattrState { tenant, hierarchy, directory: note.key, cost, name: OsStr::from_bytes(name).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xattrs_come_back_until_they_are_removed() {
        let records = Records::new().unwrap();
        records.start();
        let xattr = |directory, name: &str| XattrState {
            tenant: (2, u64::MAX),
            hierarchy: 1,
            directory,
            cost: 120,
            name: name.into(),
        };
        let kept = xattr(7, &"user.".repeat(50));
        std::mem::forget(records.add_xattr(&kept));
        drop(records.add_xattr(&xattr(8, "user.x")));
        std::mem::forget(records.add_xattr(&xattr(0, "")));
        records.start();
        let mut saved = records.xattrs();
        saved.sort_by_key(|saved| saved.state.directory);
        let found: Vec<_> = saved.iter().map(|saved| saved.state.clone()).collect();
        assert_eq!(found, [xattr(0, ""), kept]);
        saved.iter().for_each(|saved| drop(records.take_over_xattr(saved)));
        assert!(records.xattrs().is_empty());
    }
}
