//! The operations of the filesystem, a file for each kind.

pub(in crate::fs) mod event_control;
pub(in crate::fs) mod file;
pub(in crate::fs) mod filling;
pub(in crate::fs) mod handles;
mod lookup;
mod mutate;
mod poll;
pub(in crate::fs) mod poll_state;
mod read_mode;
mod readdir;
pub(in crate::fs) mod retried_opens;
mod setattr;
mod splice_size;
mod xattr;

pub use file::Transfer;
pub use poll_state::Wake;
pub use read_mode::ReadMode;
