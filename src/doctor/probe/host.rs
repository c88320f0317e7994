//! The host's side: the files behind a process' view, and the record of the view.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use crate::cgroup::{CgroupPath, HierarchyKind, Membership, parse_memberships};
use crate::doctor::facts::{Facts, ViewRules};
use crate::doctor::host_facts::{HostCgroup, LIMIT_FILES};
use crate::doctor::limits::{HostFiles, Limits};
use crate::doctor::native::NativeFiles;
use crate::doctor::probe::target::ProbeTarget;
use crate::host::{HostCgroups, discover};
use crate::server::registry;
use crate::server::registry::boundaries::LostBoundary;
use crate::server::registry::record::Record;

/// How many bytes of an interface file are read.
pub(crate) const MAX_CONTENT_BYTES: u64 = 64 << 10;

/// The host's hierarchies, and the cgroups of a process in them.
#[derive(Debug)]
pub(crate) struct HostView {
    host: HostCgroups,
    memberships: Vec<Membership>,
}

impl HostView {
    /// Opens the host's side for a process. `None` if the host's hierarchies aren't visible (inside a container), or
    /// the process' cgroups have no path.
    pub(crate) fn of(target: &ProbeTarget) -> Option<Self> {
        let host = discover().ok()?;
        let memberships = memberships(target)?;
        let is_there = |member: &&Membership| host.hierarchies.iter().any(|hierarchy| hierarchy.kind == member.kind);
        memberships.iter().any(|member| is_there(&member)).then_some(Self { host, memberships })
    }

    pub(crate) fn limits(&self, facts: &Facts) -> Limits {
        Limits::of(&self.memberships, self, facts.process.affinity, facts.process.memory)
    }

    /// The process' cgroups. `record` is that of its live view.
    pub(crate) fn cgroups(&self, record: Option<&Record>) -> Vec<HostCgroup> {
        let delegated = |kind: &HierarchyKind| {
            let (_, path) = record?.delegated.iter().find(|(word, _)| HierarchyKind::parse(word) == *kind)?;
            CgroupPath::parse(path.as_ref().as_os_str()).ok()
        };
        let of = |member: &Membership| {
            let hierarchy = self.host.hierarchies.iter().find(|hierarchy| hierarchy.kind == member.kind)?;
            let (kind, mount_point) = (hierarchy.kind.clone(), hierarchy.mount_point.clone());
            let path = member.location.path()?.clone();
            let files = LIMIT_FILES.into_iter().filter(|file| self.exists(&kind, &path, Some(file))).collect();
            Some(HostCgroup { delegated: delegated(&kind), kind, mount_point, path, files })
        };
        self.memberships.iter().filter_map(of).collect()
    }

    pub(crate) fn native(&self, facts: &Facts) -> Option<NativeFiles<'_>> {
        NativeFiles::of(&facts.system(), &self.memberships, self)
    }

    fn open(&self, kind: &HierarchyKind, path: &CgroupPath) -> Option<OwnedFd> {
        let index = self.host.hierarchies.iter().position(|hierarchy| hierarchy.kind == *kind)?;
        self.host.open_cgroup(index, path).ok()
    }
}

impl HostFiles for HostView {
    fn read(&self, kind: &HierarchyKind, path: &CgroupPath, file: &str) -> Option<String> {
        let cgroup = self.open(kind, path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::from(openat(cgroup.as_fd(), file, flags, Mode::empty()).ok()?);
        let mut text = String::new();
        file.take(MAX_CONTENT_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn exists(&self, kind: &HierarchyKind, path: &CgroupPath, file: Option<&str>) -> bool {
        let Some(cgroup) = self.open(kind, path) else { return false };
        file.is_none_or(|file| fstatat(cgroup.as_fd(), file, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok())
    }
}

/// The rules of a live view, by its record.
pub(crate) fn rules(record: &Record) -> ViewRules {
    // Unknown inside a container, which doesn't see the host's hierarchies.
    let lost = discover().map(|host| registry::lost_boundaries(&host, record)).unwrap_or_default();
    let (made_again, removed): (Vec<_>, Vec<_>) = lost.into_iter().partition(|boundary| boundary.is_made_again);
    let kinds = |all: Vec<LostBoundary>| all.into_iter().map(|boundary| boundary.kind).collect();
    ViewRules {
        policy: record.policy.clone(),
        delegate_controllers: record.delegate_controllers.clone(),
        made_again: kinds(made_again),
        removed: kinds(removed),
    }
}

/// Whether a process is in a delegated subtree of a view.
pub(crate) fn is_delegated(record: &Record, target: &ProbeTarget) -> bool {
    let own = memberships(target).unwrap_or_default();
    record.delegated.iter().any(|(kind, delegated)| {
        let member = own.iter().find(|member| member.kind == HierarchyKind::parse(kind));
        let path = member.and_then(|member| member.location.path());
        path.is_some_and(|path| Path::new(&path.to_os_string()).starts_with(delegated))
    })
}

/// The cgroups of a process, by the host's paths.
fn memberships(target: &ProbeTarget) -> Option<Vec<Membership>> {
    let mut text = Vec::new();
    File::from(target.open_file("cgroup", OFlag::O_RDONLY).ok()?).read_to_end(&mut text).ok()?;
    Some(parse_memberships(&text))
}
