//! Channels of a FUSE connection.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `FUSE_DEV_IOC_CLONE` of linux/fuse.h.
const CLONE: libc::Ioctl = libc::_IOR::<u32>(229, 0);

/// `FUSE_DEV_IOC_BACKING_OPEN` and `FUSE_DEV_IOC_BACKING_CLOSE` of linux/fuse.h.
const BACKING_OPEN: libc::Ioctl = libc::_IOW::<BackingMap>(229, 1);
const BACKING_CLOSE: libc::Ioctl = libc::_IOW::<u32>(229, 2);

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    file: i32,
    flags: u32,
    padding: u64,
}

/// Registers a file by which the kernel may serve reads itself, and returns its number in the connection. It stays
/// until [`close_backing`], or until the connection ends. Linux 6.9.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EOPNOTSUPP` or `EINVAL` where the kernel can't pass through, `ENOTTY` on older
/// kernels.
pub fn open_backing(connection: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<u32, Errno> {
    let map = BackingMap { file: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads the structure, which outlives the call.
    let number = Errno::result(unsafe { libc::ioctl(connection.as_raw_fd(), BACKING_OPEN, &raw const map) })?;
    Ok(number.cast_unsigned())
}

/// Unregisters a backing file.
///
/// # Errors
/// `ENOENT` if there's none with this number.
pub fn close_backing(connection: BorrowedFd<'_>, number: u32) -> Result<(), Errno> {
    // SAFETY: the kernel reads a u32, which outlives the call.
    Errno::result(unsafe { libc::ioctl(connection.as_raw_fd(), BACKING_CLOSE, &raw const number) }).map(drop)
}

/// Gives a backing file's number the type that replies take. Whoever calls this has to give the number back
/// (`into_raw`), since dropping it unregisters the file.
#[cfg(feature = "server")]
#[must_use]
pub fn wrap_backing(reply: &fuser::ReplyOpen, number: u32) -> fuser::BackingId {
    // SAFETY: a number that isn't registered, or that is unregistered twice, only makes the kernel answer ENOENT.
    unsafe { reply.wrap_backing(number) }
}

/// Makes a newly opened `/dev/fuse` another channel of `connection`, which is mounted
/// ([fuse(4)](https://man7.org/linux/man-pages/man4/fuse.4.html)). Linux 4.2.
///
/// Closing a channel aborts the requests that were read from it. Closing the last one aborts the connection.
///
/// # Errors
/// `ENOTTY` on older kernels, `EINVAL` if it isn't mounted.
pub fn join(channel: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> Result<(), Errno> {
    let number = connection.as_raw_fd();
    // SAFETY: the kernel reads a u32, which a descriptor's number is as well, and which outlives the call.
    Errno::result(unsafe { libc::ioctl(channel.as_raw_fd(), CLONE, &raw const number) }).map(drop)
}
