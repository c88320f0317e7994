//! The adapter between FUSE and [`CgroupFs`](crate::fs::CgroupFs): the only place that knows `fuser`.

mod adapter;
mod convert;
mod offload;
mod passthrough;
mod placement;
mod session;

pub use session::{Connection, FSTYPE, MountError, serve};
