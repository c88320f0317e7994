//! The stack of mounts by which programs on a legacy or hybrid host recognise a view.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use crate::agents::attach::{HierarchyMount, StackSpec, Underlay};
use crate::cgroup::{CgroupPath, HierarchyClass};
use crate::container::covered::CoveredMounts;
use crate::error::Error;
use crate::host::{HostCgroups, HostHierarchy};
use crate::policy::Policy;
use crate::view::{View, ViewHierarchy};

/// The source of the real hierarchies beneath the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnderlaySource {
    /// Bound from the host's mounts.
    Binds,
    /// Mounted anew, in the container's mount namespace.
    Mounts,
}

/// The stack of a view.
pub(crate) fn stack_spec(
    host: &HostCgroups,
    view: &View,
    source: UnderlaySource,
    covered: &CoveredMounts,
) -> Result<StackSpec, Error> {
    let mut spec = StackSpec { flags: covered.tmpfs(), hierarchies: Vec::new(), links: Vec::new() };
    for (index, (shown, mounted)) in view.hierarchies.iter().zip(&host.hierarchies).enumerate() {
        spec.hierarchies.push(HierarchyMount {
            directory: c_string(&shown.directory)?,
            underlay: underlay(mounted, &view.top_path(index), source)?,
            read_only: is_read_only(view, shown),
            flags: covered.hierarchy(&shown.directory),
        });
        for link in &shown.links {
            spec.links.push((c_string(link)?, c_string(&shown.directory)?));
        }
    }
    Ok(spec)
}

/// Returns the mount of the real hierarchy beneath a view's directory. Programs join its mount point and the path in
/// `/proc/self/cgroup`, and ignore the mount's root. So its root is the cgroup that the view shows there.
fn underlay(hierarchy: &HostHierarchy, top: &CgroupPath, source: UnderlaySource) -> Result<Underlay, Error> {
    let below = top.components().join(OsStr::new("/"));
    Ok(match (source, hierarchy.kind.class()) {
        (UnderlaySource::Binds, _) => Underlay::Bind { point: hierarchy.mount_point.clone(), below: c_string(&below)? },
        // A new mount of cgroup2 would change options of the host's superblock.
        (UnderlaySource::Mounts, HierarchyClass::Unified) => Underlay::None,
        (UnderlaySource::Mounts, HierarchyClass::V1Controllers | HierarchyClass::V1Named) => {
            Underlay::Mount { options: c_string(OsStr::new(&hierarchy.kind.to_string()))?, below: c_string(&below)? }
        }
    })
}

/// Whether the container can't write anything in a hierarchy. Then its mounts are read-only, which programs notice
/// before they try. A view that rejects each write makes systemd complain and retry.
pub(crate) fn is_read_only(view: &View, hierarchy: &ViewHierarchy) -> bool {
    let strict = view.rules.policy == Policy::Strict && hierarchy.kind.class() == HierarchyClass::V1Controllers;
    strict || hierarchy.delegated.is_none()
}

fn c_string(name: &OsStr) -> Result<CString, Error> {
    CString::new(name.as_bytes()).map_err(|_| Error::failed("a cgroup's path contains a NUL"))
}
