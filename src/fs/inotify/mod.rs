//! Changes that others make on the host, replayed into the view for those who watch it (inotify(7), fanotify(7)).

mod injection;
pub(in crate::fs) mod own_writes;
mod pending;
pub(in crate::fs) mod queue;
mod replay;

pub use pending::{InjectedOp, Injection, Injector};
