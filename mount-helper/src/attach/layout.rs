//! The layout of a view in `/sys/fs/cgroup`, as data: one for hosts with v1 hierarchies, one for those without.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use super::flags::MountFlags;

/// The source of the tmpfs' and the view's mounts, as mountinfo shows it.
pub const MOUNT_SOURCE: &str = "vcgroupfs";
/// The view's filesystem type, as mountinfo shows it.
pub const VIEW_FSTYPE: &str = "fuse.vcgroupfs";

/// The components of `/sys/fs/cgroup`.
pub const SYS_FS_CGROUP: [&CStr; 3] = [c"sys", c"fs", c"cgroup"];

/// A layout to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// For legacy and hybrid hosts.
    Stack(StackSpec),
    /// For unified hosts.
    Sentinel(SentinelSpec),
}

/// The stack of mounts for a host with v1 hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSpec {
    /// The flags of the tmpfs, which is read-only besides.
    pub flags: MountFlags,
    /// The hierarchies.
    pub hierarchies: Vec<HierarchyMount>,
    /// Symlinks and their targets, both single names.
    pub links: Vec<(CString, CString)>,
}

/// One hierarchy in the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HierarchyMount {
    /// Its directory, in the view and in the stack.
    pub directory: CString,
    /// The mount under the view.
    pub underlay: Underlay,
    /// Whether the view's mount is read-only.
    pub read_only: bool,
    /// The other flags of both mounts.
    pub flags: MountFlags,
}

/// The source of the real hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Underlay {
    /// A bind of a v1 hierarchy or cgroup2 that is mounted in this mount namespace.
    Bind {
        /// The mount point.
        point: PathBuf,
        /// The cgroup below its root, relative.
        below: CString,
    },
    /// A new mount of a v1 hierarchy that the host has mounted.
    Mount {
        /// The mount options that select it.
        options: CString,
        /// The cgroup below its root, relative.
        below: CString,
    },
    /// No underlay.
    None,
}

/// The sentinel cgroup for a unified host, and the parts of the view that are mounted in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelSpec {
    /// The source of the sentinel.
    pub underlay: SentinelSource,
    /// The path, in view and sentinel, of the cgroup that the view shows: the container's own or one above it. It's
    /// relative and never empty.
    pub shown: CString,
    /// The path of the container's own cgroup, whose files cover the sentinel's. It's relative and never empty.
    pub own: CString,
    /// The flags of all its mounts; the sentinel is read-only besides.
    pub flags: MountFlags,
    /// Files of the view's top that cover the sentinel's.
    pub files: Vec<CString>,
}

/// The source of the sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentinelSource {
    /// A directory of this mount namespace.
    Bind(PathBuf),
    /// A new mount of the root of this process' cgroup namespace.
    Namespace,
}
