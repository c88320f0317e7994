//! The facts: everything that a target's programs can find out about their cgroups. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::host_facts::HostFacts;
use super::reading::{Files, System};
use crate::cgroup::{
    CgroupPath, ControllerSet, HierarchyKind, Membership, MountEntry, parse_memberships, parse_mountinfo,
};

/// The directory where every program looks first.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The directories where hybrid setups have cgroup2, and where systemd has its v1 hierarchy.
pub(crate) const UNIFIED: &str = "/sys/fs/cgroup/unified";
pub(crate) const SYSTEMD: &str = "/sys/fs/cgroup/systemd";

/// The directories where elogind and OpenRC have v1 hierarchies of their own.
pub(crate) const ELOGIND: &str = "/sys/fs/cgroup/elogind";
pub(crate) const OPENRC: &str = "/sys/fs/cgroup/openrc";

/// The cgroup into which Docker puts its containers by default.
pub(crate) const DOCKER: &str = "docker";

/// The filesystem type of a view in mountinfo.
pub(crate) const VIEW: &str = "fuse.vcgroupfs";

/// The kernel's information about the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    /// Its command name.
    pub(crate) command: String,
    /// `/proc/PID/cgroup` and `/proc/PID/mountinfo`, read in its own cgroup namespace.
    pub(crate) cgroup: String,
    pub(crate) mountinfo: String,
    /// `/proc/cgroups`.
    pub(crate) controllers: String,
    /// Whether its cgroup namespace isn't the initial one; `None` if the kernel has no cgroup namespaces.
    pub(crate) cgroup_namespace: Option<bool>,
    /// Whether it has CAP_SYS_ADMIN over its mount namespace.
    pub(crate) may_mount: bool,
    /// Whether the kernel has openat2 (Linux 5.6).
    pub(crate) openat2: bool,
    /// How many CPUs sched_getaffinity(2) gives it, and how many are online.
    pub(crate) affinity: u64,
    pub(crate) online: u64,
    /// The machine's memory in bytes.
    pub(crate) memory: u64,
}

/// The findings at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathProbe {
    /// The `f_type` of statfs(2).
    pub(crate) magic: i64,
    /// Whether it's a directory; otherwise it's a regular file or another object.
    pub(crate) directory: bool,
    /// Whether the target may write it, by mode, owner and mount.
    pub(crate) writable: bool,
    /// Whether it's reached from the root without crossing a mount or a symlink (openat2 with RESOLVE_NO_XDEV).
    pub(crate) one_mount: bool,
}

/// The outcome of probing a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProbeOutcome {
    /// It exists.
    Found(PathProbe),
    /// The probe failed with this errno.
    Failed(i32),
    /// The probe got no answer for so long that the filesystem counts as hung.
    Silent,
}

/// The number of bytes that read(2) and sendfile(2) returned for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CopyCheck {
    pub(crate) by_read: u64,
    pub(crate) by_sendfile: u64,
}

/// The rules of a live view, by its record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ViewRules {
    pub(crate) policy: String,
    pub(crate) delegate_controllers: Vec<String>,
    /// The hierarchies in which the delegated subtree was removed and made again since the view was made.
    pub(crate) made_again: Vec<HierarchyKind>,
    /// The hierarchies in which it was removed, and there is no cgroup of that name.
    pub(crate) removed: Vec<HierarchyKind>,
}

/// The findings of the probe, path by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeResults {
    /// The outcome for each path.
    pub(crate) places: BTreeMap<String, ProbeOutcome>,
    /// The contents of files; `None` for files that can't be read.
    pub(crate) contents: BTreeMap<String, Option<String>>,
    /// A file of a view, read in two ways.
    pub(crate) copied: Option<(String, CopyCheck)>,
}

/// What the registry says of the processes that serve the container's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerFacts {
    /// Why nobody serves the view any more, if so.
    pub(crate) failure: Option<String>,
    /// The command that makes a failed view work again.
    pub(crate) remedy: Option<String>,
    /// How often the server was started again, when and why, if ever.
    pub(crate) restarts: Option<String>,
    /// Whether nothing starts the server again if it ends.
    pub(crate) has_lost_keeper: bool,
}

/// Everything that is known about a target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) process: Process,
    pub(crate) memberships: Vec<Membership>,
    pub(crate) mounts: Vec<MountEntry>,
    places: BTreeMap<String, ProbeOutcome>,
    contents: BTreeMap<String, Option<String>>,
    pub(crate) copied: Option<(String, CopyCheck)>,
    /// The rules of the container's view, if its record was found.
    pub(crate) rules: Option<ViewRules>,
    pub(crate) server: ServerFacts,
    pub(crate) host: HostFacts,
}

/// The type of a filesystem, as statfs(2) tells programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FsType {
    Cgroup2,
    Cgroup,
    Tmpfs,
    Fuse,
    Other(i64),
    Failed(i32),
    Silent,
}

/// `FUSE_SUPER_MAGIC`.
pub(crate) const FUSE: i64 = 0x6573_5546;

