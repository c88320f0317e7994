//! Drops privileges: for an agent before it exists, for `attach` before it looks at the container.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::setgroups;
use sys::capability::{capabilities, clear_ambient_set, drop_bounding_set, lock_no_root, set_capabilities};
use sys::process::new_session_keyring;

/// Drops all privileges but the capabilities `kept`, which stay permitted and aren't effective. Returns the permitted
/// set.
///
/// The process stays uid 0. Before Linux 5.16 the v1 hierarchies check the writer's euid, and processes of the host
/// or of the container may have any unprivileged uid.
pub(crate) fn drop_all(kept: u64) -> Result<u64, Errno> {
    // A container may send the agent SIGSEGV; its memory mustn't go to the host's core handler.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // No file is in reach, but LSMs and SO_PEERCRED of others look at groups, too. Without CAP_SETGID they stay: then
    // the server had no privilege to lend.
    tolerate_eperm(setgroups(&[]))?;
    // Otherwise the server's session keyring would be inherited, and with it the operator's keys. ENOSYS: the kernel
    // has no keys. EPERM, EDQUOT: the process may have none, or a filter denies the call.
    let _ = new_session_keyring();
    // An exec can't regain any: the bounding set has no capabilities, NOROOT gives uid 0 none, and no_new_privs gives
    // files none. The order follows the capability that each step needs: CAP_SETPCAP goes last, with the permitted
    // set.
    drop_bounding_set(0)?;
    tolerate_eperm(lock_no_root())?;
    // It's empty already, as the permitted set was never inheritable.
    clear_ambient_set();
    prctl::set_no_new_privs()?;

    let keep = capabilities()?.permitted & kept;
    set_capabilities(keep, 0)?;
    Ok(keep)
}

fn tolerate_eperm(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EPERM) => Ok(()),
        other => other,
    }
}
