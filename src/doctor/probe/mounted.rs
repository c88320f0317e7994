//! The files of cgroups where the host's hierarchies can't be seen: through what is mounted here, as in a container.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cgroup::{CgroupPath, HierarchyKind, MountEntry};
use crate::doctor::facts::{VIEW, directories, mount_of};
use crate::doctor::limits::HostFiles;
use crate::doctor::probe::host::MAX_CONTENT_BYTES;

/// What is mounted in this process' mount namespace.
#[derive(Debug)]
pub(crate) struct MountedFiles(Vec<MountEntry>);

impl MountedFiles {
    /// `None` if no hierarchy and no view is mounted.
    pub(crate) fn of(mounts: Vec<MountEntry>) -> Option<Self> {
        let has_any = mounts.iter().any(|mount| mount.hierarchy().is_some() || mount.fstype == VIEW);
        has_any.then_some(Self(mounts))
    }

    /// Where a cgroup may be: below mounts of its hierarchy, with the mount's root taken from the path, and in views, which
    /// keep the path.
    fn candidates(&self, kind: &HierarchyKind, path: &CgroupPath) -> Vec<PathBuf> {
        let below = |base: &Path, path: &CgroupPath| {
            let mut all = base.to_path_buf();
            all.extend(path.components());
            all
        };
        let native = self.0.iter().filter(|mount| mount.hierarchy().as_ref() == Some(kind)).filter_map(|mount| {
            let root = CgroupPath::parse(&mount.root).ok()?;
            Some(below(Path::new(&mount.mount_point), &path.relative_to(&root)?))
        });
        let views = directories(kind).into_iter().filter_map(|directory| {
            let at = below(Path::new(&directory), path);
            mount_of(&self.0, &at.to_string_lossy()).filter(|mount| mount.fstype == VIEW).map(|_| at)
        });
        native.chain(views).collect()
    }

    fn directory(&self, kind: &HierarchyKind, path: &CgroupPath) -> Option<PathBuf> {
        self.candidates(kind, path).into_iter().find(|directory| directory.is_dir())
    }
}

impl HostFiles for MountedFiles {
    fn read(&self, kind: &HierarchyKind, path: &CgroupPath, file: &str) -> Option<String> {
        let path = self.directory(kind, path)?.join(file);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let mut text = String::new();
        file.take(MAX_CONTENT_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn exists(&self, kind: &HierarchyKind, path: &CgroupPath, file: Option<&str>) -> bool {
        let Some(directory) = self.directory(kind, path) else { return false };
        file.is_none_or(|file| directory.join(file).symlink_metadata().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::parse_mountinfo;

    #[test]
    fn places_of_a_cgroup() {
        let mountinfo = "21 20 0:2 /docker/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                         22 20 0:3 / /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n\
                         32 22 0:4 /pids /sys/fs/cgroup/pids ro - fuse.vcgroupfs vcgroupfs rw\n";
        let files = MountedFiles::of(parse_mountinfo(mountinfo.as_bytes())).unwrap();
        let of = |list: &str, path: &str| {
            let found = files.candidates(&HierarchyKind::v1(list), &CgroupPath::parse(path).unwrap());
            found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("memory", "/docker/c1"), ["/sys/fs/cgroup/memory"]);
        assert_eq!(of("memory", "/docker/c1/a"), ["/sys/fs/cgroup/memory/a"]);
        assert!(of("memory", "/docker").is_empty() && of("cpu", "/docker/c1").is_empty());
        assert_eq!(of("pids", "/docker"), ["/sys/fs/cgroup/pids/docker", "/sys/fs/cgroup/pids/docker"]);
        assert!(MountedFiles::of(parse_mountinfo(b"1 0 0:1 / / rw - ext4 x rw\n")).is_none());
    }
}
