//! The commands that mend what `explain` has found, as far as one does.

use std::path::PathBuf;

use super::kernel::{Caller, Cause};
use crate::cgroup::{CgroupPath, HierarchyKind, shell_word};
use crate::doctor::finding::Remedy;
use crate::doctor::host_facts::host_path;
use crate::fs::explain::Explanation;
use crate::host::HostCgroups;

/// Where the host has its hierarchies.
#[derive(Debug)]
pub(super) struct HostPaths(Vec<(HierarchyKind, PathBuf)>);

impl HostPaths {
    pub(super) fn of(host: &HostCgroups) -> Self {
        let hierarchies = host.hierarchies.iter();
        Self(hierarchies.map(|hierarchy| (hierarchy.kind.clone(), hierarchy.mount_point.clone())).collect())
    }

    /// The host's path of a backing object.
    fn path(&self, backing: Option<&(String, CgroupPath)>) -> Option<PathBuf> {
        let (kind, path) = backing?;
        let (_, mount_point) = self.0.iter().find(|(known, _)| known.to_string() == *kind)?;
        Some(host_path(mount_point, path))
    }

    /// The commands that enable a controller of cgroup2 for a cgroup: in each cgroup above that lacks it, from the root on.
    pub(super) fn enable(&self, controller: &str, cgroup: &CgroupPath) -> Vec<Remedy> {
        let Some((_, mount_point)) = self.0.iter().find(|(kind, _)| *kind == HierarchyKind::Unified) else {
            return Vec::new();
        };
        let lacks = |list: &PathBuf| {
            let text = std::fs::read_to_string(list).unwrap_or_default();
            !text.split_whitespace().any(|word| word == controller)
        };
        let above = (0..cgroup.depth()).map(|depth| host_path(mount_point, &cgroup.prefix(depth)));
        let lists = above.map(|directory| directory.join("cgroup.subtree_control")).filter(lacks);
        lists.map(|list| Remedy::on_host(format!("echo +{controller} > {}", shell_word(list)))).collect()
    }

    /// The command that lifts a refusal of the kernel's. `backing` finds the host's object of the path's first names,
    /// and `is_allowed` is what the view would say: what its policy rejects, no mode and no mount allows.
    pub(super) fn lift(
        &self,
        cause: &Cause,
        caller: Option<&Caller>,
        is_allowed: bool,
        is_in_container: bool,
        backing: impl Fn(usize) -> Option<(String, CgroupPath)>,
    ) -> Option<Remedy> {
        let object = |depth: usize| self.path(backing(depth).as_ref()).map(shell_word);
        let owner = || caller.map(Caller::owner_words);
        let command = match cause {
            Cause::Mode { .. } | Cause::Owner { .. } | Cause::Mount(_) if !is_allowed => return None,
            Cause::Mounts => return None,
            Cause::Mode { depth, bits: 2, class: 'u' } => format!("chmod u+w {}", object(*depth)?),
            Cause::Mode { depth, bits: 2, .. } | Cause::Owner { depth } => {
                format!("chown {} {}", owner()?, object(*depth)?)
            }
            Cause::Mode { depth, bits, class } => {
                format!("chmod {class}+{} {}", if *bits == 1 { 'x' } else { 'r' }, object(*depth)?)
            }
            Cause::Mount(point) => {
                let command = format!("mount -o remount,bind,rw {}", shell_word(point));
                // The container's own mount(8) must not run with the rights of the host's root.
                return Some(if is_in_container { Remedy::in_container(command) } else { Remedy::on_host(command) });
            }
        };
        Some(Remedy::on_host(command))
    }

    /// The command that migrates a process, which isn't in the delegated subtree, into the cgroup of an explanation.
    pub(super) fn migrate(&self, explanation: &Explanation, process: Option<i32>) -> Option<Remedy> {
        let pid = process?;
        let path = self.path(explanation.backing.as_ref())?;
        let list = if path.is_dir() { path.join("cgroup.procs") } else { path };
        Some(Remedy::on_host(format!("echo {pid} > {}", shell_word(list))))
    }
}
