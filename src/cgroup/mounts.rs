//! Tells whether the cgroup mounts of a process begin at the root of a hierarchy, or at its own cgroup.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::Path;

use super::{CgroupPath, HierarchyKind, MountEntry};

/// The directory in which programs look for cgroups, from the root directory.
const PLACE: &str = "sys/fs/cgroup";

/// The source of a view's tmpfs, the type of a view, and the beginning of a sentinel's path.
const SOURCE: &str = "vcgroupfs";
const VIEW_TYPE: &str = "fuse.vcgroupfs";
const SENTINEL: &str = "/vcgroupfs-sentinel-";

/// The maximum number of a hierarchy's mount points that are examined. A container can have any number.
const MAX_MOUNT_POINTS: usize = 32;

/// Whether more hierarchies are mounted from the process' own cgroup than from an ancestor of it, below the root
/// directory `root`. `None` if none is mounted there.
///
/// For each hierarchy the uncovered mount nearest to `/sys/fs/cgroup` counts. A mount of the own cgroup on the path
/// of that cgroup, below its hierarchy's directory, keeps the host's paths (LXC's `cgroup:mixed`). Views don't count.
pub fn begin_at_own<'a>(
    mounts: &[MountEntry],
    root: &Path,
    own: impl IntoIterator<Item = (&'a HierarchyKind, &'a CgroupPath)>,
) -> Option<bool> {
    let mounts = without_views(mounts);
    let place = root.join(PLACE);
    let (mut at_own, mut above) = (0, 0);
    for (kind, own) in own.into_iter().filter(|(_, own)| !own.is_root()) {
        let of_it = || mounts.iter().copied().filter(|mount| mount.hierarchy().as_ref() == Some(kind));
        let points: BTreeSet<_> = of_it()
            .filter_map(|mount| Some((below(mount, &place)?.components().count(), mount.mount_point.as_os_str())))
            .collect();
        let seen = points.iter().take(MAX_MOUNT_POINTS).filter_map(|(_, point)| topmost(&mounts, Path::new(point)));
        let Some(mount) = seen.into_iter().find(|seen| of_it().any(|mount| mount.id == seen.id)) else { continue };
        if mount.root == own.to_os_string() && !keeps_paths(mount, &place, own) {
            at_own += 1;
        } else {
            above += 1;
        }
    }
    (at_own + above > 0).then_some(at_own > above)
}

/// The mount point, relative to `place`.
fn below<'a>(mount: &'a MountEntry, place: &Path) -> Option<&'a Path> {
    Path::new(&mount.mount_point).strip_prefix(place).ok()
}

/// Whether the own cgroup is mounted on its own path below the hierarchy's directory, or below `place` itself.
fn keeps_paths(mount: &MountEntry, place: &Path, own: &CgroupPath) -> bool {
    let names: Vec<&OsStr> = below(mount, place).map(|below| below.iter().collect()).unwrap_or_default();
    let is_own = |names: &[&OsStr]| names.iter().copied().eq(own.components());
    mount.fstype == "cgroup2" && is_own(&names) || names.split_first().is_some_and(|(_, rest)| is_own(rest))
}

/// Returns the mounts, except for views and all mounts on them.
fn without_views(mounts: &[MountEntry]) -> Vec<&MountEntry> {
    let is_view = |mount: &MountEntry| {
        mount.fstype == VIEW_TYPE
            || mount.fstype == "tmpfs" && mount.source == SOURCE
            || mount.fstype == "cgroup2" && mount.root.to_string_lossy().starts_with(SENTINEL)
    };
    let mut left_out: BTreeSet<u32> = mounts.iter().filter(|mount| is_view(mount)).map(|mount| mount.id).collect();
    // mountinfo lists a mount after the one beneath it, except for mounts that were moved.
    loop {
        let on_them = mounts.iter().filter(|mount| left_out.contains(&mount.parent) && !left_out.contains(&mount.id));
        let on_them: Vec<u32> = on_them.map(|mount| mount.id).collect();
        if on_them.is_empty() {
            return mounts.iter().filter(|mount| !left_out.contains(&mount.id)).collect();
        }
        left_out.extend(on_them);
    }
}

