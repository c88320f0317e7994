//! The confinement of a server: the privileges and system calls that it drops once it's set up. A server runs for
//! months, and containers choose what they send.
//!
//! It applies to every later thread and process, helpers and agents included. A step that the kernel or the server's
//! own privileges don't allow is skipped.

use nix::errno::Errno;
use nix::sys::prctl;
use sys::capability::*;

use crate::seccomp;

/// The role of a process that confines itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves a view.
    Server {
        /// Whether there are PSI files.
        pressure: bool,
        /// Whether it ends the command of `run` and the processes that the command leaves behind, of any user.
        kills: bool,
    },
    /// It waits for the command of `run`, passes signals on, and cleans up.
    Supervisor,
    /// It needs nothing but its descriptors.
    AbortGuard,
}

impl Role {
    /// Returns the capabilities that it keeps, if it has them.
    #[must_use]
    pub fn capabilities(self) -> u64 {
        match self {
            Self::Server { pressure, kills } => {
                // Giving cgroups to the callers that make them; chmod, utimensat and xattrs of others' objects;
                // assuming the caller's user and groups.
                let ownership = CAP_CHOWN | CAP_FOWNER | CAP_SETGID | CAP_SETUID;
                // Opening and making what the caller may, which the kernel has checked before; `open_by_handle_at`;
                // `/proc` of other processes.
                let files = CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH;
                // Mounts, namespaces, maps and descriptors of callers; FUSE passthrough, cpuset partitions, lists of
                // devices. Agents empty their bounding set.
                let processes = CAP_SETPCAP | CAP_SYS_CHROOT | CAP_SYS_PTRACE | CAP_SYS_ADMIN;
                // Migrations into cpusets, of processes whose priority the caller may change.
                let always = ownership | files | processes | CAP_SYS_NICE;
                // PSI windows that aren't a multiple of two seconds, for callers with that capability.
                always | if pressure { CAP_SYS_RESOURCE } else { 0 } | if kills { CAP_KILL } else { 0 }
            }
            Self::Supervisor => {
                CAP_KILL | CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH | CAP_SYS_CHROOT | CAP_SYS_PTRACE | CAP_SYS_ADMIN
            }
            Self::AbortGuard => 0,
        }
    }
}

/// The system calls that no process in these roles makes, nor the programs that it executes. Calls that do the same
/// under another name stand together.
const DENIED: &[libc::c_long] = &[
    // Loading other code into the kernel.
    libc::SYS_kexec_load,
    #[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_env = "gnu")))]
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    // Changing the whole host.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    // Accessing other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Using keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Widening the kernel's attack surface, or bypassing filters.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
];

/// Drops the privileges and system calls that a process in this role doesn't need. The process must have a single
/// thread. Returns the steps that failed, with their errnos.
pub fn confine(role: Role) -> Vec<(&'static str, Errno)> {
    confine_again(role, 0)
}

/// The same in a process that another version of this program has confined, with the filter that has this mark
/// ([`filter_mark`]).
pub fn confine_again(role: Role, filter: u64) -> Vec<(&'static str, Errno)> {
    let mut failed = Vec::new();
    let mut note = |what, result: Result<(), Errno>| failed.extend(result.err().map(|errno| (what, errno)));
    let kept = role.capabilities();
    note("bounding set", drop_bounding_set(kept));
    clear_ambient_set();
    note("no_new_privs", prctl::set_no_new_privs());
    let permitted = capabilities().map(|own| own.permitted & kept);
    note("capabilities", permitted.and_then(keep_capabilities));
    // Each one is asked at each call, so the same one isn't added again.
    if filter != filter_mark() {
        note("filter of system calls", seccomp::deny(DENIED));
    }
    failed
}

/// A number that tells the filter of system calls from those of other versions.
#[must_use]
pub fn filter_mark() -> u64 {
    // FNV-1a.
    let bytes = DENIED.iter().flat_map(|number| number.to_ne_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |mark, byte| (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_the_filter_of_agents_allows_is_denied() {
        let allowed = [libc::SYS_clone, libc::SYS_prctl, libc::SYS_seccomp, libc::SYS_execve, libc::SYS_setns];
        assert!(!DENIED.iter().any(|number| allowed.contains(number)));
        // fanotify tells a server about processes that come back after the host has taken them out.
        assert!(![libc::SYS_fanotify_init, libc::SYS_fanotify_mark].iter().any(|number| DENIED.contains(number)));
        let mut numbers = DENIED.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), DENIED.len());
    }
}
