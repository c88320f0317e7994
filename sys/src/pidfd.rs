//! Processes to hold ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)).

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// `CAP_SYS_PTRACE`, linux/capability.h.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// A process; readable once it has ended, whoever reaps it. Linux 5.3.
///
/// # Errors
/// `ESRCH` if there's none with this number.
pub fn open(process: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: two numbers in.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it; it's close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Whether descriptors of any other process can be had (pidfd_getfd(2), Linux 5.6): the kernel knows the call, nothing forbids it, and this
/// process has the capability that it takes.
pub fn can_fetch_descriptors() -> bool {
    // SAFETY: three numbers in; there's no such descriptor, so that nothing happens.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, -1, 0, 0) };
    Errno::result(result) == Err(Errno::EBADF)
        && super::credentials::capabilities().is_ok_and(|capabilities| capabilities.permitted & CAP_SYS_PTRACE != 0)
}
