//! What the helper gives up: an agent before it exists, and who attaches before it looks at the container.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::setgroups;

use crate::sys;

/// `CAP_SYS_NICE`: the one capability that a later kernel looks for in the *writer* of a migration
/// (cpuset's can_attach, by security_task_setscheduler); all others are the opener's.
pub(crate) const CAP_SYS_NICE: u64 = 1 << 23;

/// `CAP_SYS_ADMIN`: what devices asks the writer of a migration for before Linux 3.13 (`devcgroup_can_attach`).
pub(crate) const CAP_SYS_ADMIN: u64 = 1 << 21;

/// `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`, linux/capability.h.
pub(crate) const CAP_SYS_PTRACE: u64 = 1 << 19;
pub(crate) const CAP_DAC_READ_SEARCH: u64 = 1 << 2;

/// Drops everything but `kept` in the permitted set, nothing of which is effective then. Returns the permitted set.
///
/// The process stays uid 0: before Linux 5.16 the v1 hierarchies ask for the writer's euid, and an
/// unprivileged uid would be one that processes of the host or of the container may have.
pub(crate) fn drop_all(kept: u64) -> Result<u64, Errno> {
    // A container may send the agent SIGSEGV; nothing of it goes to the host's core handler.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // No file in reach, but groups are also looked at by LSMs and by SO_PEERCRED of others.
    // Without CAP_SETGID they stay as they are: then the server had no privilege to lend.
    tolerate_eperm(setgroups(&[]))?;
    // The server's session keyring would be inherited, and with it the operator's keys. ENOSYS: a
    // kernel without keys; EPERM, EDQUOT: not allowed to have one, or a filter in the way.
    let _ = sys::new_session_keyring();
    // An exec can't bring anything back: no capabilities in the bounding set, none for uid 0 by
    // NOROOT, none by files with no_new_privs. The order is that of the capability that each
    // needs: CAP_SETPCAP goes last, with the permitted set.
    drop_bounding_set(0)?;
    let bits = libc::SECBIT_NOROOT
        | libc::SECBIT_NOROOT_LOCKED
        | libc::SECBIT_NO_SETUID_FIXUP
        | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
        | libc::SECBIT_KEEP_CAPS_LOCKED;
    tolerate_eperm(sys::prctl(libc::PR_SET_SECUREBITS, bits.cast_unsigned().into()))?;
    // Empty already, as the permitted set was never inheritable.
    clear_ambient_set();
    prctl::set_no_new_privs()?;

    let keep = sys::permitted_capabilities()? & kept;
    sys::set_capabilities(keep, 0)?;
    Ok(keep)
}

/// Takes all capabilities but `kept` out of the bounding set.
pub(crate) fn drop_bounding_set(kept: u64) -> Result<(), Errno> {
    for capability in (0..64).filter(|capability| kept & (1 << capability) == 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => (),
            // The first number beyond the kernel's last capability.
            Err(Errno::EINVAL) => break,
            // No CAP_SETPCAP: NOROOT and no_new_privs have to do.
            Err(Errno::EPERM) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Since Linux 4.3; EINVAL before.
pub(crate) fn clear_ambient_set() {
    let clear = libc::c_ulong::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).unwrap_or(4);
    let _ = sys::prctl(libc::PR_CAP_AMBIENT, clear);
}

fn tolerate_eperm(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EPERM) => Ok(()),
        other => other,
    }
}
