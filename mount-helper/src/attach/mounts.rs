//! The mounts and directories from which both layouts are built.

use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::fchdir;

use super::flags::MountFlags;
use super::layout::{MOUNT_SOURCE, VIEW_FSTYPE};
use super::step::{AttachStep, StepError, failed_at};

const PATH_ONLY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The mount point of a layout: the directory `name` of `parent`. It's a component of `/sys/fs/cgroup`; the
/// components from `depth` on have to be made in it.
#[derive(Debug, Clone, Copy)]
pub struct MountSite<'a> {
    /// The directory that it's in.
    pub parent: BorrowedFd<'a>,
    /// Its name.
    pub name: &'a CStr,
    /// How many components of `/sys/fs/cgroup` lead to it.
    pub depth: usize,
    /// The host's procfs.
    pub proc: BorrowedFd<'a>,
}

/// Opens a directory, or the mount on it, by its name in another directory. A symlink isn't followed.
///
/// # Errors
/// ENOENT, ENOTDIR (also for a symlink).
pub fn open_below(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(directory, name, PATH_ONLY, Mode::empty())
}

/// Mounts a tmpfs on the site, and returns its root.
pub(super) fn mount_tmpfs(site: &MountSite<'_>, flags: MountFlags) -> Result<OwnedFd, StepError> {
    let below = open_below(site.parent, site.name).map_err(failed_at(AttachStep::Tmpfs))?;
    enter(&below).map_err(failed_at(AttachStep::Tmpfs))?;
    // It becomes read-only last. Until then only root of the initial user namespace can write here, and only to its
    // own container.
    mount(Some(MOUNT_SOURCE), ".", Some("tmpfs"), flags.for_mount(), Some("mode=0755,size=64k,nr_inodes=1k"))
        .map_err(failed_at(AttachStep::Tmpfs))?;
    let top = open_below(site.parent, site.name).map_err(failed_at(AttachStep::Tmpfs))?;
    let fresh =
        fstat(&top).and_then(|top| Ok(top.st_dev != fstat(&below)?.st_dev)).map_err(failed_at(AttachStep::Tmpfs))?;
    if !fresh {
        // Somebody has just unmounted it again.
        return Err((AttachStep::Tmpfs, Errno::ESTALE));
    }
    Ok(top)
}

/// Unmounts the mount with this root, and all that is mounted below it.
pub(super) fn take_away(top: &OwnedFd) {
    let _ = enter(top).and_then(|()| umount2(".", MntFlags::MNT_DETACH));
}

/// Makes directories, each in the one before, and returns the last one.
pub(super) fn make_below(directory: &OwnedFd, names: &[&CStr]) -> Result<OwnedFd, Errno> {
    let mut place = directory.try_clone().map_err(|error| errno_of(&error))?;
    for name in names {
        make_directory(&place, name)?;
        place = open_below(place.as_fd(), name)?;
    }
    Ok(place)
}

pub(super) fn enter(directory: &OwnedFd) -> Result<(), Errno> {
    fchdir(directory)
}

pub(super) fn make_directory(directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    mkdirat(directory, name, Mode::from_bits_truncate(0o755))
}

/// Mounts a connection to FUSE as a view. The caller must be in the initial user namespace, so that callers of all
/// user namespaces may use the view, and in the server's pid namespace, in which the kernel then numbers its callers.
pub(super) fn mount_view(device: BorrowedFd<'_>, directory: &CStr, flags: MountFlags) -> Result<(), Errno> {
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
    mount(Some(MOUNT_SOURCE), directory, Some(VIEW_FSTYPE), flags.for_mount(), Some(options.as_str()))
}

/// Makes the tmpfs read-only, its superblock as well as this mount of it.
pub(super) fn seal(top: &OwnedFd, flags: MountFlags) -> Result<(), Errno> {
    enter(top)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags.for_mount();
    mount(None::<&str>, ".", None::<&str>, flags, None::<&str>)
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Returns the id of a descriptor's mount, or 0 if the kernel doesn't tell. It reads `/proc/self/fdinfo` (Linux 3.15)
/// of the host's procfs: the container's can't be trusted, and a stat of a view that isn't served yet would block.
pub(super) fn mount_id(proc: BorrowedFd<'_>, file: &OwnedFd) -> u64 {
    let name = format!("self/fdinfo/{}", file.as_raw_fd());
    let read = || {
        let info = openat(proc, name.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let text = std::io::read_to_string(std::fs::File::from(info)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
    };
    read().unwrap_or(0)
}

/// Returns the device, major and minor number, of the mount with this id in this process' mount namespace. It reads
/// mountinfo of the host's procfs.
pub(super) fn device_of(proc: BorrowedFd<'_>, mount: u64) -> Result<(u64, u64), Errno> {
    let info = openat(proc, "self/mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    // Names in mountinfo can be any bytes.
    std::fs::File::from(info).read_to_end(&mut text).map_err(|_| Errno::EIO)?;
    device_in(&String::from_utf8_lossy(&text), mount).ok_or(Errno::ESTALE)
}

/// Finds a mount's device in mountinfo. A line begins with the mount's id, that of its parent, and the device.
fn device_in(mountinfo: &str, mount: u64) -> Option<(u64, u64)> {
    mountinfo.lines().find_map(|line| {
        let mut words = line.split(' ');
        words.next()?.parse().ok().filter(|id: &u64| *id == mount)?;
        let (major, minor) = words.nth(1)?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::device_in;

    #[test]
    fn device_of_a_mount() {
        let mountinfo =
            "20 1 0:8 / / rw - tmpfs tmpfs rw\n201 20 0:4000000000 / /20 rw - fuse.vcgroupfs vcgroupfs rw\n";
        assert_eq!(device_in(mountinfo, 20), Some((0, 8)));
        assert_eq!(device_in(mountinfo, 201), Some((0, 4_000_000_000)));
        assert_eq!(device_in(mountinfo, 1), None);
    }
}
