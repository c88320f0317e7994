//! Descriptors by their numbers: inheriting them, and closing all of them at once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

/// A number that no descriptor has.
pub const NO_DESCRIPTOR: RawFd = -1;

/// Takes ownership of descriptor `number`, which the parent process left open for this one. Returns `None` if it isn't open.
///
/// A program may call this once for each number, and only for numbers that it has agreed on with its parent.
#[must_use]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only looks the number up.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it's open (just checked), and by the contract above nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` on. None of them may have an owner yet
/// ([close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html)).
///
/// # Errors
/// Before Linux 5.9, the errors of reading `/proc/self/fd`.
pub fn close_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: numbers in; by the contract above nothing in this process owns one of these descriptors.
    if unsafe { libc::syscall(libc::SYS_close_range, first.cast_unsigned(), u32::MAX, 0) } == 0 {
        return Ok(());
    }
    // Before Linux 5.9, or under a filter that doesn't know the call: one by one.
    let numbers =
        open_numbers("/proc/self/fd").map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    for number in numbers.into_iter().filter(|number| *number >= first) {
        // SAFETY: as above; the directory's own number, closed by now, is a harmless EBADF.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Copies a descriptor to a number of at least `lowest`, close-on-exec.
///
/// # Errors
/// EMFILE, or EINVAL, if there's no number left.
pub fn duplicate_above(file: BorrowedFd<'_>, lowest: RawFd) -> Result<OwnedFd, Errno> {
    let number = fcntl(file, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns the numbers of all open descriptors above the standard three.
///
/// # Errors
/// The errors of reading `/proc/self/fd`.
pub fn all_open() -> io::Result<Vec<RawFd>> {
    let numbers = open_numbers("/proc/self/fd")?;
    // SAFETY: F_GETFD only looks the number up. The directory that was read is closed by now.
    Ok(numbers.into_iter().filter(|number| unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0).collect())
}

/// Takes ownership of a descriptor that a process opened which had this descriptor table before, and has ended without
/// closing it. Returns `None` if it isn't open.
///
/// A program may call this once for each number that such a process has recorded.
#[must_use]
pub fn recovered(number: RawFd) -> Option<OwnedFd> {
    inherited(number)
}

/// Copies a descriptor to a number of at least `lowest`, close-on-exec, and leaves the copy without an owner.
///
/// # Errors
/// EMFILE, or EINVAL, if there's no number left; EBADF if it isn't open.
pub fn copy_above(number: RawFd, lowest: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: numbers in.
    Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, lowest) })
}

/// Copies a descriptor that is known by its number alone, close-on-exec.
///
/// # Errors
/// EMFILE; EBADF if it isn't open.
pub fn duplicate(number: RawFd) -> Result<OwnedFd, Errno> {
    let copy = copy_above(number, libc::STDERR_FILENO + 1)?;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Decides for each open descriptor above the standard three whether a program that this process executes has it too.
///
/// # Errors
/// The errors of reading `/proc/self/fd`.
pub fn set_inherited(is_inherited: bool) -> io::Result<()> {
    let flags = if is_inherited { 0 } else { libc::FD_CLOEXEC };
    for number in all_open()? {
        // SAFETY: numbers in. The flag says nothing about who owns the descriptor.
        unsafe { libc::fcntl(number, libc::F_SETFD, flags) };
    }
    Ok(())
}

/// Copies a descriptor to exactly this number, close-on-exec. An open one of that number is replaced: its owner then
/// owns the copy.
///
/// # Errors
/// Those of dup3(2).
pub fn copy_to(number: RawFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: numbers in. Whoever owns `to` still owns an open descriptor.
    Errno::result(unsafe { libc::dup3(number, to, libc::O_CLOEXEC) }).map(drop)
}

/// Closes the descriptors with these numbers, whose owners have ended with another process.
pub fn close_all(numbers: impl IntoIterator<Item = RawFd>) {
    for number in numbers {
        // SAFETY: a number in; by the contract above nothing in this process owns it.
        unsafe { libc::close(number) };
    }
}

/// Returns the numbers above the standard three in a directory of procfs. The directory's own number is among them
/// and closed by then.
fn open_numbers(directory: &str) -> io::Result<Vec<RawFd>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    numbers.retain(|number| *number > libc::STDERR_FILENO);
    Ok(numbers)
}

/// Closes every descriptor above the standard three but `kept`. So a process that goes on in a copy of another's
/// memory doesn't keep that process' descriptors open. Their owners in this process can't use them any more.
///
/// # Errors
/// The errors of reading `/proc/self/fd`.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let is_kept = |number: RawFd| kept.iter().any(|file| file.as_raw_fd() == number);
    for number in open_numbers("/proc/self/fd")?.into_iter().filter(|number| !is_kept(*number)) {
        // SAFETY: a number in; the contract above covers descriptors that have an owner. The directory's, closed by now, is EBADF.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Gives the calling thread a descriptor table of its own, with `kept` and the standard three. They are closed when the thread drops them or
/// ends. The process keeps its own. The thread must use no other descriptor that was opened before.
///
/// # Errors
/// `ENOMEM`, `EMFILE`, and the errors of reading `/proc/self/task`. The thread must not use any descriptor then.
pub fn take_files<const N: usize>(kept: [BorrowedFd<'_>; N]) -> io::Result<[OwnedFd; N]> {
    unshare(CloneFlags::CLONE_FILES)?;
    let kept = kept.map(|file| file.as_raw_fd());
    let numbers = open_numbers(&format!("/proc/self/task/{}/fd", gettid()))?;
    for number in numbers.into_iter().filter(|number| !kept.contains(number)) {
        // SAFETY: a number in; this thread's table is its own by now, and the contract above says that nothing in it has an owner.
        unsafe { libc::close(number) };
    }
    // SAFETY: they are open in this thread's table, and were opened by owners that close them in the process' own.
    Ok(kept.map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Closes every descriptor above the standard three, for a process that is about to end: threads in an
/// uninterruptible call keep the descriptor table alive. Each number then leads to `/dev/null`, so that no other
/// thread can reach a new file through it.
///
/// # Errors
/// The errors of opening `/dev/null` and of reading `/proc/self/fd`.
pub fn abandon_files() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    for number in open_numbers("/proc/self/fd")?.into_iter().filter(|number| *number != null.as_raw_fd()) {
        // SAFETY: two numbers in. Whoever owns the second one still owns an open descriptor, of a file that takes everything and has nothing.
        unsafe { libc::dup3(null.as_raw_fd(), number, libc::O_CLOEXEC) };
    }
    Ok(())
}
