//! Detached mounts, which are in no mount namespace's tree (open_tree(2), mount_setattr(2), move_mount(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// `struct mount_attr` of linux/mount.h, its first version.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const AT_RECURSIVE: libc::c_uint = 0x8000;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;

/// Copies the mounts at and below an open directory, and returns the root of the topmost copy, which is detached. Linux 5.2.
///
/// # Errors
/// `ENOSYS` on older kernels, `EPERM` without CAP_SYS_ADMIN, `EINVAL` for a mount of another mount namespace.
pub fn detached_tree(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open_tree(directory, AT_RECURSIVE)
}

/// Mounts an open directory again, detached, and returns the root of that mount. Nobody can mount anything in it, and
/// it doesn't contain the mounts on or below the directory. Linux 5.2. With `read_only`, a file that is opened
/// through it can't be reopened for writing. Linux 5.12.
///
/// # Errors
/// `ENOSYS` on older kernels, `EPERM` without CAP_SYS_ADMIN.
pub fn detached(directory: BorrowedFd<'_>, read_only: bool) -> io::Result<OwnedFd> {
    let mount = copy(directory)?;
    if read_only {
        make_read_only(mount.as_fd())?;
    }
    // open_by_handle_at(2) doesn't accept open_tree's O_PATH descriptor. The mount lives on with the new one, as
    // after a lazy unmount.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(&mount, ".", flags, Mode::empty())?)
}

/// Does the same as [`detached`], but returns an O_PATH descriptor. Closing it sends the filesystem's server no
/// request.
///
/// # Errors
/// As [`detached`].
pub fn copy(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open_tree(directory, 0)
}

/// Makes a detached mount of only this open file, and returns it as an O_PATH descriptor. Nobody can open the file
/// for writing through it, or change its attributes. Linux 5.12.
///
/// # Errors
/// `ENOSYS` on older kernels, `EPERM` without CAP_SYS_ADMIN, `EINVAL` for a file of another mount namespace.
pub fn read_only_file(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mount = open_tree(file, 0)?;
    // Private, so that mounts elsewhere don't propagate to it.
    set_attributes(mount.as_fd(), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, libc::MS_PRIVATE)?;
    Ok(mount)
}

/// Attaches a detached mount, with all that is mounted below it, to an open directory. Linux 5.2.
///
/// # Errors
/// `ENOSYS` on older kernels, `EPERM` without CAP_SYS_ADMIN, `EINVAL` for a directory of another mount namespace.
pub fn attach(tree: BorrowedFd<'_>, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let (from, to, empty) = (tree.as_raw_fd(), directory.as_raw_fd(), c"".as_ptr());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings that outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) }).map(drop)
}

fn open_tree(directory: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<OwnedFd> {
    let flags = flags | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the path is an empty C string that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), c"".as_ptr(), flags) };
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn make_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(mount, MOUNT_ATTR_RDONLY, 0)
}

fn set_attributes(mount: BorrowedFd<'_>, set: u64, propagation: u64) -> io::Result<()> {
    let attributes = MountAttributes { set, clear: 0, propagation, user_namespace: 0 };
    // SAFETY: the path is an empty C string; `attributes` has the layout and the size that are said, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    Ok(Errno::result(result).map(drop)?)
}
