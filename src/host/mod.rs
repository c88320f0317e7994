//! The real host: its hierarchies, their files, its processes.

mod backing_file;
mod boundary_namespace;
mod cgroup_namespace;
pub mod containers;
mod detached_mounts;
mod dir_changes;
mod dir_fd_cache;
pub mod discover;
mod errno;
mod hierarchies;
pub mod interface_file;
mod kernel_host;
mod migration_monitor;
mod mounts;
mod nsdelegate;
mod opening;
mod pid_list;
pub mod plan;
mod proc;
mod readiness;
pub mod server_cgroup;
mod shared;
mod watch;

pub use backing_file::BackingFile;
pub use containers::{PidNamespaces, tenant_of};
pub use discover::discover;
pub use hierarchies::{Attached, HostCgroups, HostHierarchy};
pub use kernel_host::KernelHost;
pub use migration_monitor::MonitoredMigration;
pub use mounts::mount_id;
pub use plan::{PlanError, ViewSpec, check_named_once, plan};
pub use proc::held_process::HeldProcess;
pub use proc::processes::PidNs;
pub use proc::procfs::{Namespace, Status, own_namespace, parse_status, same_namespace};
pub use shared::SharedHost;
