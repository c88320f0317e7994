//! The real host: its hierarchies, their files, its processes.

mod backing;
pub mod discover;
mod namespace;
mod objects;
pub mod plan;
mod process;
mod procfs;
mod ready;
pub mod refuge;
mod watch;

pub use backing::{BackingFile, RealHost};
pub use discover::{HostCgroups, HostHierarchy, discover};
pub use plan::{PlanError, ViewSpec, plan};
pub use process::Numbers;
pub use procfs::{Namespace, Status, own_namespace, parse_processor, parse_status, same_namespace};
