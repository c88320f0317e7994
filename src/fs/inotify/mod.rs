//! Changes that others make on the host, replayed into the view for those who watch it (inotify(7), fanotify(7)).

pub(in crate::fs) mod injection;
pub(in crate::fs) mod own_writes;
pub(in crate::fs) mod replay;

pub use replay::{Act, Deed, OwnMount};
