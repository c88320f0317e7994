//! The owner of an open file, which the kernel translates between pid namespaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `struct f_owner_ex` of fcntl(2).
#[repr(C)]
struct FOwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}

const F_SETOWN_EX: libc::c_int = 15;
const F_GETOWN_EX: libc::c_int = 16;
const F_OWNER_TID: libc::c_int = 0;

/// Makes the thread with this number in the caller's pid namespace the owner of `file` (fcntl(2) F_SETOWN_EX, Linux 2.6.32).
///
/// # Errors
/// ESRCH if there's none.
pub fn set_file_owner(file: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    let owner = FOwnerEx { kind: F_OWNER_TID, pid: number };
    // SAFETY: `owner` has the layout of `struct f_owner_ex` and is only read.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, &raw const owner) };
    Errno::result(done).map(drop)
}

/// The thread, process or process group that `file` belongs to (fcntl(2) F_GETOWN_EX, Linux 2.6.32),
/// as a number in the caller's pid namespace. 0 if it has none, or one that the caller can't see,
/// and since Linux 5.14 if the owner has ended.
///
/// # Errors
/// EBADF for an O_PATH descriptor.
pub fn file_owner(file: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut owner = FOwnerEx { kind: 0, pid: 0 };
    // SAFETY: `owner` has the layout of `struct f_owner_ex` and lives through the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWN_EX, &raw mut owner) };
    Errno::result(done)?;
    Ok(owner.pid)
}
