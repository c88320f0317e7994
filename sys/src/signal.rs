//! The signal dispositions of a process ([signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html)).

use nix::errno::Errno;

/// The last signal number on all architectures but MIPS.
const LAST: i32 = 64;

/// The size of the kernel's signal set, in bytes.
const SET_SIZE: usize = 8;

/// The signals that can't be ignored, SIGCONT, and those that the kernel sends to a faulting thread.
const KEPT: [i32; 10] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCONT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// The kernel's `struct sigaction` for an action without a handler. It begins with the handler on all architectures
/// but MIPS. The order of flags, restorer and mask after it differs, but all are 0 here.
#[repr(C)]
struct KernelAction {
    handler: libc::sighandler_t,
    rest: [usize; 5],
}

/// Ignores all signals except `others` and those that the kernel needs. SIGCHLD is ignored too, so the kernel reaps
/// children. This makes the system call itself, since libc reserves two real-time signals, whose default is to end
/// the process.
///
/// # Errors
/// None are known.
pub fn ignore_all_but(others: &[i32]) -> Result<(), Errno> {
    let action = KernelAction { handler: libc::SIG_IGN, rest: [0; 5] };
    let none = std::ptr::null_mut::<KernelAction>();
    for number in (1..=LAST).filter(|number| !KEPT.contains(number) && !others.contains(number)) {
        // SAFETY: `action` outlives the call, is as long as the kernel's structure or longer, and names no function; nothing is written.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &raw const action, none, SET_SIZE) };
        Errno::result(result)?;
    }
    Ok(())
}
