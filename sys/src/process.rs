//! Processes: starting and ending them.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};

/// How long a joined thread may still be visible. The kernel wakes the joining thread as soon as the other has left
/// its memory, and only then dissolves its namespaces and frees its number (`do_exit`).
const THREAD_EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Forks ([fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)). Refuses in a process with several threads,
/// where the child could inherit a lock that no thread will ever release.
///
/// # Errors
/// `EBUSY` with several threads; those of fork(2).
pub fn fork() -> io::Result<ForkResult> {
    let start = Instant::now();
    while std::fs::read_dir("/proc/self/task")?.count() != 1 {
        if start.elapsed() > THREAD_EXIT_TIMEOUT {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: this process has a single thread, so the child is a whole copy of it, locks and all.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Has the allocator map each block of a megabyte or more by itself, and give it back when it's freed
/// ([mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html)). glibc gives up on that once such a block was freed, and
/// then clears the large buffers of FUSE by hand, of which otherwise almost nothing takes memory.
pub fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers in; the allocator's lock covers it.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Has the kernel make no dump of the process' memory when it crashes. A dump begins when all threads have ended, and only then are files
/// closed. If a thread waits for a view that this process serves, it never ends. The kernel takes this back when a thread's user or group
/// changes (`commit_creds`, where `fs.suid_dumpable` isn't 0), and when another program is executed.
pub fn leave_no_dump() {
    // It has no reason to fail.
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Whether this is the number of a process, and so of its first thread, and not of another thread. It takes one
/// system call.
pub fn is_first_thread(number: i32) -> bool {
    // SAFETY: numbers in; signal 0 is sent to nobody.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, number, number, 0) };
    Errno::result(result) != Err(Errno::ESRCH)
}

/// Sets the disposition of a signal to the default, or to ignoring it.
///
/// # Errors
/// `EINVAL` for SIGKILL and SIGSTOP.
pub fn set_disposition(signal: Signal, ignore: bool) -> io::Result<()> {
    let handler = if ignore { SigHandler::SigIgn } else { SigHandler::SigDfl };
    // SAFETY: no function is installed, only the default or nothing.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

/// The process in which [`clone_sibling`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneSide {
    /// The caller.
    Original,
    /// The new process.
    Sibling,
}

/// Forks a single-threaded process, and makes the new process a child of the *caller's parent* (`CLONE_PARENT`,
/// [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html)).
///
/// # Errors
/// Those of clone(2).
pub fn clone_sibling() -> Result<CloneSide, Errno> {
    Ok(match fork_with(libc::CLONE_PARENT)? {
        None => CloneSide::Sibling,
        Some(_) => CloneSide::Original,
    })
}

/// Forks a single-threaded process, with these flags of clone(2), without CLONE_VM. Returns the child's process id, or
/// `None` in the child.
fn fork_with(flags: libc::c_int) -> Result<Option<Pid>, Errno> {
    let flags = libc::c_long::from(flags & !libc::CLONE_VM | libc::SIGCHLD);
    let null: libc::c_long = 0;
    #[cfg(not(target_arch = "s390x"))]
    let (first, second) = (flags, null);
    #[cfg(target_arch = "s390x")] // takes the stack first
    let (first, second) = (null, flags);
    // SAFETY: no CLONE_VM and no stack, so that this is fork: the new process goes on in a copy of this single-threaded one. What libc
    // caches about a thread (its tid, for raise and robust mutexes) is stale in it, and unused.
    let pid = unsafe { libc::syscall(libc::SYS_clone, first, second, null, null, null) };
    Ok(match Errno::result(pid)? {
        0 => None,
        pid => Some(Pid::from_raw(i32::try_from(pid).unwrap_or(0))),
    })
}

/// Ends the process without running libc's or Rust's exit handlers (_exit(2)).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(status) }
}

/// Forks a single-threaded process. The new process shares its descriptor table with this one (`CLONE_FILES`): what
/// either opens or closes, the other has open or closed. Returns the child's process id, or `None` in the child.
///
/// # Errors
/// Those of clone(2).
pub fn fork_sharing_files() -> Result<Option<Pid>, Errno> {
    fork_with(libc::CLONE_FILES)
}

/// Replaces the session keyring that this process inherited by a new, empty one
/// ([keyctl(2)](https://man7.org/linux/man-pages/man2/keyctl.2.html)).
///
/// # Errors
/// ENOSYS in a kernel without keys; EPERM, EDQUOT if the process may not have one.
pub fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let anonymous: libc::c_long = 0;
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}