/// Numbers of linux/magic.h.
pub(crate) const FS_TYPES: [(i64, FsType); 4] =
    [(0x6367_7270, FsType::Cgroup2), (0x0027_e0eb, FsType::Cgroup), (0x0102_1994, FsType::Tmpfs), (FUSE, FsType::Fuse)];

impl Files for Facts {
    fn read(&self, path: &str) -> Option<String> {
        self.contents.get(path).cloned().flatten()
    }

    fn exists(&self, path: &str) -> bool {
        matches!(self.places.get(path), Some(ProbeOutcome::Found(_))) || self.read(path).is_some()
    }

    fn is_cgroup2(&self, path: &str) -> bool {
        matches!(self.places.get(path), Some(ProbeOutcome::Found(place)) if FsType::of(place.magic) == FsType::Cgroup2)
    }
}

impl FsType {
    /// The type that has this number.
    pub(crate) fn of(magic: i64) -> Self {
        FS_TYPES.iter().find(|(known, _)| *known == magic).map_or(Self::Other(magic), |(_, name)| *name)
    }
}

impl Facts {
    pub(crate) fn new(process: Process, found: ProbeResults) -> Self {
        let memberships = parse_memberships(process.cgroup.as_bytes());
        let mounts = parse_mountinfo(process.mountinfo.as_bytes());
        let ProbeResults { places, contents, copied } = found;
        let (server, host) = (ServerFacts::default(), HostFacts::default());
        Self { process, memberships, mounts, places, contents, copied, rules: None, server, host }
    }

    /// The input of the models.
    pub(crate) fn system(&self) -> System {
        System {
            cgroup: self.process.cgroup.clone(),
            mounts: self.mounts.clone(),
            controllers: self.process.controllers.clone(),
            affinity: self.process.affinity,
            online: self.process.online,
            memory: self.process.memory,
        }
    }

    /// Whether a path is on a view whose server has ended, or doesn't answer.
    pub(crate) fn is_dead(&self, path: &str) -> bool {
        matches!(self.at(path), ProbeOutcome::Failed(libc::ENOTCONN | libc::ECONNABORTED) | ProbeOutcome::Silent)
    }

    /// The outcome for a path. Paths that weren't probed, because of a hung filesystem, count as silent.
    pub(crate) fn at(&self, path: &str) -> &ProbeOutcome {
        #[cfg(test)]
        assert!(self.places.is_empty() || self.places.contains_key(path), "{path} isn't among the places to look at");
        self.places.get(path).unwrap_or(&ProbeOutcome::Silent)
    }

    /// Whether the view's record says that a v1 controller is delegated.
    pub(crate) fn delegates(&self, controller: &str) -> bool {
        let has = |rules: &ViewRules| {
            rules.policy == "delegate" && rules.delegate_controllers.iter().any(|word| word == controller)
        };
        self.rules.as_ref().is_some_and(has)
    }

