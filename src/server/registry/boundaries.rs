//! The delegated subtrees of a view by their inode numbers: whether they are still the cgroups for which it was made.

use std::ffi::{OsStr, OsString};

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use crate::cgroup::{CgroupPath, HierarchyKind};
use crate::host::{HostCgroups, HostHierarchy};
use crate::server::registry::record::{Record, delegated};
use crate::view::View;

/// The inode number of each delegated subtree, by hierarchy.
pub(crate) fn boundaries(host: &HostCgroups, view: &View) -> Vec<(String, u64)> {
    let number = |(kind, path): (&HierarchyKind, Option<&CgroupPath>)| {
        let hierarchy = host.hierarchies.iter().find(|hierarchy| hierarchy.kind == *kind)?;
        Some((kind.to_string(), inode(hierarchy, path?)?))
    };
    delegated(view).filter_map(number).collect()
}

/// The inode number of a cgroup, if it exists.
fn inode(hierarchy: &HostHierarchy, path: &CgroupPath) -> Option<u64> {
    let below = path.components().join(OsStr::new("/"));
    let below = if below.is_empty() { OsString::from(".") } else { below };
    fstatat(hierarchy.root(), below.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok().map(|found| found.st_ino)
}

/// A delegated subtree that isn't the one for which the view was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostBoundary {
    pub(crate) kind: HierarchyKind,
    /// Whether there is a new cgroup of the same name.
    pub(crate) is_made_again: bool,
}

/// Returns the delegated subtrees that were removed since a view was made, in the hierarchies that this host has.
pub(crate) fn lost_boundaries(host: &HostCgroups, record: &Record) -> Vec<LostBoundary> {
    let lost = |(word, number): &(String, u64)| {
        let kind = HierarchyKind::parse(word);
        let hierarchy = host.hierarchies.iter().find(|hierarchy| hierarchy.kind == kind)?;
        let (_, path) = record.delegated.iter().find(|(own, _)| HierarchyKind::parse(own) == kind)?;
        let now = inode(hierarchy, &CgroupPath::parse(path.as_ref().as_os_str()).ok()?);
        (now != Some(*number)).then_some(LostBoundary { kind, is_made_again: now.is_some() })
    };
    record.boundaries.iter().filter_map(lost).collect()
}
