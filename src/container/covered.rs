//! The flags of the mounts that a view covers in a container. The view's mounts get the same.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::agents::attach::MountFlags;
use crate::cgroup::MountEntry;
use crate::container::DIRECTORY;

/// The flags of the mounts on `/sys/fs/cgroup` and below, by mount point.
#[derive(Debug, Default)]
pub(crate) struct CoveredMounts(HashMap<PathBuf, MountFlags>);

impl CoveredMounts {
    /// Collects the flags of the mounts below a root directory. Of several mounts on one mount point only the common
    /// flags count: a program that remounts the topmost may use those of any, and systemd uses those of the first.
    pub(crate) fn of(mounts: &[MountEntry], root: &Path) -> Self {
        let mut flags: HashMap<PathBuf, MountFlags> = HashMap::new();
        for mount in mounts {
            let Ok(point) = Path::new(&mount.mount_point).strip_prefix(root) else { continue };
            let point = Path::new("/").join(point);
            if point.starts_with(DIRECTORY) {
                let own = MountFlags::from_options(&mount.options);
                flags.entry(point).and_modify(|flags| *flags = flags.and(own)).or_insert(own);
            }
        }
        Self(flags)
    }

    /// The flags for the tmpfs of a stack.
    pub(crate) fn tmpfs(&self) -> MountFlags {
        self.0.get(Path::new(DIRECTORY)).copied().unwrap_or(MountFlags::TMPFS)
    }

    /// The flags for a sentinel.
    pub(crate) fn sentinel(&self) -> MountFlags {
        self.0.get(Path::new(DIRECTORY)).copied().unwrap_or(MountFlags::HIERARCHY)
    }

    /// The flags for a hierarchy's directory in a stack.
    pub(crate) fn hierarchy(&self, directory: &OsStr) -> MountFlags {
        self.0.get(&Path::new(DIRECTORY).join(directory)).copied().unwrap_or(MountFlags::HIERARCHY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::parse_mountinfo;

    #[test]
    fn each_mount_point_has_its_own() {
        let mounts = parse_mountinfo(
            b"1 0 0:1 / / rw,nosuid - ext4 x rw\n\
              2 1 0:2 / /sys/fs/cgroup rw,noexec,noatime - tmpfs x rw\n\
              3 2 0:3 / /sys/fs/cgroup/memory ro,nosuid,nodev,relatime - cgroup x rw,memory\n\
              4 3 0:4 / /sys/fs/cgroup/memory rw,nosuid,noexec - tmpfs x rw\n\
              5 1 0:5 / /r/sys/fs/cgroup rw,nodev - tmpfs x rw\n\
              6 1 0:5 / /sys/fs/cgroups rw - tmpfs x rw\n",
        );
        let covered = CoveredMounts::of(&mounts, Path::new("/"));
        assert_eq!(covered.tmpfs(), MountFlags::from_options("noexec,noatime"));
        assert_eq!(covered.sentinel(), covered.tmpfs());
        assert_eq!(covered.hierarchy(OsStr::new("memory")), MountFlags::from_options("nosuid,relatime"));
        assert_eq!(covered.hierarchy(OsStr::new("pids")), MountFlags::HIERARCHY);
        let creating = CoveredMounts::of(&mounts, Path::new("/r"));
        assert_eq!(creating.tmpfs(), MountFlags::from_options("nodev"));
        assert_eq!(CoveredMounts::default().tmpfs(), MountFlags::TMPFS);
        assert_eq!(CoveredMounts::default().sentinel(), MountFlags::HIERARCHY);
    }
}