/// Returns the mount that a lookup of a path reaches. A mount further up on the path covers the deeper ones.
fn topmost<'a>(mounts: &[&'a MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let depth = |mount: &&MountEntry| Path::new(&mount.mount_point).components().count();
    let mut way: Vec<&'a MountEntry> =
        mounts.iter().copied().filter(|mount| path.starts_with(&mount.mount_point)).collect();
    way.sort_by_key(depth);
    let is_first = |mount: &&MountEntry| !mounts.iter().any(|other| other.id == mount.parent && other.id != mount.id);
    let mut at = way.iter().copied().find(is_first)?;
    let mut on: HashMap<u32, &'a MountEntry> = HashMap::new();
    for mount in way {
        on.entry(mount.parent).or_insert(mount);
    }
    // Each mount is visited once.
    while let Some(next) = on.remove(&at.id) {
        at = next;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::parse_mountinfo;

    /// The lines are `PARENT ROOT POINT TYPE OPTIONS`, numbered from 1.
    fn begins(lines: &[&str], root: &str, own: &[(&str, &str)]) -> Option<bool> {
        let mountinfo = lines.iter().enumerate().map(|(index, line)| {
            let words: Vec<&str> = line.split(' ').collect();
            let (fstype, source) = words[3].split_once('=').unwrap_or((words[3], "none"));
            format!("{} {} 0:1 {} {} rw - {fstype} {source} rw,{}\n", index + 1, words[0], words[1], words[2], words[4])
        });
        let mounts = parse_mountinfo(mountinfo.collect::<String>().as_bytes());
        let own: Vec<(HierarchyKind, CgroupPath)> = own
            .iter()
            .map(|(list, path)| {
                let kind = if list.is_empty() { HierarchyKind::Unified } else { HierarchyKind::v1(list) };
                (kind, CgroupPath::parse(path).unwrap())
            })
            .collect();
        begin_at_own(&mounts, Path::new(root), own.iter().map(|(kind, path)| (kind, path)))
    }

    const RUNC: [&str; 5] = [
        "0 /r / ext4 x",
        "1 / /sys sysfs x",
        "2 / /sys/fs/cgroup tmpfs x",
        "3 /docker/c1 /sys/fs/cgroup/memory cgroup memory",
        "3 /docker/c1 /sys/fs/cgroup/systemd cgroup name=systemd",
    ];
    const OWN: [(&str, &str); 3] = [("memory", "/docker/c1"), ("name=systemd", "/docker/c1"), ("pids", "/")];

    #[test]
    fn runtimes_mount_the_own_cgroup() {
        assert_eq!(begins(&RUNC, "/", &OWN), Some(true));
        // systemd has migrated itself to a cgroup that isn't another container's.
        assert_eq!(begins(&RUNC, "/", &[("memory", "/docker/c1/init")]), Some(false));
        assert_eq!(begins(&RUNC, "/", &[("pids", "/docker/c1")]), None);
        assert_eq!(begins(&RUNC, "/", &[("memory", "/")]), None);
    }

    #[test]
    fn hosts_paths() {
        let plain = ["0 / / ext4 x", "1 / /sys/fs/cgroup tmpfs x", "2 / /sys/fs/cgroup/memory cgroup memory"];
        assert_eq!(begins(&plain, "/", &OWN), Some(false));
        let nspawn = [
            "0 / / ext4 x",
            "1 / /sys/fs/cgroup tmpfs x",
            "2 / /sys/fs/cgroup/systemd cgroup name=systemd",
            "3 /docker/c1 /sys/fs/cgroup/systemd/docker/c1 cgroup name=systemd",
            "2 /docker/c1 /sys/fs/cgroup/memory/docker/c1 cgroup memory",
        ];
        assert_eq!(begins(&nspawn, "/", &OWN), Some(false), "one mounted as by LXC, the other as by nspawn");
        let unified = |root: &str, point: &str| {
            let line = format!("1 {root} {point} cgroup2 x");
            begins(&["0 / / ext4 x", &line], "/", &[("", "/a/b")])
        };
        assert_eq!(unified("/", "/sys/fs/cgroup"), Some(false));
        assert_eq!(unified("/a/b", "/sys/fs/cgroup"), Some(true));
        assert_eq!(unified("/a/b", "/sys/fs/cgroup/unified"), Some(true));
        assert_eq!(unified("/a/b", "/sys/fs/cgroup/a/b"), Some(false));
        assert_eq!(unified("/a", "/sys/fs/cgroup"), Some(false), "neither");
        assert_eq!(unified("/a/b", "/cgroup"), None, "a view isn't mounted there, so nothing changes");
    }

    #[test]
    fn most_of_them_decide() {
        let mut mixed = RUNC.to_vec();
        mixed.extend(["3 / /sys/fs/cgroup/pids cgroup pids"]);
        let own = |pids| [OWN[0], OWN[1], ("pids", pids)];
        assert_eq!(begins(&mixed, "/", &own("/docker/c1")), Some(true), "docker run -v of one hierarchy");
        mixed.extend(["3 / /sys/fs/cgroup/cpu cgroup cpu", "3 / /sys/fs/cgroup/blkio cgroup blkio"]);
        let all = [OWN[0], OWN[1], ("pids", "/docker/c1"), ("cpu", "/docker/c1"), ("blkio", "/docker/c1")];
        assert_eq!(begins(&mixed, "/", &all), Some(false));
        assert_eq!(begins(&mixed, "/", &all[..4]), Some(false), "half of them");
    }

    #[test]
    fn covered_mounts_do_not_count() {
        let mut covered = RUNC.to_vec();
        covered.extend(["3 / /sys/fs/cgroup tmpfs x", "6 / /sys/fs/cgroup/memory cgroup memory"]);
        assert_eq!(begins(&covered, "/", &OWN), Some(false));
        let mut stacked = RUNC.to_vec();
        stacked.extend(["4 / /sys/fs/cgroup/memory cgroup memory", "5 / /sys/fs/cgroup/systemd tmpfs x"]);
        assert_eq!(begins(&stacked, "/", &OWN), Some(false));
        // This holds in any order: a mount was moved to /sys.
        assert_eq!(
            begins(&["0 / / ext4 x", "3 / /sys/fs/cgroup/memory cgroup memory", "1 / /sys sysfs x"], "/", &OWN),
            Some(false)
        );
    }

    #[test]
    fn views_do_not_count() {
        let mut attached = RUNC.to_vec();
        attached.extend([
            "3 / /sys/fs/cgroup tmpfs=vcgroupfs x",
            "6 / /sys/fs/cgroup/memory cgroup memory",
            "7 /memory /sys/fs/cgroup/memory fuse.vcgroupfs=vcgroupfs x",
        ]);
        assert_eq!(begins(&attached, "/", &OWN), Some(true));
        let sentinel =
            ["0 / / ext4 x", "1 / /sys/fs/cgroup cgroup2 x", "2 /vcgroupfs-sentinel-1/top /sys/fs/cgroup cgroup2 x"];
        assert_eq!(begins(&sentinel, "/", &[("", "/a")]), Some(false));
    }

    #[test]
    fn before_the_process_has_entered_its_root() {
        let creating = [
            "0 / / ext4 x",
            "1 / /sys/fs/cgroup tmpfs x",
            "2 / /sys/fs/cgroup/memory cgroup memory",
            "1 /r /b/rootfs ext4 x",
            "4 / /b/rootfs/sys/fs/cgroup tmpfs x",
            "5 /docker/c1 /b/rootfs/sys/fs/cgroup/memory cgroup memory",
        ];
        assert_eq!(begins(&creating, "/b/rootfs", &OWN), Some(true));
        assert_eq!(begins(&creating[..4], "/b/rootfs", &OWN), None);
        assert_eq!(begins(&creating, "/", &OWN), Some(false), "the host's own");
    }
}
