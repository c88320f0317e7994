//! The kernel's rules about users in a migration.

use std::ffi::OsString;

use crate::cgroup::{CgroupPath, HierarchyKind};
use crate::fs::{Attributes, Caller, CgroupFs, Host, SysResult};

/// What decides whether a user may migrate a process, besides the mode of the list that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserCheck {
    /// cgroup v1: the user is root, or one of these, which are the process' real and saved user
    /// (`__cgroup1_procs_write`).
    OwnsProcess([u32; 2]),
    /// cgroup v2: the user may write `cgroup.procs` of this nearest common ancestor of source and destination, which has
    /// these attributes (`cgroup_procs_write_permission`).
    WritesAncestor(CgroupPath, Attributes),
}

impl<H: Host> CgroupFs<H> {
    /// Returns what decides whether a user may migrate `process` into the cgroup with this path, or whose list it
    /// names. `None` if the path leads nowhere.
    ///
    /// # Errors
    /// `ESRCH` if there's no such process; those of reading about it.
    pub fn user_check(&self, names: &[OsString], process: i32) -> SysResult<Option<UserCheck>> {
        let Ok(node) = self.walk(names) else { return Ok(None) };
        let directory = if node.is_directory() { Some(&node) } else { node.parent() };
        let Some((hierarchy, destination)) = directory.and_then(|directory| directory.backing_path(&self.view)) else {
            return Ok(None);
        };
        let mut pinned = self.host.pin_caller(&Caller { tid: process, uid: 0, gid: 0 })?;
        if self.view.hierarchy(hierarchy).is_some_and(|entry| entry.kind != HierarchyKind::Unified) {
            return Ok(Some(UserCheck::OwnsProcess(self.host.facts(&pinned)?.users)));
        }
        let places = self.host.thread_locations(&mut pinned, hierarchy, true)?;
        let Some(source) = places.first().and_then(|place| place.path().cloned()) else { return Ok(None) };
        let ancestor = source.common_ancestor(&CgroupPath::from_components(destination));
        let procs = self.host.procs_attributes(hierarchy, &ancestor)?;
        Ok(Some(UserCheck::WritesAncestor(ancestor, procs)))
    }
}
