//! The adapter between FUSE and [`CgroupFs`](crate::fs::CgroupFs): the only place that knows `fuser`.

mod adapter;
mod connection;
mod convert;
mod files;
mod listings;
mod negotiated;
mod notify;
mod operations;
mod passthrough;
mod reply;
mod session;
mod workers;

pub use connection::{Connection, FSTYPE, MountError};
pub use notify::abort_guard::AbortGuard;
pub use notify::notification::refuse_request;
pub use notify::self_mount::{SelfMount, detached_copy, detached_mount};
pub use session::{serve, serve_callers};
