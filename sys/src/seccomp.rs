//! Filters of system calls ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)).

use nix::errno::Errno;

/// Installs a filter for the calling thread; it takes `no_new_privs` or CAP_SYS_ADMIN. It uses prctl(2), which
/// supports filters since Linux 3.5.
///
/// # Errors
/// EINVAL if the kernel has no filters.
pub fn install(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = head(program)?;
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: `program` points to as many instructions as it says, which live through the call; the kernel only reads them.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0) }).map(drop)
}

/// Does the same for a program that runs no foreign code. The kernel then needn't restrict the thread's speculation,
/// as it does for threads with a filter (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`, Linux 4.17 to 5.15).
///
/// # Errors
/// As [`install`].
pub fn install_trusted(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let fprog = head(program)?;
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    // SAFETY: as above.
    match Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const fprog) }) {
        Ok(_) => Ok(()),
        // The kernel lacks the flag or, before Linux 3.17, the call.
        Err(_) => install(program),
    }
}

fn head(program: &[libc::sock_filter]) -> Result<libc::sock_fprog, Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    Ok(libc::sock_fprog { len, filter: program.as_ptr().cast_mut() })
}
