//! What the host's side knows about a target: its cgroups by the host's paths, and the commands for its view. No I/O.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::limits::Limits;
use crate::cgroup::{CgroupPath, HierarchyKind, shell_word};

/// What the host's side knows about a target. Empty where the host's hierarchies aren't visible.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostFacts {
    /// Its process id.
    pub(crate) pid: i32,
    /// The TARGET that commands take, as one word for a shell.
    pub(crate) target: String,
    /// Whether it has a mount namespace of its own, so that a view can be attached.
    pub(crate) is_container: bool,
    /// The command that makes the container's view anew, with the same options.
    pub(crate) renewal: Option<String>,
    /// Its cgroup in each hierarchy of the host.
    pub(crate) cgroups: Vec<HostCgroup>,
    /// The effective limits.
    pub(crate) limits: Option<Limits>,
}

/// The files of limits that findings name.
pub(crate) const LIMIT_FILES: [&str; 6] =
    ["cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.max", "memory.limit_in_bytes", "pids.max"];

/// The cgroup of a target in a hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostCgroup {
    pub(crate) kind: HierarchyKind,
    /// The directory on which the host has the hierarchy.
    pub(crate) mount_point: PathBuf,
    /// The path, by the host.
    pub(crate) path: CgroupPath,
    /// The delegated subtree of the container's live view.
    pub(crate) delegated: Option<CgroupPath>,
    /// Which of [`LIMIT_FILES`] it has.
    pub(crate) files: BTreeSet<&'static str>,
}

impl HostCgroup {
    /// The host's file of a cgroup in this hierarchy, as a word for a shell.
    pub(crate) fn word_of(&self, cgroup: &CgroupPath, file: &str) -> String {
        shell_word(host_path(&self.mount_point, cgroup).join(file))
    }

    /// Whether the target is outside of the delegated subtree.
    pub(crate) fn is_outside(&self) -> bool {
        self.delegated.as_ref().is_some_and(|delegated| !self.path.is_within(delegated))
    }
}

/// The host's directory of a cgroup in a hierarchy that is mounted there.
pub(crate) fn host_path(mount_point: &std::path::Path, cgroup: &CgroupPath) -> PathBuf {
    let mut path = mount_point.to_path_buf();
    path.extend(cgroup.components());
    path
}
