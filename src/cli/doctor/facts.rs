//! What a target's programs can find out about their cgroups: plain data, and what can be looked up in it. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::{
    CgroupPath, ControllerSet, HierarchyKind, Membership, MountEntry, parse_memberships, parse_mountinfo,
};

/// Where every client looks first.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// Where hybrid setups have cgroup2, and where systemd has its v1 hierarchy.
pub(super) const UNIFIED: &str = "/sys/fs/cgroup/unified";
pub(super) const SYSTEMD: &str = "/sys/fs/cgroup/systemd";

/// Which cgroup Docker puts its containers into, unless it's told another.
pub(super) const DOCKER: &str = "docker";

/// The type of a view in mountinfo.
pub(super) const VIEW: &str = "fuse.vcgroupfs";

/// How many places are looked at, at most: mountinfo is the container's to fill.
const PLACES_AT_MOST: usize = 4096;

/// What the kernel says of the target, as texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    /// Its command name.
    pub(super) command: String,
    /// `/proc/PID/cgroup` and `/proc/PID/mountinfo`, read in its own cgroup namespace.
    pub(super) cgroup: String,
    pub(super) mountinfo: String,
    /// `/proc/cgroups`.
    pub(super) controllers: String,
    /// Whether its cgroup namespace isn't the initial one; `None` where the kernel has none.
    pub(super) cgroup_namespace: Option<bool>,
    /// Whether it has CAP_SYS_ADMIN over its mount namespace.
    pub(super) may_mount: bool,
    /// Whether the kernel has openat2 (Linux 5.6).
    pub(super) openat2: bool,
}

/// What a path turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// What statfs says (`f_type`).
    pub(super) magic: i64,
    /// Whether it's a directory; a regular file otherwise, or something stranger.
    pub(super) directory: bool,
    /// Whether the target may write it: by its mode, its owner, and the mount.
    pub(super) writable: bool,
    /// Whether it's reached from the root without crossing a mount or a symlink (openat2 with RESOLVE_NO_XDEV).
    pub(super) one_mount: bool,
}

/// What looking at a path came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It's there.
    Found(Place),
    /// An errno.
    Failed(i32),
    /// Nothing, for so long that the filesystem must be considered hung.
    Silent,
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) process: Process,
    pub(super) memberships: Vec<Membership>,
    pub(super) mounts: Vec<MountEntry>,
    places: BTreeMap<String, Answer>,
}

/// A filesystem's type, as clients ask statfs for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Cgroup2,
    Cgroup,
    Tmpfs,
    Fuse,
    Other(i64),
    Failed(i32),
    Silent,
}

/// `FUSE_SUPER_MAGIC`.
pub(super) const FUSE: i64 = 0x6573_5546;

/// Numbers of linux/magic.h.
pub(super) const TYPES: [(i64, Type); 4] =
    [(0x6367_7270, Type::Cgroup2), (0x0027_e0eb, Type::Cgroup), (0x0102_1994, Type::Tmpfs), (FUSE, Type::Fuse)];

impl Facts {
    pub(super) fn new(process: Process, places: BTreeMap<String, Answer>) -> Self {
        let memberships = parse_memberships(process.cgroup.as_bytes());
        let mounts = parse_mountinfo(process.mountinfo.as_bytes());
        Self { process, memberships, mounts, places }
    }

    /// What was found at a path. What nobody got round to ask, because of a hung filesystem, doesn't answer.
    pub(super) fn at(&self, path: &str) -> &Answer {
        #[cfg(test)]
        assert!(self.places.is_empty() || self.places.contains_key(path), "{path} isn't among the places to look at");
        self.places.get(path).unwrap_or(&Answer::Silent)
    }

    /// Says of every place that isn't known that it isn't there.
    #[cfg(test)]
    pub(super) fn mark_absent(&mut self) {
        for path in places(&self.memberships, &self.mounts) {
            self.places.entry(path).or_insert(Answer::Failed(libc::ENOENT));
        }
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        matches!(self.at(path), Answer::Found(_))
    }

    pub(super) fn is_writable(&self, path: &str) -> bool {
        matches!(self.at(path), Answer::Found(place) if place.writable)
    }

    /// What statfs of a path says.
    pub(super) fn type_of(&self, path: &str) -> Type {
        match self.at(path) {
            Answer::Found(place) => {
                let known = TYPES.iter().find(|(magic, _)| *magic == place.magic);
                known.map_or(Type::Other(place.magic), |(_, name)| *name)
            }
            Answer::Failed(errno) => Type::Failed(*errno),
            Answer::Silent => Type::Silent,
        }
    }

    /// Whether statfs of the root makes every client take this for cgroup v2.
    pub(super) fn is_v2(&self) -> bool {
        self.type_of(ROOT) == Type::Cgroup2
    }

    /// The hierarchy that has a controller, or is named so (`name=systemd`, `unified`).
    pub(super) fn hierarchy(&self, word: &str) -> Option<&Membership> {
        self.memberships.iter().find(|member| member.kind.matches(word))
    }

    /// Where the target is in a hierarchy, if that can be named from within its cgroup namespace.
    pub(super) fn own_path(&self, word: &str) -> Option<&CgroupPath> {
        self.hierarchy(word)?.place.path()
    }

    /// The v1 controllers that have a hierarchy.
    pub(super) fn v1_controllers(&self) -> impl Iterator<Item = &str> {
        self.memberships.iter().filter_map(|member| member.kind.controllers()).flat_map(ControllerSet::iter)
    }

