//! Finds the mounts of a view in a container, and the mounts that they cover.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::stat::fstat;

use crate::agents::attach;
use crate::agents::attach::{AttachHelperError, Location, MOUNT_SOURCE, VIEW_FSTYPE};
use crate::cgroup::{MountEntry, escaped, parse_mountinfo};
use crate::container::covered::CoveredMounts;
use crate::container::handle::ContainerHandle;
use crate::error::Error;
use crate::provision::sentinel;

/// The mount points that a view can have, by depth: the deepest directory that the container has.
pub(crate) const MOUNT_POINTS: [&str; 3] = ["/sys", "/sys/fs", "/sys/fs/cgroup"];

/// The depth of the mounts in a stack.
const MAX_STACK_DEPTH: usize = 4;

/// The topmost mount of a view that is attached to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttachedView {
    depth: usize,
    device: (u32, u32),
    /// The mount's id.
    mount: u32,
}

impl ContainerHandle {
    /// Finds the view that is attached to the container.
    pub(crate) fn attached(&self) -> Option<AttachedView> {
        self.attached_for(self.number())
    }

    /// Finds, among the mounts of this container, the view of the one whose mount namespace has this number.
    fn attached_for(&self, number: u64) -> Option<AttachedView> {
        let (mounts, sentinel) = (self.mountinfo(), sentinel::root(number));
        let prefix = self.prefix_in(&mounts);
        MOUNT_POINTS.iter().enumerate().find_map(|(index, place)| {
            let mut point = prefix.cloned().unwrap_or_default();
            point.push(place);
            let mount = topmost(&mounts, &point)?;
            let beneath = |mount: &MountEntry| mounts.iter().find(|beneath| beneath.id == mount.parent);
            // A sentinel on one of the server's own tmpfs is unmounted with the tmpfs.
            let is_alone = |mount: &MountEntry| is_sentinel(mount, &sentinel) && !beneath(mount).is_some_and(is_tmpfs);
            // The whole view lies on its sentinel while the helper binds parts of it, and stays if the helper is
            // killed then.
            let is_unfinished =
                |mount: &MountEntry| mount.fstype == VIEW_FSTYPE && beneath(mount).is_some_and(is_alone);
            let is_ours = is_tmpfs(mount) || is_alone(mount) || is_unfinished(mount);
            is_ours.then_some(AttachedView { depth: index + 1, device: mount.device, mount: mount.id })
        })
    }

    /// Returns the path of its root directory in these mounts, if its process hasn't entered that yet. Afterwards no
    /// mount has that path.
    pub(super) fn prefix_in(&self, mounts: &[MountEntry]) -> Option<&OsString> {
        self.prefix.as_ref().filter(|prefix| mounts.iter().any(|mount| mount.mount_point == **prefix))
    }

    /// The mounts that a view would cover.
    pub(crate) fn covered(&self) -> CoveredMounts {
        let mounts = self.mountinfo();
        let root = self.prefix_in(&mounts).map_or(Path::new("/"), |prefix| Path::new(prefix));
        CoveredMounts::of(&mounts, root)
    }

    /// Finds a copy of `container`'s view in this mount namespace.
    pub(crate) fn copy_of(&self, container: &Self, attached: AttachedView) -> Option<AttachedView> {
        self.attached_for(container.number()).filter(|copy| copy.device == attached.device)
    }

    /// The device number of the view that is attached to the container.
    pub(super) fn view_device(&self) -> Option<(u32, u32)> {
        let (mounts, attached) = (self.mountinfo(), self.attached()?);
        let is_in_it = |mount: &&MountEntry| {
            let beneath = |mount: &&MountEntry| mounts.iter().find(|other| other.id == mount.parent);
            // A directory of the view is mounted on a real hierarchy, which is mounted in the stack.
            let below = std::iter::successors(Some(*mount), beneath).take(MAX_STACK_DEPTH);
            mount.fstype == VIEW_FSTYPE && below.into_iter().any(|mount| mount.id == attached.mount)
        };
        mounts.iter().find(is_in_it).map(|mount| mount.device)
    }

    /// Whether any mount of a view is there, even if another mount covers it.
    pub(super) fn has_any_view_mount(&self) -> bool {
        has_attached_view(&self.mountinfo(), self.number())
    }

