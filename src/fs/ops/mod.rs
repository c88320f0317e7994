//! The operations of the filesystem, a file for each kind.

pub(in crate::fs) mod event_control;
pub(in crate::fs) mod file;
pub(in crate::fs) mod handles;
mod lookup;
mod mutate;
pub(in crate::fs) mod poll;
pub(in crate::fs) mod readdir;
pub(in crate::fs) mod splice_size;
pub(in crate::fs) mod xattr;

pub use file::Transfer;
pub use poll::Wake;
pub use readdir::ListedEntry;
pub use splice_size::Reading;
