//! Reading the backing tree.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::KernelHost;
use crate::cgroup::HierarchyKind;
use crate::fs::SysResult;
use crate::fs::host::{BackingEntry, FollowChanges, HostTree, Statistics};
use crate::fs::inode::{Attributes, Node};
use crate::host::dir_changes::Followers;
use crate::host::opening::{by_id, single_component};

impl KernelHost {
    /// Returns the attributes of the entry with this name in `directory`, whose backing object is `object`.
    pub(super) fn child_of(&self, object: &OwnedFd, directory: &Node, name: &OsStr) -> SysResult<Attributes> {
        let stat = fstatat(object, single_component(name)?, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let is_shown = matches!(stat.st_mode & libc::S_IFMT, libc::S_IFDIR | libc::S_IFREG);
        if stat.st_dev != self.hierarchy(directory)?.device() || !is_shown {
            return Err(Errno::ENOENT);
        }
        Ok(attributes(&stat))
    }
}

impl HostTree for KernelHost {
    fn attributes(&self, node: &Node) -> SysResult<Attributes> {
        Ok(attributes(&fstat(self.object(node)?)?))
    }

    fn child(&self, directory: &Node, name: &OsStr) -> SysResult<Attributes> {
        self.child_of(&*self.object(directory)?, directory, name)
    }

    fn list(&self, directory: &Node) -> SysResult<Vec<BackingEntry>> {
        let object = self.object(directory)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::from_fd(openat(&object, ".", flags, Mode::empty())?)?;
        let mut entries = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let is_directory = match entry.file_type() {
                Some(kind) => kind == nix::dir::Type::Directory,
                None => match self.child(directory, name) {
                    Ok(attributes) => attributes.is_directory(),
                    Err(_) => continue,
                },
            };
            entries.push(BackingEntry { name: name.to_os_string(), inode: entry.ino(), is_directory });
        }
        Ok(entries)
    }

    fn follow_changes(&self, directory: &Node) -> Option<Box<dyn FollowChanges>> {
        let files = self.hierarchy(directory).ok()?.kind == HierarchyKind::Unified;
        let object = self.object(directory).ok()?;
        self.shared.followers.get_or_init(Followers::new).as_ref()?.follow(object.as_fd(), files)
    }

    fn has_directory(&self, hierarchy: usize, inode: u64) -> bool {
        let hierarchy = self.shared.cgroups.hierarchies.get(hierarchy);
        hierarchy.is_none_or(|hierarchy| {
            !hierarchy.has_handles() || by_id(hierarchy.root(), inode, libc::O_PATH).err() != Some(Errno::ENOENT)
        })
    }

    fn statistics(&self, hierarchy: usize) -> SysResult<Statistics> {
        let hierarchy = self.shared.cgroups.hierarchies.get(hierarchy).ok_or(Errno::ENOENT)?;
        let statistics = nix::sys::statfs::fstatfs(hierarchy.root())?;
        Ok(Statistics { block_size: u32::try_from(statistics.block_size()).unwrap_or(4096), name_length: 255 })
    }
}

pub(super) fn attributes(stat: &FileStat) -> Attributes {
    let time = |seconds: i64, nanoseconds: i64| {
        let since = Duration::new(seconds.unsigned_abs(), u32::try_from(nanoseconds).unwrap_or(0));
        let time = if seconds >= 0 { UNIX_EPOCH.checked_add(since) } else { UNIX_EPOCH.checked_sub(since) };
        time.unwrap_or(UNIX_EPOCH)
    };
    Attributes {
        inode: stat.st_ino,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        block_size: u32::try_from(stat.st_blksize).unwrap_or(4096),
        times: [
            time(stat.st_atime, stat.st_atime_nsec),
            time(stat.st_mtime, stat.st_mtime_nsec),
            time(stat.st_ctime, stat.st_ctime_nsec),
        ],
    }
}
