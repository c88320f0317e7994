//! The words of records' cells.
//!
//! Each cell begins with a word whose lowest byte is its [`Kind`]. What follows is up to the kind.

/// What a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Free = 0,
    /// A part of a record. What it belongs to is found from the record's first cell.
    Part = 1,
    Node = 2,
    File = 3,
    Passthrough = 4,
    Absence = 5,
    Entry = 6,
    Note = 7,
}

/// A node's first cell. Its first word also has the object, and flags.
pub(super) mod node {
    pub(in crate::records) const ID: usize = 1;
    pub(in crate::records) const LOOKUPS: usize = 2;
    /// The number of the directory's record; above it the scope.
    pub(in crate::records) const PARENT: usize = 3;
    pub(in crate::records) const INODE: usize = 4;
    pub(in crate::records) const NAME: usize = 5;
    /// The number of the cell with the details; above it the number of the watch.
    pub(in crate::records) const DETAILS: usize = 6;
    pub(in crate::records) const POSITION: usize = 7;

    pub(in crate::records) const OBJECT_SHIFT: u32 = 8;
    pub(in crate::records) const HAS_ATTRIBUTES: u64 = 1 << 16;
    pub(in crate::records) const IS_TOLD: u64 = 1 << 17;
    pub(in crate::records) const HAS_TARGET: u64 = 1 << 18;
}

/// The cell with a node's details.
pub(super) mod details {
    pub(in crate::records) const OWNER: usize = 1;
    pub(in crate::records) const MODE: usize = 2;
    pub(in crate::records) const SIZE: usize = 3;
    pub(in crate::records) const TIMES: [usize; 3] = [4, 5, 6];
    /// Of a symlink: its target. Of others: a number that the filesystem chooses.
    pub(in crate::records) const EXTRA: usize = 7;
}

/// An open file's cell. Its first word also has the mode.
pub(super) mod file {
    pub(in crate::records) const HANDLE: usize = 1;
    pub(in crate::records) const NODE: usize = 2;
    /// The descriptor; above it one more than the second one.
    pub(in crate::records) const DESCRIPTORS: usize = 3;
    /// The user whose share it takes; above it the events that nobody was told of yet.
    pub(in crate::records) const USER: usize = 4;
    pub(in crate::records) const POLL: usize = 5;
    pub(in crate::records) const OPENER: usize = 6;

    pub(in crate::records) const MODE_SHIFT: u32 = 8;
    pub(in crate::records) const LATCH_SHIFT: u32 = 32;
}

/// The cell of a node with open files.
pub(super) mod passthrough {
    pub(in crate::records) const NODE: usize = 1;
    /// One more than the number of the backing file.
    pub(in crate::records) const BACKING: usize = 2;
    pub(in crate::records) const COUNT: usize = 3;
    pub(in crate::records) const USER: usize = 4;
}

/// The cell of an absent name.
pub(super) mod absence {
    pub(in crate::records) const DIRECTORY: usize = 1;
    pub(in crate::records) const NAME: usize = 2;
}

/// The cell of a node in a mount for all callers.
pub(super) mod entry {
    pub(in crate::records) const NUMBER: usize = 1;
    pub(in crate::records) const CONTAINER: usize = 2;
    pub(in crate::records) const INNER: usize = 3;
    pub(in crate::records) const LOOKUPS: usize = 4;
}

/// The cell of a note.
pub(super) mod note {
    pub(in crate::records) const TOPIC: usize = 1;
    pub(in crate::records) const KEY: usize = 2;
    pub(in crate::records) const TEXT: usize = 3;
    /// Two words with one more than each descriptor, in halves.
    pub(in crate::records) const DESCRIPTORS: [usize; 2] = [4, 5];
    /// A number that changes.
    pub(in crate::records) const MARK: usize = 6;
}
