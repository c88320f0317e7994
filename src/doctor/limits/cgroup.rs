//! The cgroups of a process from its own up to the root, and what their files say.

use crate::cgroup::{CgroupPath, HierarchyKind, Membership};
use crate::doctor::reading::{field, number};

/// The host's cgroupfs.
pub(crate) trait HostFiles {
    /// Reads an interface file of a cgroup. `None` if the hierarchy, the cgroup or the file doesn't exist.
    fn read(&self, kind: &HierarchyKind, path: &CgroupPath, file: &str) -> Option<String>;

    /// Whether the cgroup exists, or with `file`, whether it has such a file.
    fn exists(&self, kind: &HierarchyKind, path: &CgroupPath, file: Option<&str>) -> bool;
}

/// One cgroup of a hierarchy.
#[derive(Clone)]
pub(crate) struct Cgroup<'a> {
    host: &'a dyn HostFiles,
    kind: &'a HierarchyKind,
    path: CgroupPath,
}

/// The content of an interface file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Text(String),
    Absent,
    Unreadable,
}

impl Content {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Cgroup<'_> {
    /// `HIERARCHY:PATH`.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.kind, self.path)
    }

    /// Whether the cgroup can be seen.
    pub(crate) fn is_seen(&self) -> bool {
        self.host.exists(self.kind, &self.path, None)
    }

    pub(crate) fn content(&self, file: &str) -> Content {
        match self.host.read(self.kind, &self.path, file) {
            Some(text) => Content::Text(text),
            None if self.host.exists(self.kind, &self.path, Some(file)) => Content::Unreadable,
            None => Content::Absent,
        }
    }

    /// A file with a single number, or with `key`, the number of that key in a file of lines `KEY NUMBER`.
    pub(crate) fn number(&self, file: &str, key: Option<&str>) -> Option<u64> {
        let text = self.host.read(self.kind, &self.path, file)?;
        key.map_or_else(|| number(&text), |key| field(&text, key))
    }
}

/// The cgroups of a process in the hierarchy that has a controller, from its own up to the root. On v1 that is the
/// hierarchy with this name of the controller, otherwise v2. `None` if the process is in no such hierarchy, or in a cgroup that
/// can't be named from here.
pub(crate) fn cgroups<'a>(
    host: &'a dyn HostFiles,
    memberships: &'a [Membership],
    v1_name: &str,
) -> Option<(Version, Vec<Cgroup<'a>>)> {
    let has_controller = |member: &&Membership| member.kind.controllers().is_some_and(|all| all.contains(v1_name));
    let v1 = memberships.iter().find(has_controller).map(|member| (Version::V1, member));
    let v2 = || memberships.iter().find(|member| member.kind == HierarchyKind::Unified);
    let (version, member) = v1.or_else(|| v2().map(|member| (Version::V2, member)))?;
    let own = member.location.path()?;
    let cgroup = |depth| Cgroup { host, kind: &member.kind, path: own.prefix(depth) };
    Some((version, (0..=own.depth()).rev().map(cgroup).collect()))
}

/// The version of cgroup of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}
