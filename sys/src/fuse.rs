//! Channels of a FUSE connection.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `FUSE_DEV_IOC_CLONE` of linux/fuse.h.
const CLONE: libc::Ioctl = libc::_IOR::<u32>(229, 0);

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