    /// The first line of mountinfo whose type is `cgroup` or `cgroup2` and that shows this hierarchy: what clients look for that go by
    /// mountinfo, whatever is mounted over it.
    pub(super) fn line(&self, word: &str) -> Option<&MountEntry> {
        self.mounts.iter().find(|mount| mount.hierarchy().is_some_and(|kind| kind.matches(word)))
    }

    /// Whether `/proc/cgroups` says that a controller is enabled.
    pub(super) fn is_enabled(&self, controller: &str) -> bool {
        let fields = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut lines = self.process.controllers.lines().map(fields);
        lines.any(|line| line.first().is_some_and(|name| name == controller) && line.get(3).is_some_and(|on| on == "1"))
    }

    /// The mount that a path is on: the last one at or above it, since mountinfo has mounts in the order in which they were made.
    pub(super) fn mount_of(&self, path: &str) -> Option<&MountEntry> {
        mount_of(&self.mounts, path)
    }

    /// The views on or below the root that aren't covered by another mount. Those elsewhere are for others, and single files, as `attach`
    /// mounts them on unified hosts, are parts of one.
    pub(super) fn views(&self) -> impl Iterator<Item = &MountEntry> {
        let is_seen = |mount: &&MountEntry| self.mount_of(&point(mount)).is_some_and(|top| top.id == mount.id);
        let is_file = |mount: &&MountEntry| matches!(self.at(&point(mount)), Answer::Found(place) if !place.directory);
        let views = self.mounts.iter().filter(|mount| mount.fstype == VIEW && is_in_root(mount));
        views.filter(is_seen).filter(move |mount| !is_file(mount))
    }

    /// Whether a path is on a view.
    pub(super) fn is_view(&self, path: &str) -> bool {
        self.mount_of(path).is_some_and(|mount| mount.fstype == VIEW)
    }
}

/// A mount's mount point as text.
pub(super) fn point(mount: &MountEntry) -> String {
    mount.mount_point.to_string_lossy().into_owned()
}

/// Whether it's mounted on the root or below it.
pub(super) fn is_in_root(mount: &MountEntry) -> bool {
    mount.mount_point == ROOT || point(mount).starts_with(&format!("{ROOT}/"))
}

pub(super) fn mount_of<'a>(mounts: &'a [MountEntry], path: &str) -> Option<&'a MountEntry> {
    mounts.iter().rfind(|mount| {
        let point = point(mount);
        let rest = path.strip_prefix(point.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A cgroup below a mount point, as clients put the two together.
pub(super) fn join(base: &str, path: &CgroupPath) -> String {
    if path.is_root() { base.to_owned() } else { format!("{base}{path}") }
}

/// The same, for clients that take what is mounted off the path. `None` if the cgroup isn't below that.
pub(super) fn join_below(mount: &MountEntry, path: &CgroupPath) -> Option<String> {
    let root = CgroupPath::parse(&mount.root).ok()?;
    Some(join(&point(mount), &path.relative_to(&root)?))
}

/// Every path that a judgement may ask about.
pub(super) fn places(memberships: &[Membership], mounts: &[MountEntry]) -> BTreeSet<String> {
    let mut places: BTreeSet<String> = [ROOT, UNIFIED, SYSTEMD].map(str::to_owned).into();
    let files = ["cgroup.controllers", "cgroup.subtree_control", "memory/memory.limit_in_bytes"];
    places.extend(files.map(|file| format!("{ROOT}/{file}")));
    let is_relevant = |mount: &&MountEntry| is_in_root(mount) || mount.hierarchy().is_some();
    places.extend(mounts.iter().filter(is_relevant).map(point));
    for member in memberships {
        let mut bases: BTreeSet<String> = directories(&member.kind).into_iter().collect();
        let lines = mounts.iter().filter(|mount| mount.hierarchy().as_ref() == Some(&member.kind));
        let path = member.place.path();
        for mount in lines {
            bases.insert(point(mount));
            places.extend(path.and_then(|path| join_below(mount, path)).into_iter().flat_map(with_files));
        }
        for base in bases {
            places.insert(format!("{base}/{DOCKER}"));
            places.extend(path.map(|path| join(&base, path)).into_iter().flat_map(with_files));
            places.extend(with_files(base));
        }
        if places.len() > PLACES_AT_MOST {
            break;
        }
    }
    places.into_iter().take(PLACES_AT_MOST).collect()
}

/// A cgroup's directory and the files in it that clients look for.
fn with_files(directory: String) -> Vec<String> {
    let files = ["cgroup.procs", "cgroup.controllers", "memory.limit_in_bytes", "memory.max", "devices.allow"];
    let files = files.map(|file| format!("{directory}/{file}"));
    std::iter::once(directory).chain(files).collect()
}

/// Where a hierarchy is looked for without asking mountinfo.
pub(super) fn directories(kind: &HierarchyKind) -> Vec<String> {
    match kind {
        HierarchyKind::Unified => vec![ROOT.to_owned(), UNIFIED.to_owned()],
        HierarchyKind::V1 { controllers, name } => {
            let joint = (controllers.len() > 1).then(|| controllers.to_string());
            let words = controllers.iter().map(str::to_owned).chain(joint).chain(name.clone());
            words.map(|word| format!("{ROOT}/{word}")).collect()
        }
    }
}

/// An errno by its name.
pub(super) fn errno(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::UnknownErrno => format!("errno {number}"),
        errno => format!("{errno:?}"),
    }
}

impl fmt::Display for Type {
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
