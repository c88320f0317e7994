//! The numbers that a process would read without the view: the mounts beneath, and the host's files behind them.

use std::collections::BTreeSet;

use super::facts::{ROOT, VIEW, is_in_root, point};
use super::limits::HostFiles;
use super::reading::{Files, System};
use crate::cgroup::{CgroupPath, HierarchyKind, Membership, MountEntry, parse_memberships};

/// The source of the tmpfs beneath the view's mounts, as mountinfo has it.
const TMPFS_SOURCE: &str = "vcgroupfs";

/// The paths as they would be without a view.
pub(crate) struct NativeFiles<'a> {
    system: System,
    host: &'a dyn HostFiles,
    /// The cgroup at which the process' cgroup namespace begins, in each hierarchy.
    beginnings: Vec<(HierarchyKind, CgroupPath)>,
}

impl<'a> NativeFiles<'a> {
    /// `None` if that can't be determined: if no hierarchy is mounted beneath the view, there's nothing to compare
    /// with. `members` are the memberships of the process by the host's names.
    pub(crate) fn of(system: &System, members: &[Membership], host: &'a dyn HostFiles) -> Option<Self> {
        let own = parse_memberships(system.cgroup.as_bytes());
        let beginnings = members.iter().filter_map(|member| {
            let inside = own.iter().find(|own| own.kind == member.kind)?.location.path()?;
            let path = member.location.path()?;
            let beginning = path.prefix(path.depth().checked_sub(inside.depth())?);
            (beginning.join_path(inside) == *path).then(|| (member.kind.clone(), beginning))
        });
        let mut native = Self { system: system.clone(), host, beginnings: beginnings.collect() };
        // Beneath a stack of ours are the former mounts. If they have no hierarchies, those in the stack serve as
        // well.
        let beneath = native.beneath(&system.mounts, members);
        let has_lines =
            |mounts: &[MountEntry]| mounts.iter().any(|mount| mount.hierarchy().is_some() && is_in_root(mount));
        let mounts = if has_lines(&beneath) { beneath } else { system.mounts.clone() };
        // Other mounts in these places cover the hierarchies, as a view does.
        let is_native = |mount: &MountEntry| {
            if mount.hierarchy().is_some() { !native.is_sentinel(mount, members) } else { !is_in_root(mount) }
        };
        let mounts: Vec<_> = mounts.into_iter().filter(is_native).collect();
        native.system.mounts = mounts;
        has_lines(&native.system.mounts).then_some(native)
    }

    /// Returns the mounts without the stacks of views, and without all mounts on them.
    fn beneath(&self, mounts: &[MountEntry], members: &[Membership]) -> Vec<MountEntry> {
        let mut ours = BTreeSet::new();
        for mount in mounts {
            let is_base = mount.fstype == "tmpfs" && mount.source == TMPFS_SOURCE;
            let is_first = is_in_root(mount) && (is_base || mount.fstype == VIEW || self.is_sentinel(mount, members));
            // mountinfo lists a mount after the one that it's on.
            if is_first || ours.contains(&mount.parent) {
                ours.insert(mount.id);
            }
        }
        mounts.iter().filter(|mount| !ours.contains(&mount.id)).cloned().collect()
    }

    /// Whether a cgroup is mounted in place of the hierarchy that is neither the process' own nor an ancestor, as
    /// `attach` does on a unified host.
    fn is_sentinel(&self, mount: &MountEntry, members: &[Membership]) -> bool {
        let Some((kind, root)) = mount.hierarchy().zip(self.host_root(mount)) else { return false };
        let own = members.iter().find(|member| member.kind == kind).and_then(|own| own.location.path());
        own.is_some_and(|own| !own.is_within(&root))
    }

    /// Returns the cgroup that is mounted, by the host's path.
    fn host_root(&self, mount: &MountEntry) -> Option<CgroupPath> {
        let kind = mount.hierarchy()?;
        let (_, beginning) = self.beginnings.iter().find(|(of, _)| *of == kind)?;
        Some(beginning.join_path(&CgroupPath::parse(&mount.root).ok()?))
    }

