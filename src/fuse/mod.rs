//! The adapter between FUSE and [`CgroupFs`](crate::fs::CgroupFs): the only place that knows `fuser`.

mod adapter;
mod convert;
mod deferred;
mod notify;
mod passthrough;
mod reply;
mod session;
mod workers;

pub use notify::abort_guard::Successor;
pub use notify::self_mount::{OwnMount, detached, detached_from};
pub use session::{Connection, FSTYPE, MountError, serve, serve_callers};