    /// Whether a path was probed.
    pub(crate) fn knows(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// Whether a view's server has ended, or doesn't answer.
    pub(crate) fn has_broken_view(&self) -> bool {
        let is_broken = |answer: Option<&ProbeOutcome>| {
            matches!(answer, Some(ProbeOutcome::Failed(libc::ENOTCONN | libc::ECONNABORTED) | ProbeOutcome::Silent))
        };
        let mut views = self.mounts.iter().filter(|mount| mount.fstype == VIEW && is_in_root(mount));
        views.any(|mount| is_broken(self.places.get(&point(mount))))
    }

    /// Marks those of these paths that weren't probed as absent.
    #[cfg(test)]
    pub(crate) fn mark_absent(&mut self, paths: impl IntoIterator<Item = String>) {
        for path in paths {
            self.places.entry(path).or_insert(ProbeOutcome::Failed(libc::ENOENT));
        }
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        matches!(self.at(path), ProbeOutcome::Found(_))
    }

    pub(crate) fn is_writable(&self, path: &str) -> bool {
        matches!(self.at(path), ProbeOutcome::Found(place) if place.writable)
    }

    /// The type of the filesystem at a path.
    pub(crate) fn type_of(&self, path: &str) -> FsType {
        match self.at(path) {
            ProbeOutcome::Found(place) => FsType::of(place.magic),
            ProbeOutcome::Failed(errno) => FsType::Failed(*errno),
            ProbeOutcome::Silent => FsType::Silent,
        }
    }

    /// Whether `/sys/fs/cgroup` has the type by which every program recognises cgroup v2.
    pub(crate) fn is_v2(&self) -> bool {
        self.type_of(ROOT) == FsType::Cgroup2
    }

    /// The hierarchy that has a controller, or is named so (`name=systemd`, `unified`).
    pub(crate) fn hierarchy(&self, word: &str) -> Option<&Membership> {
        self.memberships.iter().find(|member| member.kind.matches(word))
    }

    /// The target's cgroup in a hierarchy, if its cgroup namespace can name it.
    pub(crate) fn own_path(&self, word: &str) -> Option<&CgroupPath> {
        self.hierarchy(word)?.location.path()
    }

    /// The v1 controllers that have a hierarchy.
    pub(crate) fn v1_controllers(&self) -> impl Iterator<Item = &str> {
        self.memberships.iter().filter_map(|member| member.kind.controllers()).flat_map(ControllerSet::iter)
    }

    /// Returns the first line of mountinfo of type `cgroup` or `cgroup2` that shows this hierarchy. Programs that use
    /// mountinfo take it, even if another mount covers it.
    pub(crate) fn line(&self, word: &str) -> Option<&MountEntry> {
        self.mounts.iter().find(|mount| mount.hierarchy().is_some_and(|kind| kind.matches(word)))
    }

    /// Returns the mount of a path: the last one in mountinfo at or above it.
    pub(crate) fn mount_of(&self, path: &str) -> Option<&MountEntry> {
        mount_of(&self.mounts, path)
    }

    /// Returns the mounts that cover a view as a whole, so that programs don't see it, unless they see others there.
    pub(crate) fn covers(&self) -> impl Iterator<Item = &MountEntry> {
        let views = self.mounts.iter().filter(|mount| mount.fstype == VIEW && is_in_root(mount));
        let hidden: Vec<u32> = views
            .filter_map(|view| self.mount_of(&point(view)).filter(|top| top.id != view.id && top.fstype != VIEW))
            .filter(|top| !self.views().any(|seen| Path::new(&seen.mount_point).starts_with(&top.mount_point)))
            .map(|top| top.id)
            .collect();
        self.mounts.iter().filter(move |mount| hidden.contains(&mount.id))
    }

    /// Returns the views on or below `/sys/fs/cgroup` that no other mount covers. Single files, which `attach` mounts
    /// on unified hosts, don't count.
    pub(crate) fn views(&self) -> impl Iterator<Item = &MountEntry> {
        let is_seen = |mount: &&MountEntry| self.mount_of(&point(mount)).is_some_and(|top| top.id == mount.id);
        let is_file =
            |mount: &&MountEntry| matches!(self.at(&point(mount)), ProbeOutcome::Found(place) if !place.directory);
        let views = self.mounts.iter().filter(|mount| mount.fstype == VIEW && is_in_root(mount));
        views.filter(is_seen).filter(move |mount| !is_file(mount))
    }

    /// Whether a path is on a view.
    pub(crate) fn is_view(&self, path: &str) -> bool {
        self.mount_of(path).is_some_and(|mount| mount.fstype == VIEW)
    }
}

/// A mount's mount point as text.
pub(crate) fn point(mount: &MountEntry) -> String {
    mount.mount_point.to_string_lossy().into_owned()
}

/// Whether it's mounted on or below `/sys/fs/cgroup`.
pub(crate) fn is_in_root(mount: &MountEntry) -> bool {
    mount.mount_point == ROOT || point(mount).starts_with(&format!("{ROOT}/"))
}

pub(crate) fn mount_of<'a>(mounts: &'a [MountEntry], path: &str) -> Option<&'a MountEntry> {
    mounts.iter().rfind(|mount| {
        let point = point(mount);
        let rest = path.strip_prefix(point.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Joins a mount point and a cgroup, as programs do.
pub(crate) fn join(base: &str, path: &CgroupPath) -> String {
    if path.is_root() { base.to_owned() } else { format!("{base}{path}") }
}

/// Joins them like programs that remove the mount's root from the path. `None` if the cgroup isn't below that root.
pub(crate) fn join_below(mount: &MountEntry, path: &CgroupPath) -> Option<String> {
    let root = CgroupPath::parse(&mount.root).ok()?;
    Some(join(&point(mount), &path.relative_to(&root)?))
}

/// The directories in which programs look for a hierarchy without mountinfo.
pub(crate) fn directories(kind: &HierarchyKind) -> Vec<String> {
    match kind {
        HierarchyKind::Unified => vec![ROOT.to_owned(), UNIFIED.to_owned()],
        HierarchyKind::V1 { controllers, name } => {
            let sorted = controllers.iter().collect::<Vec<_>>().join(",");
            let joint = [sorted, controllers.to_string()].into_iter().filter(|_| controllers.len() > 1);
            let words = controllers.iter().map(str::to_owned).chain(joint).chain(name.clone());
            words.map(|word| format!("{ROOT}/{word}")).collect()
        }
    }
}

/// An errno by its name.
pub(crate) fn errno(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::UnknownErrno => format!("errno {number}"),
        errno => format!("{errno:?}"),
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup2 => f.write_str("is cgroup2"),
            Self::Cgroup => f.write_str("is cgroup"),
            Self::Tmpfs => f.write_str("is tmpfs"),
            Self::Fuse => f.write_str("is FUSE"),
            Self::Other(magic) => write!(f, "has type {magic:#x}"),
            Self::Failed(libc::ENOENT) => f.write_str("isn't there"),
            Self::Failed(number) => write!(f, "can't be asked ({})", errno(*number)),
            Self::Silent => f.write_str("doesn't answer"),
        }
    }
}
