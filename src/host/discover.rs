//! Finds the host's hierarchies and their mounts, from mountinfo alone and never from fixed paths.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{FsType, fstatfs};

use super::detached_mounts;
use super::hierarchies::{HostCgroups, HostHierarchy};
use super::interface_file::read_file;
use crate::cgroup::{HierarchyKind, MountEntry, Setup, VIEW_FSTYPE, mountinfo, parse_mountinfo};
use crate::sys::{handle, mount};

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC`, linux/magic.h.
const CGROUP_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The error of finding the host's hierarchies.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// mountinfo can't be read.
    #[error("can't read /proc/self/mountinfo")]
    MountInfo(#[source] io::Error),
    /// No hierarchy is mounted with its root.
    #[error(
        "no cgroup hierarchy is mounted here with its root: mount one, for example: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    )]
    NoHierarchy,
    /// A view is mounted in place of the hierarchies.
    #[error(
        "no cgroup hierarchy is mounted here with its root, but a view: this is inside one; views are made, and asked about, on the host"
    )]
    InView,
}

/// Finds the host's hierarchies. One that isn't mounted, or not with its root, is missing.
///
/// # Errors
/// See [`DiscoverError`].
pub fn discover() -> Result<HostCgroups, DiscoverError> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(DiscoverError::MountInfo)?;
    let mut hierarchies: Vec<HostHierarchy> = Vec::new();
    let mounts = parse_mountinfo(&text);
    let is_view = mounts
        .iter()
        .any(|mount| mount.fstype == VIEW_FSTYPE && Path::new(&mount.mount_point).starts_with("/sys/fs/cgroup"));
    for (kind, mounts) in candidates(&mounts) {
        let opened = mounts.iter().find_map(|mount| open(&kind, mount));
        match opened {
            Some(hierarchy) => hierarchies.push(hierarchy),
            None => tracing::debug!(%kind, "no mount of this hierarchy shows its root"),
        }
    }
    name_apart(&mut hierarchies);
    detach(&mut hierarchies);
    let none = || if is_view { DiscoverError::InView } else { DiscoverError::NoHierarchy };
    let setup = Setup::of(hierarchies.iter().map(|hierarchy| &hierarchy.kind)).ok_or_else(none)?;
    Ok(HostCgroups { setup, hierarchies })
}

/// Returns the mounts of each hierarchy that show its root, without those that are covered by another mount, such as
/// a bind of another cgroup. cgroup2 comes first, then the order of mountinfo. Within a hierarchy the mounts under
/// `/sys/fs/cgroup` come first, where clients expect them.
fn candidates(mounts: &[MountEntry]) -> Vec<(HierarchyKind, Vec<&MountEntry>)> {
    let mut found: Vec<(HierarchyKind, Vec<&MountEntry>)> = Vec::new();
    let is_covered = |covered: &MountEntry| {
        mounts.iter().any(|mount| {
            mount.parent == covered.id && mount.id != covered.id && mount.mount_point == covered.mount_point
        })
    };
    for mount in mounts.iter().filter(|mount| mount.root == "/" && !is_covered(mount)) {
        let Some(kind) = mount.hierarchy() else { continue };
        match found.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, mounts)) => mounts.push(mount),
            None => found.push((kind, vec![mount])),
        }
    }
    for (kind, mounts) in &mut found {
        mounts.sort_by_key(|mount| !std::path::Path::new(&mount.mount_point).starts_with("/sys/fs/cgroup"));
        let directory = mounts.first().and_then(|mount| mountinfo::base_name(&mount.mount_point)?.to_str());
        *kind = kind.clone().mounted_on(directory.unwrap_or_default());
    }
    found.sort_by_key(|(kind, _)| *kind != HierarchyKind::Unified);
    found
}

/// Opens a mount point, unless another filesystem is mounted over the hierarchy.
fn open(kind: &HierarchyKind, entry: &MountEntry) -> Option<HostHierarchy> {
    let directory = detached_mounts::open_directory(Path::new(&entry.mount_point)).ok()?;
    let magic = if *kind == HierarchyKind::Unified { CGROUP2_MAGIC } else { CGROUP_MAGIC };
    let stat = nix::sys::stat::fstat(&directory).ok()?;
    let (major, minor) = entry.device;
    if fstatfs(&directory).ok()?.filesystem_type() != FsType(magic as _) || stat.st_dev != libc::makedev(major, minor) {
        return None;
    }
    // Prefer a private mount: mounts inside the host's hierarchy, above all binds of another cgroup, don't exist in
    // it.
    let root_for_reading = mount::detached(directory.as_fd(), true).ok();
    let detached = mount::detached(directory.as_fd(), false);
    let attached = detached.as_ref().err().map(errno_of);
    let root = detached.unwrap_or_else(|_| OwnedFd::from(directory));
    let has_handles = handles_work(root.as_fd(), stat.st_ino);
    let name = mountinfo::base_name(&entry.mount_point).map_or_else(|| kind.to_string().into(), OsStr::to_os_string);
    let links = match kind.controllers() {
        Some(controllers) if controllers.len() > 1 => {
            controllers.iter().map(OsString::from).filter(|link| *link != name).collect()
        }
        _ => Vec::new(),
    };
    let has_cpuset = match kind.controllers() {
        Some(controllers) => controllers.contains("cpuset"),
        None => read_file(&root, "cgroup.controllers")
            .is_ok_and(|available| available.split_ascii_whitespace().any(|controller| controller == "cpuset")),
    };
    let has_devices = kind.controllers().is_some_and(|controllers| controllers.contains("devices"));
    Some(HostHierarchy {
        kind: kind.clone(),
        mount_point: PathBuf::from(&entry.mount_point),
        directory: name,
        links,
        root,
        root_for_reading,
        attached,
        device: stat.st_dev,
        has_handles,
        has_cpuset,
        has_devices,
    })
}

/// Detaches the hierarchies' mounts where the kernel can't do [`mount::detached`].
fn detach(hierarchies: &mut [HostHierarchy]) {
    let mut attached: Vec<_> = hierarchies.iter_mut().filter(|found| found.attached == Some(Errno::ENOSYS)).collect();
    if attached.is_empty() {
        return;
    }
    let places = attached.iter().map(|hierarchy| (hierarchy.mount_point.as_path(), &hierarchy.root));
    let made = detached_mounts::mounts(places).map_err(|error| errno_of(&error));
    let made = match made {
        Ok(made) => made.into_iter().map(|root| root.map_err(|error| errno_of(&error))).collect(),
        Err(errno) => attached.iter().map(|_| Err(errno)).collect::<Vec<_>>(),
    };
    for (hierarchy, made) in attached.iter_mut().zip(made) {
        match made {
            Ok(root) => (hierarchy.root, hierarchy.attached) = (root, None),
            Err(errno) => hierarchy.attached = Some(errno),
        }
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Whether the root can be reopened by its kernfs id. This asks the kernel instead of comparing versions.
fn handles_work(root: BorrowedFd<'_>, inode: u64) -> bool {
    handle::kernfs_id(root) == Some(inode)
        && handle::open_kernfs_id(root, inode, libc::O_PATH)
            .is_ok_and(|again| nix::sys::stat::fstat(&again).is_ok_and(|stat| stat.st_ino == inode))
}

/// Names two hierarchies by their own names if their mount directories have the same name.
fn name_apart(hierarchies: &mut [HostHierarchy]) {
    let names: Vec<OsString> = hierarchies.iter().map(|hierarchy| hierarchy.directory.clone()).collect();
    for (index, hierarchy) in hierarchies.iter_mut().enumerate() {
        let shared = names.iter().enumerate().any(|(other, name)| other != index && *name == hierarchy.directory);
        if shared {
            hierarchy.directory = hierarchy.kind.to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str) -> Vec<(String, Vec<String>)> {
        let mounts = parse_mountinfo(text.as_bytes());
        let names = |mounts: Vec<&MountEntry>| {
            mounts.iter().map(|mount| mount.mount_point.to_string_lossy().into_owned()).collect()
        };
        candidates(&mounts).into_iter().map(|(kind, mounts)| (kind.to_string(), names(mounts))).collect()
    }

    #[test]
    fn setups() {
        let legacy = "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu\n\
                      2 0 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        assert_eq!(
            chosen(legacy),
            [
                ("cpu,cpuacct".to_owned(), vec!["/sys/fs/cgroup/cpu,cpuacct".to_owned()]),
                ("name=systemd".to_owned(), vec!["/sys/fs/cgroup/systemd".to_owned()])
            ]
        );
        let hybrid = format!("{legacy}3 0 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(chosen(&hybrid)[0].0, "unified");
        assert_eq!(chosen(&hybrid).len(), 3);
    }

    #[test]
    fn elsewhere_twice_and_in_part() {
        let text = "1 0 0:1 / /mnt/memory rw - cgroup cgroup rw,memory\n\
                    2 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    3 0 0:1 /docker/1 /var/x rw - cgroup cgroup rw,memory\n\
                    4 0 0:2 /docker/1 /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                    5 0 0:3 /.. /y rw - cgroup2 none rw\n";
        let expected = ["/sys/fs/cgroup/memory".to_owned(), "/mnt/memory".to_owned()];
        assert_eq!(chosen(text), [("memory".to_owned(), expected.to_vec())]);
    }

    /// On Linux 3.10 the kernel's order is another one than the directory's.
    #[test]
    fn co_mounted_controllers_are_named_as_they_are_mounted() {
        for directory in ["cpu,cpuacct", "cpuacct,cpu"] {
            for options in ["cpuacct,cpu", "cpu,cpuacct"] {
                let text = format!("1 0 0:1 / /sys/fs/cgroup/{directory} rw - cgroup cgroup rw,{options}\n");
                assert_eq!(chosen(&text)[0].0, directory, "{options}");
            }
        }
        assert_eq!(chosen("1 0 0:1 / /cgroup/all rw - cgroup cgroup rw,cpuacct,cpu\n")[0].0, "cpuacct,cpu");
    }

    #[test]
    fn with_a_part_of_it_on_top() {
        let text = "3 1 0:1 / /mnt/memory rw - cgroup cgroup rw,memory\n\
                    4 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    5 4 0:1 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    6 4 0:1 /docker/2 /sys/fs/cgroup/memory/docker/1 rw - cgroup cgroup rw,memory\n";
        assert_eq!(chosen(text), [("memory".to_owned(), vec!["/mnt/memory".to_owned()])]);
    }
}
