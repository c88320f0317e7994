//! The adapter between FUSE and [`CgroupFs`](crate::fs::CgroupFs): the only place that knows `fuser`.

mod adapter;
mod ask;
mod convert;
mod lookout;
mod notifier;
mod offload;
mod owing;
mod own_mount;
mod passthrough;
mod placement;
mod session;
mod standby;
mod successor;
mod turn;

pub use own_mount::{OwnMount, detached, detached_from};
pub use session::{Connection, FSTYPE, MountError, serve, serve_callers};
pub use successor::Successor;
