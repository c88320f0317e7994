//! The system call filters: the calls that an agent may make, and those that a server and its children may not.
//!
//! A container that may ptrace the agent can make it do any system call. Namespaces and missing capabilities bound
//! the effect. The filter removes the calls themselves, which matters because the container's own filter doesn't
//! apply to the agent. Before Linux 4.8 a tracer can bypass a filter, and only the namespaces protect: hence both.

use nix::errno::Errno;

use sys::seccomp::{install as install_filter, install_trusted};

/// `AUDIT_ARCH_*` of the machines that the filter is written for.
const ARCH: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xc000_00f3)
} else {
    None
};

/// The calls of the request loop, and those that libc's allocator, a Rust panic and the kernel itself
/// (restart_syscall after a stop) need.
const NEEDED: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_capset,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Installs the filter of the process that makes an agent: an agent's calls, clone, and the prctl that installs
/// [`confine_agent`]. The agent starts under this filter, so that it's never without one.
pub(crate) fn confine() -> Result<(), Errno> {
    let more = [libc::SYS_clone, libc::SYS_prctl];
    let allowed: Vec<libc::c_long> = NEEDED.iter().copied().chain(more).collect();
    install(&allowed)
}

/// Installs the agent's filter: no further processes. The first filter still applies as well.
pub(crate) fn confine_agent() -> Result<(), Errno> {
    install(NEEDED)
}

/// Denies these calls, sockets of any family but AF_UNIX, and the system calls of other architectures. They fail with
/// EPERM in the calling thread, and in the processes and programs that it starts.
///
/// # Errors
/// `EINVAL` or `ENOSYS` if the kernel has no filters, `EOPNOTSUPP` on a machine for which there's none.
pub(crate) fn deny(denied: &[libc::c_long]) -> Result<(), Errno> {
    install_trusted(&denying(ARCH.ok_or(Errno::EOPNOTSUPP)?, denied))
}

fn install(allowed: &[libc::c_long]) -> Result<(), Errno> {
    let Some(arch) = ARCH else { return Ok(()) };
    match install_filter(&program(arch, allowed)) {
        // The kernel has no filters: capabilities and namespaces remain.
        Err(Errno::EINVAL | Errno::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The lower half of the first argument: a `u32` in all calls whose argument is checked, and the kernel uses only
/// that half, too.
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

/// Numbers of x86_64's second table of calls, for x32 programs, have this bit.
const X32_BIT: u32 = 0x4000_0000;

const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | Errno::EPERM as u32;

fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn load(offset: u32) -> libc::sock_filter {
    op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn skip_unless(value: u32, count: u8) -> libc::sock_filter {
    op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, count)
}

fn give(verdict: u32) -> libc::sock_filter {
    op(libc::BPF_RET | libc::BPF_K, verdict, 0, 0)
}

/// Refuses calls of another architecture (x86_64's 32-bit entry), where numbers have another meaning. Then loads the
/// number.
fn head(arch: u32) -> [libc::sock_filter; 4] {
    [load(ARCHITECTURE), op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, arch, 1, 0), give(REFUSE), load(NUMBER)]
}

/// Makes a filter in which every call outside `allowed` fails with EPERM.
fn program(arch: u32, allowed: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let mut program = head(arch).to_vec();
    for number in allowed.iter().filter_map(|number| u32::try_from(*number).ok()) {
        program.extend([skip_unless(number, 1), give(libc::SECCOMP_RET_ALLOW)]);
    }
    program.push(give(REFUSE));
    program
}

/// Makes a filter in which every call in `denied` fails with EPERM, as do sockets that aren't AF_UNIX.
fn denying(arch: u32, denied: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let mut program = head(arch).to_vec();
    if cfg!(target_arch = "x86_64") {
        program.extend([op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32_BIT, 0, 1), give(REFUSE)]);
    }
    for number in denied.iter().filter_map(|number| u32::try_from(*number).ok()) {
        program.extend([skip_unless(number, 1), give(REFUSE)]);
    }
    for number in [libc::SYS_socket, libc::SYS_socketpair].iter().filter_map(|number| u32::try_from(*number).ok()) {
        program.extend([
            skip_unless(number, 4),
            load(FIRST_ARGUMENT),
            skip_unless(libc::AF_UNIX.cast_unsigned(), 1),
            give(libc::SECCOMP_RET_ALLOW),
            give(REFUSE),
        ]);
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::prctl::set_no_new_privs;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use nix::sys::uio::pread;

    #[test]
    fn what_is_denied_fails_and_the_rest_goes_on() {
        if ARCH.is_none() {
            return;
        }
        let results = std::thread::spawn(|| {
            set_no_new_privs()?;
            deny(&[libc::SYS_getpriority])?;
            let socket = |family| socket(family, SockType::Stream, SockFlag::empty(), None).err();
            let sockets = [AddressFamily::Unix, AddressFamily::Inet, AddressFamily::Netlink].map(socket);
            let denied = std::io::Error::last_os_error();
            let own = nix::unistd::getppid().as_raw() > 0;
            Ok::<_, Errno>((sockets, denied.raw_os_error(), own))
        })
        .join()
        .unwrap();
        let denied = Some(Errno::EPERM);
        assert_eq!(results, Ok(([None, denied, denied], Some(libc::EPERM), true)));
        let program = denying(7, &[1, 2]);
        let refused = |number: u32| {
            program.windows(2).any(|pair| pair[0].k == number && pair[0].code == 0x15 && pair[1].k == REFUSE)
        };
        assert!(refused(1) && refused(2) && !refused(3));
    }

    #[test]
    fn only_what_the_loop_needs_is_left() {
        if ARCH.is_none() {
            return;
        }
        // A filter applies to the thread that installs it. The test itself needs other calls, such as for panics, so
        // it runs outside.
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let results = std::thread::spawn(move || {
            set_no_new_privs()?;
            confine()?;
            let socket = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None);
            let first = (socket().err(), unshare(CloneFlags::CLONE_NEWUSER).err());
            confine_agent()?;
            let again = nix::sys::prctl::get_no_new_privs().err();
            let mut magic = [0; 4];
            let read = pread(&file, &mut magic, 0);
            Ok::<_, Errno>((first, sys::process::clone_sibling().err(), again, read, magic))
        })
        .join()
        .unwrap();
        let denied = Some(Errno::EPERM);
        assert_eq!(results, Ok(((denied, denied), denied, denied, Ok(4), *b"\x7fELF")));
    }
}
