//! The real host: its hierarchies, their files, its processes.

mod apart;
mod boundary;
pub mod containers;
pub mod discover;
mod errno;
mod file;
mod follow;
mod init;
mod kernel_host;
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

pub use containers::{PidNamespaces, tenant_of};
pub use discover::{HostCgroups, HostHierarchy, discover};
pub use file::BackingFile;
pub use kernel_host::RealHost;
pub use mounts::mount_id;
pub use plan::{PlanError, ViewSpec, plan};
pub use process::{HeldProcess, Numbers};
pub use procfs::{Namespace, Status, own_namespace, parse_status, same_namespace};
pub use shared::SharedHost;
pub use witness::Witnessed;
