//! Processes: fork, and what a child inherits.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, gettid};

/// How long a thread that has been joined may still be seen: the kernel tells who joins it as soon as it has left its memory, and only
/// then takes its namespaces apart and its number away (`do_exit`).
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Forks ([fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)). Refuses in a process with several threads, where the child could
/// inherit a lock that nobody will ever open.
///
/// # Errors
/// `EBUSY` with several threads; what fork(2) says.
pub fn fork() -> io::Result<ForkResult> {
    let start = Instant::now();
    while std::fs::read_dir("/proc/self/task")?.count() != 1 {
        if start.elapsed() > LAST_BREATH {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: this process has a single thread, so the child is a whole copy of it, locks and all.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Whether this is the number of a process, and so of its first thread, and not of another thread. It takes a single system call.
pub fn is_first_thread(number: i32) -> bool {
    // SAFETY: numbers in; signal 0 is sent to nobody.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, number, number, 0) };
    Errno::result(result) != Err(Errno::ESRCH)
}

/// Sets what becomes of a signal to the default or to nothing.
///
/// # Errors
/// `EINVAL` for SIGKILL and SIGSTOP.
pub fn set_disposition(signal: Signal, ignore: bool) -> io::Result<()> {
    let handler = if ignore { SigHandler::SigIgn } else { SigHandler::SigDfl };
    // SAFETY: no function is installed, only the default or nothing.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

/// Closes every descriptor above the standard three but `kept`: for a process that goes on alone in a copy of another's memory, and must not
/// keep what that one has open. Whoever owns one of them in this process can't use it any more.
///
/// # Errors
/// Those of reading `/proc/self/fd`.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let is_kept = |number: RawFd| kept.iter().any(|file| file.as_raw_fd() == number);
    // The list is taken before anything is closed: the directory's own descriptor is in it.
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for number in numbers.into_iter().filter(|number| *number > libc::STDERR_FILENO && !is_kept(*number)) {
        // SAFETY: a number in; the contract above covers descriptors that have an owner. The directory's, closed by now, is EBADF.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Gives the calling thread a table of descriptors of its own, with these and the standard three. They are closed when the thread drops them
/// or ends; the process keeps its own. The thread must use no other descriptor that was opened before.
///
/// # Errors
/// `ENOMEM`, `EMFILE`; those of reading `/proc/self/task`. The thread then must use none at all.
pub fn take_files<const N: usize>(kept: [BorrowedFd<'_>; N]) -> io::Result<[OwnedFd; N]> {
    unshare(CloneFlags::CLONE_FILES)?;
    let kept = kept.map(|file| file.as_raw_fd());
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/task/{}/fd", gettid()))? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for number in numbers.into_iter().filter(|number| *number > libc::STDERR_FILENO && !kept.contains(number)) {
        // SAFETY: a number in; this thread's table is its own by now, and the contract above says that nothing in it has an owner.
        unsafe { libc::close(number) };
    }
    // SAFETY: they are open in this thread's table, and were opened by owners that close them in the process' own.
    Ok(kept.map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}

/// A descriptor of a process that becomes readable when it ends ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html),
/// Linux 5.3).
///
/// # Errors
/// `ENOSYS` on older kernels, `ESRCH` if there's none, `EINVAL` for a thread that leads no process.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two numbers in, a descriptor out.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Closes every descriptor above the standard three, for a process that is about to end: threads that can't be ended keep the table of
/// descriptors. Each number leads to `/dev/null` then, so that no other thread can hit a new file by it.
///
/// # Errors
/// Those of opening `/dev/null` and of reading `/proc/self/fd`.
pub fn abandon_files() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for number in numbers.into_iter().filter(|number| *number > libc::STDERR_FILENO && *number != null.as_raw_fd()) {
        // SAFETY: two numbers in. Whoever owns the second one still owns an open descriptor, of a file that takes everything and has nothing.
        unsafe { libc::dup3(null.as_raw_fd(), number, libc::O_CLOEXEC) };
    }
    Ok(())
}
