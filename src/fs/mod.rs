//! The filesystem's operations over a view, its policy and a host. It knows no FUSE.
//!
//! An operation finds its node, asks [`policy::decide`](crate::policy::decide), and passes what is allowed to the
//! [`Host`]. A rejection is a [`FsError::Denied`] with its rule; every other error is the kernel's own errno.

pub mod cache;
mod cgroup_fs;
pub mod dispatch;
mod entry;
mod error;
pub mod explain;
mod handle_id;
pub mod host;
pub mod inode;
pub mod inotify;
mod left_behind;
pub mod limits;
pub mod membership;
pub mod ops;
mod saved;
#[cfg(test)]
mod tests;

pub use cache::ListedEntry;
pub use cgroup_fs::CgroupFs;
pub use entry::{Entry, EntryTtl, LookupResult};
pub use error::{FsError, FsResult, SysResult};
pub use handle_id::HandleId;
pub use host::{Caller, Host, OpenMode, Owner, SetAttr, SetTime, Statistics, WriterCredentials};
pub use inode::{Attributes, NodeId, ROOT_ID};
pub use limits::{Permit, RejectionLog};
pub use ops::{ReadMode, Transfer};
