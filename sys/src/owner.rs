//! The owner of an open file: the kernel signals it about I/O, and translates its number between pid namespaces
//! ([fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html)).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `struct f_owner_ex`.
#[repr(C)]
struct FOwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}

const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_GETOWN_EX: libc::c_int = 16;
const F_OWNER_TID: libc::c_int = 0;
const F_OWNER_PGRP: libc::c_int = 2;

/// Makes the thread with this number in the caller's pid namespace the owner of `file` (`F_SETOWN_EX`, Linux 2.6.32).
///
/// # Errors
/// ESRCH if there's none.
pub fn set_owner_thread(file: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    set_owner(file, &FOwnerEx { kind: F_OWNER_TID, pid: number })
}

/// Returns the number of `file`'s owner in the caller's pid namespace (`F_GETOWN_EX`, Linux 2.6.32). 0 if there's no
/// owner, or the caller can't see it, and since Linux 5.14 if the owner has exited.
///
/// # Errors
/// EBADF for an O_PATH descriptor.
pub fn owner(file: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut owner = FOwnerEx { kind: F_OWNER_TID, pid: 0 };
    // SAFETY: `owner` has the layout of `struct f_owner_ex` and lives through the call.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWN_EX, &raw mut owner) })?;
    Ok(owner.pid)
}

/// Makes I/O events of a pipe send `signal` to the caller's process group from now on (`F_SETSIG`, `O_ASYNC`).
///
/// # Errors
/// Those of fcntl(2).
pub fn signal_group_on_event(pipe: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let group = nix::unistd::getpgrp().as_raw();
    set_owner(pipe, &FOwnerEx { kind: F_OWNER_PGRP, pid: group })?;
    // SAFETY: numbers in, a number out.
    Errno::result(unsafe { libc::fcntl(pipe.as_raw_fd(), F_SETSIG, signal) })?;
    // A pipe has no other status flag that this could clear.
    let flags = nix::fcntl::OFlag::O_ASYNC | nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETFL(flags)).map(drop)
}

fn set_owner(file: BorrowedFd<'_>, owner: &FOwnerEx) -> Result<(), Errno> {
    // SAFETY: `owner` has the layout of `struct f_owner_ex` and is only read.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, std::ptr::from_ref(owner)) }).map(drop)
}
