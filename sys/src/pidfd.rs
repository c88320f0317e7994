//! Process file descriptors ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::capability::{CAP_SYS_PTRACE, capabilities};

/// Opens a pidfd of a process. It becomes readable when the process has exited, whoever reaps it. Linux 5.3.
///
/// # Errors
/// `ENOSYS` on older kernels, `ESRCH` if there's none with this number, `EINVAL` for a thread that isn't its process'
/// first one.
pub fn open(process: i32) -> Result<OwnedFd, Errno> {
    open_with(process, 0)
}

/// Opens a pidfd of a thread (`PIDFD_THREAD`). Linux 6.9.
///
/// # Errors
/// `EINVAL` on older kernels; as [`open`].
pub fn open_thread(thread: i32) -> Result<OwnedFd, Errno> {
    open_with(thread, libc::PIDFD_THREAD)
}

fn open_with(number: i32, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: two numbers in.
    let file = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, number, flags) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it; it's close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(file as i32) })
}

/// Fetches another process' descriptor: the same open file
/// ([pidfd_getfd(2)](https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html)). Linux 5.6.
///
/// # Errors
/// `EBADF` if it has none with this number, `EPERM` if it may not be traced, `ENOSYS` on older kernels.
pub fn fetch(process: BorrowedFd<'_>, number: u32) -> Result<OwnedFd, Errno> {
    let file = getfd(process.as_raw_fd(), number)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it; it's close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Whether this process can fetch descriptors of any other process: the kernel has the call, no filter forbids it,
/// and the process has the required capability.
#[must_use]
pub fn can_fetch() -> bool {
    // No process has this pidfd, so the call has no effect.
    getfd(-1, 0) == Err(Errno::EBADF)
        && capabilities().is_ok_and(|capabilities| capabilities.permitted & CAP_SYS_PTRACE != 0)
}

fn getfd(process: i32, number: u32) -> Result<i32, Errno> {
    // SAFETY: three numbers in.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, 0) }).map(|file| file as i32)
}
