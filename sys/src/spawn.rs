//! Starting a program from a descriptor.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use crate::descriptors::duplicate_above;

/// Executes the program that is open as `image` in a new process: `files` become its descriptors
/// 3, 4, ..., its environment is empty, no signal is blocked, and none is ignored or handled.
/// Descriptors without close-on-exec are inherited too, as is the working directory.
///
/// By posix_spawn(3) and not by fork(2): the server has threads, and a page table that would cost
/// milliseconds to copy. Needs /proc. The caller doesn't have to wait for the process if it ignores
/// SIGCHLD; otherwise it's a zombie until somebody does.
///
/// # Errors
/// Those of fork and of execve.
pub fn spawn_image(image: BorrowedFd<'_>, arguments: &[&CStr], files: &[BorrowedFd<'_>]) -> Result<Pid, Errno> {
    // Each file goes through a number above all the targets, lest one overwrite another's source.
    let first: RawFd = 3;
    let end = first + RawFd::try_from(files.len()).map_err(|_| Errno::E2BIG)?;
    let image = duplicate_above(image, end)?;
    let sources = files.iter().map(|file| duplicate_above(*file, end)).collect::<Result<Vec<_>, _>>()?;

    let mut actions = PosixSpawnFileActions::init()?;
    for (source, target) in sources.iter().zip(first..) {
        actions.add_dup2(source.as_raw_fd(), target)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    let path = format!("/proc/self/fd/{}", image.as_raw_fd());
    let environment: [&CStr; 0] = [];
    posix_spawn(path.as_str(), &actions, &attributes, arguments, &environment)
}
