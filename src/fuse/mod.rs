//! The adapter between FUSE and [`CgroupFs`](crate::fs::CgroupFs): the only place that knows `fuser`.

mod adapter;
mod convert;
mod notifier;
mod offload;
mod own_mount;
mod passthrough;
mod placement;
mod session;
mod successor;

pub use own_mount::{OwnMount, detached};
pub use session::{Connection, FSTYPE, MountError, serve};
pub use successor::Successor;