    /// The kernel's texts, without the view's mounts.
    pub(crate) fn system(&self) -> &System {
        &self.system
    }

    /// Returns the mount of a path, and the rest of the path below it.
    fn mount(&self, path: &str) -> Option<(&MountEntry, String)> {
        let path = self.followed(path);
        let mount = super::facts::mount_of(&self.system.mounts, &path)?;
        let below = path.strip_prefix(point(mount).trim_end_matches('/')).unwrap_or_default().to_owned();
        Some((mount, below))
    }

    /// Resolves `/sys/fs/cgroup/cpu`, a symlink if controllers are mounted together.
    fn followed(&self, path: &str) -> String {
        let Some(rest) = path.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/')) else {
            return path.to_owned();
        };
        let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
        let is_mounted = self.system.mounts.iter().any(|mount| point(mount) == format!("{ROOT}/{first}"));
        let mut joint = self.system.v1_mounts(first).map(point).filter(|at| at.starts_with(ROOT));
        match joint.next() {
            Some(at) if !is_mounted && at.contains(',') => {
                if below.is_empty() {
                    at
                } else {
                    format!("{at}/{below}")
                }
            }
            _ => path.to_owned(),
        }
    }

    /// Returns the host's cgroup, and the file in it.
    fn place(&self, path: &str, is_file: bool) -> Option<(&MountEntry, CgroupPath, Option<String>)> {
        let (mount, below) = self.mount(path)?;
        let root = self.host_root(mount)?;
        let (directory, file) = match below.rsplit_once('/') {
            Some((directory, file)) if is_file => (directory, Some(file.to_owned())),
            _ => (below.as_str(), None),
        };
        let directory = if directory.is_empty() { CgroupPath::root() } else { CgroupPath::parse(directory).ok()? };
        Some((mount, root.join_path(&directory), file))
    }
}

impl Files for NativeFiles<'_> {
    fn read(&self, path: &str) -> Option<String> {
        let (mount, directory, file) = self.place(path, true)?;
        self.host.read(&mount.hierarchy()?, &directory, &file?)
    }

    fn exists(&self, path: &str) -> bool {
        if path == ROOT {
            return true;
        }
        let as_directory = self.place(path, false).is_some_and(|(mount, directory, _)| {
            mount.hierarchy().is_some_and(|kind| self.host.exists(&kind, &directory, None))
        });
        let as_file = || {
            self.place(path, true).is_some_and(|(mount, directory, file)| {
                mount.hierarchy().is_some_and(|kind| self.host.exists(&kind, &directory, file.as_deref()))
            })
        };
        as_directory || as_file()
    }

    fn is_cgroup2(&self, path: &str) -> bool {
        self.mount(path).is_some_and(|(mount, _)| mount.fstype == "cgroup2")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::parse_mountinfo;
    use crate::doctor::layouts::Host;

    /// runc's mount of the process' own cgroup, with a view of host paths attached over it.
    #[test]
    fn what_is_beneath_a_stack() {
        let mountinfo = "20 10 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                         21 20 0:2 /c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                         30 20 0:3 / /sys/fs/cgroup ro - tmpfs vcgroupfs ro\n\
                         31 30 0:2 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                         32 31 0:4 /memory /sys/fs/cgroup/memory ro - fuse.vcgroupfs vcgroupfs rw\n";
        let of = |mountinfo: &str| {
            let system = System {
                cgroup: "4:memory:/c1\n".to_owned(),
                mounts: parse_mountinfo(mountinfo.as_bytes()),
                ..System::default()
            };
            let members = parse_memberships(system.cgroup.as_bytes());
            let native = NativeFiles::of(&system, &members, &Host).expect("a native one");
            let ids: Vec<u32> = native.system().mounts.iter().map(|mount| mount.id).collect();
            (ids, native.read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        };
        assert_eq!(of(mountinfo), (vec![21], Some("536870912\n".to_owned())));
        // Nothing was mounted before the stack.
        let alone: Vec<&str> = mountinfo.lines().skip(2).collect();
        assert_eq!(of(&alone.join("\n")), (vec![31], Some("9223372036854771712\n".to_owned())));
    }
}
