//! Attributes of an open file ([statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html)).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Mode, user and group of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Type and mode.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// Looks up mode, user and group from the kernel's cache: those of a network filesystem or a FUSE may be old, since
/// it isn't asked (`AT_STATX_DONT_SYNC`, Linux 4.11). A file of a FUSE that denies this process access has mode 0 and
/// the overflow user.
///
/// # Errors
/// ENOSYS before Linux 4.11.
pub fn known_access(file: BorrowedFd<'_>) -> Result<Access, Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_MODE | libc::STATX_UID | libc::STATX_GID;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, and `found` has room for the answer; both live through the call.
    let done =
        unsafe { libc::syscall(libc::SYS_statx, file.as_raw_fd(), c"".as_ptr(), flags, mask, found.as_mut_ptr()) };
    match Errno::result(done) {
        Err(Errno::EACCES) => return Ok(Access { mode: 0, uid: u32::MAX, gid: u32::MAX }),
        done => done?,
    };
    // SAFETY: all zeros are a valid value, and the kernel has filled it in.
    let found = unsafe { found.assume_init() };
    Ok(Access { mode: found.stx_mode.into(), uid: found.stx_uid, gid: found.stx_gid })
}