    /// Whether its mount namespace has a view that its process doesn't see on `/sys/fs/cgroup`: somebody has moved or
    /// covered it, or the process has another root directory.
    pub(crate) fn has_lost_view(&self) -> bool {
        self.attached().is_none() && (self.has_any_view_mount() || self.attached_as_others_see().is_some())
    }

    /// Unmounts a view in this mount namespace, and the kernel unmounts it in those to which this one propagates.
    pub(crate) fn detach_here(&self, image: BorrowedFd<'_>, attached: AttachedView) -> Result<(), AttachHelperError> {
        attach::detach(image, self.namespace(), self.root(), attached.depth, attached.device, attached.mount)
    }

    /// As [`ContainerHandle::attached`], but by the mountinfo of any process in the namespace: the container's own may have
    /// ended.
    pub(super) fn attached_as_others_see(&self) -> Option<AttachedView> {
        for entry in std::fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let same = File::open(format!("/proc/{pid}/ns/mnt")).and_then(|file| Ok(fstat(&file)?.st_ino));
            if same.is_ok_and(|number| number == self.number())
                && let Some(attached) = Self::open(pid).ok().and_then(|other| other.attached())
            {
                return Some(attached);
            }
        }
        None
    }

    /// Fails if the view would appear on the host, too: a mount on a mount appears on all mounts of its peer group.
    pub(crate) fn check_propagation(&self, found: Location) -> Result<(), Error> {
        let mounts = self.mountinfo();
        let place = MOUNT_POINTS.get(found.depth as usize - 1).copied().unwrap_or_default();
        let by_id = mounts.iter().find(|mount| u64::from(mount.id) == found.mount);
        let by_path = || {
            let above = Path::new(place).ancestors().filter_map(|path| topmost(&mounts, path));
            above.max_by_key(|mount| mount.mount_point.len())
        };
        let Some(group) = by_id.or_else(by_path).and_then(|mount| mount.shared) else { return Ok(()) };
        let host = parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?);
        let reaches_us = |mount: &&MountEntry| mount.shared == Some(group) || mount.master == Some(group);
        match host.iter().find(reaches_us) {
            None => Ok(()),
            Some(mount) => {
                let what = format!(
                    "{place} in the container shares its mounts with {} of the host",
                    escaped(&mount.mount_point)
                );
                let remedy = format!(
                    "make them private first, for example with 'nsenter -t {} -m mount --make-rslave /'",
                    self.pid()
                );
                Err(Error::failed(what).because("the view would appear there, too").advise(remedy))
            }
        }
    }
}

/// Whether any of the mounts belongs to a view that was attached to the container with this mount namespace.
pub(super) fn has_attached_view(mounts: &[MountEntry], namespace: u64) -> bool {
    let sentinel = sentinel::root(namespace);
    mounts.iter().any(|mount| is_tmpfs(mount) || is_sentinel(mount, &sentinel))
}

/// Whether it's the tmpfs of an attached view. Views of `run` and `mount` have none.
fn is_tmpfs(mount: &MountEntry) -> bool {
    mount.source == MOUNT_SOURCE && mount.fstype == "tmpfs"
}

fn is_sentinel(mount: &MountEntry, root: &str) -> bool {
    mount.fstype == "cgroup2" && mount.root == *root
}

/// Returns the mount that a lookup of `place` reaches, if `place` is a mount point.
fn topmost(mounts: &[MountEntry], place: impl AsRef<OsStr>) -> Option<&MountEntry> {
    let here = |mount: &&MountEntry| mount.mount_point == place.as_ref();
    let covered =
        |mount: &MountEntry| mounts.iter().filter(here).any(|other| other.parent == mount.id && other.id != mount.id);
    mounts.iter().filter(here).find(|mount| !covered(mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topmost_is_what_nothing_is_mounted_on() {
        let mounts = parse_mountinfo(
            b"30 20 0:9 / /sys/fs/cgroup rw - tmpfs vcgroupfs rw\n\
              20 10 0:8 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
              10 10 0:1 / / rw - rootfs none rw\n",
        );
        assert_eq!(topmost(&mounts, "/sys/fs/cgroup").unwrap().id, 30);
        assert_eq!(topmost(&mounts, "/").unwrap().id, 10);
        assert_eq!(topmost(&mounts, "/sys"), None);
    }

    #[test]
    fn both_programs_mount_the_same() {
        assert_eq!(attach::VIEW_FSTYPE, crate::fuse::FSTYPE);
    }
}
