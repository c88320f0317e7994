//! The real host: its hierarchies, their files, its processes.

mod acts;
mod apart;
mod backing;
mod boundary;
pub mod containers;
pub mod discover;
mod file;
mod follow;
mod init;
mod lists;
mod mounts;
mod namespace;
mod objects;
mod opening;
pub mod plan;
mod process;
mod procfs;
mod ready;
pub mod refuge;
mod shared;
mod watch;
mod witness;
mod writes;
mod xattrs;

pub use backing::RealHost;
pub use containers::{PidNamespaces, tenant_of};
pub use discover::{HostCgroups, HostHierarchy, discover};
pub use file::BackingFile;
pub use mounts::mount_id;
pub use plan::{PlanError, ViewSpec, plan};
pub use process::{HeldProcess, Numbers};
pub use procfs::{Namespace, Status, own_namespace, parse_status, same_namespace};
pub use shared::SharedHost;
pub use witness::Witnessed;
