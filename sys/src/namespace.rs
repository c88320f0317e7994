//! Namespaces: entering another cgroup namespace for a few system calls, in the calling thread alone
//! ([setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html)), and the relations between namespaces
//! (ioctl_ns(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

/// A guard: the thread is in another namespace until this is dropped. It can't be sent to another thread.
#[derive(Debug)]
#[must_use]
pub struct Entered<'a> {
    own: BorrowedFd<'a>,
    not_send: std::marker::PhantomData<*const ()>,
}

/// Enters the cgroup namespace `other`. The guard returns to `own`. Linux 4.6.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN towards it; then nothing has changed.
pub fn enter_cgroup_namespace<'a>(other: BorrowedFd<'_>, own: BorrowedFd<'a>) -> Result<Entered<'a>, Errno> {
    setns(other, CloneFlags::CLONE_NEWCGROUP)?;
    Ok(Entered { own, not_send: std::marker::PhantomData })
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if setns(self.own, CloneFlags::CLONE_NEWCGROUP).is_err() {
            // A thread that stayed in a container's namespace would read wrong cgroup paths. This can't happen: a
            // thread that could enter the container's namespace can enter its own.
            std::process::abort();
        }
    }
}

/// `NS_GET_PARENT` of linux/nsfs.h: `_IO(0xb7, 0x2)`.
const NS_GET_PARENT: libc::Ioctl = libc::_IO(0xb7, 0x2);

/// `NS_GET_TGID_FROM_PIDNS` of linux/nsfs.h: `_IOR(0xb7, 0x7, int)`.
const NS_GET_TGID_FROM_PIDNS: libc::Ioctl = libc::_IOR::<libc::c_int>(0xb7, 0x7);

/// Returns the parent of a pid or user namespace. Linux 4.9.
///
/// # Errors
/// `EPERM` if that is neither the caller's own nor below it, `ENOTTY` before Linux 4.9.
pub fn parent(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    related(namespace, NS_GET_PARENT)
}

/// Returns a namespace related to this one.
fn related(namespace: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: both requests take no argument and touch no memory.
    let number = Errno::result(unsafe { libc::ioctl(namespace.as_raw_fd(), request) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Translates `number`, a process in another pid namespace, to its number in the caller's. Linux 6.11.
///
/// # Errors
/// `ESRCH` if there's none, or it can't be seen; `ENOTTY` before Linux 6.11.
pub fn process_in(namespace: BorrowedFd<'_>, number: i32) -> io::Result<i32> {
    // SAFETY: the request takes a number and touches no memory.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_TGID_FROM_PIDNS, number) };
    Ok(Errno::result(result)?)
}

/// `NS_GET_USERNS` of linux/nsfs.h: `_IO(0xb7, 0x1)`.
const NS_GET_USERNS: libc::Ioctl = libc::_IO(0xb7, 0x1);

/// Returns the user namespace that a namespace belongs to. Linux 4.9.
///
/// # Errors
/// `EPERM` if it's neither the caller's own nor below that, `ENOTTY` before Linux 4.9.
pub fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    related(namespace, NS_GET_USERNS)
}

/// `NS_GET_OWNER_UID` of linux/nsfs.h: `_IO(0xb7, 0x4)`.
const NS_GET_OWNER_UID: libc::Ioctl = libc::_IO(0xb7, 0x4);

/// Returns the user who made a user namespace, as the caller's user namespace numbers it. Linux 4.11.
///
/// # Errors
/// `EINVAL` if it isn't a user namespace, `ENOTTY` before Linux 4.11.
pub fn maker(user_namespace: BorrowedFd<'_>) -> io::Result<u32> {
    let mut user: libc::uid_t = 0;
    // SAFETY: the request writes a uid_t to where its argument points, which is a variable that lives until the call returns.
    let result = unsafe { libc::ioctl(user_namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut user) };
    Errno::result(result)?;
    Ok(user)
}
