//! Assumes another user's rights for a few system calls, in the calling thread alone.
//!
//! glibc's setuid family changes all threads of a process (nptl(7)), but the system calls change only the calling
//! one. So this module makes the system calls itself.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::capability::{capabilities, is_setuid_fixed_up, set_capabilities};
use crate::process::leave_no_dump;

/// The rights to act with.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// The effective user, and with it the fsuid.
    pub uid: u32,
    /// The effective group, and with it the fsgid.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: &'a [u32],
    /// The effective capabilities, a bit each. Capabilities that the process doesn't have are ignored.
    pub capabilities: u64,
}

/// A guard: the thread acts with other rights until this is dropped. It can't be sent to another thread.
#[derive(Debug)]
#[must_use]
pub struct Assumed {
    permitted: u64,
    /// Whether the user was changed; the fields below say the same of the other rights.
    user: bool,
    group: bool,
    groups: bool,
    capabilities: bool,
    not_send: std::marker::PhantomData<*const ()>,
}

/// Lets the calling thread, which acts as root, act with `rights`. The real and the saved user stay root's. So no
/// process of the assumed user may signal or trace it.
///
/// # Errors
/// Those of the system calls, mainly `EPERM`; then nothing has changed.
pub fn assume(rights: &Rights<'_>) -> io::Result<Assumed> {
    let permitted = capabilities()?.permitted;
    let (user, group, groups, capabilities) = (false, false, false, false);
    let mut assumed = Assumed { permitted, user, group, groups, capabilities, not_send: std::marker::PhantomData };
    // From here on, dropping `assumed` restores whatever has been changed. Each change makes the kernel copy the
    // thread's credentials, so rights that are already as wanted stay.
    if !rights.groups.is_empty() || may_have_groups()? {
        set_groups(rights.groups)?;
        assumed.groups = !rights.groups.is_empty();
        HAS_NO_GROUPS.set(!assumed.groups);
    }
    if rights.gid != 0 {
        assumed.group = true;
        set_effective_group(rights.gid)?;
    }
    if rights.uid != 0 {
        assumed.user = true;
        set_effective_user(rights.uid)?;
    }
    // The change to another user than root has cleared all effective ones.
    if assumed.user || rights.capabilities & permitted != permitted {
        assumed.capabilities = true;
        set_capabilities(permitted, rights.capabilities)?;
    }
    Ok(assumed)
}

impl Drop for Assumed {
    fn drop(&mut self) {
        let restored = self.restore();
        if restored.is_err() {
            // A thread that went on with another user's rights would misjudge every later request. This can't happen:
            // the kernel lets the real user become effective, and the permitted capabilities too.
            std::process::abort();
        }
    }
}

impl Assumed {
    /// Restores root's rights, in an order in which each step is allowed: user 0 first, since it's the real one.
    fn restore(&self) -> io::Result<()> {
        if self.user {
            set_effective_user(0)?;
        }
        if self.capabilities {
            set_capabilities(self.permitted, self.permitted)?;
        }
        if self.group {
            set_effective_group(0)?;
        }
        if self.groups {
            set_groups(&[])?;
            HAS_NO_GROUPS.set(true);
        }
        Ok(())
    }
}

/// A guard: the thread changes files as another user until this is dropped. It can't be sent to another thread.
#[derive(Debug)]
#[must_use]
pub struct AssumedForFiles {
    user: bool,
    group: bool,
    not_send: std::marker::PhantomData<*const ()>,
}

/// Lets the calling thread, which acts as root, change files as a user other than 0, without supplementary groups and
/// without the capabilities over files. The kernel clears those when the user changes (capabilities(7)), so this
/// takes half of the system calls of [`assume`].
///
/// # Errors
/// `EPERM` if that isn't permitted, or if the kernel was told to keep capabilities (`SECBIT_NO_SETUID_FIXUP`); then
/// nothing has changed.
pub fn assume_for_files(uid: u32, gid: u32) -> io::Result<AssumedForFiles> {
    if uid == 0 || !takes_capabilities_away() {
        return Err(Errno::EPERM.into());
    }
    if may_have_groups()? {
        set_groups(&[])?;
        HAS_NO_GROUPS.set(true);
    }
    let mut assumed = AssumedForFiles { user: false, group: false, not_send: std::marker::PhantomData };
    // From here on, dropping `assumed` restores whatever has been changed.
    if gid != 0 {
        assumed.group = true;
        set_files_group(gid)?;
    }
    assumed.user = true;
    set_files_user(uid)?;
    Ok(assumed)
}

impl Drop for AssumedForFiles {
    fn drop(&mut self) {
        let user = if self.user { set_files_user(0) } else { Ok(()) };
        let group = if self.group { set_files_group(0) } else { Ok(()) };
        if user.is_err() || group.is_err() {
            // As in `Assumed`.
            std::process::abort();
        }
    }
}

/// Whether the kernel clears the capabilities over files when a thread's fsuid changes from 0. The kernel is asked
/// once.
fn takes_capabilities_away() -> bool {
    static TAKES: OnceLock<bool> = OnceLock::new();
    *TAKES.get_or_init(is_setuid_fixed_up)
}

/// Sets the fsuid. setfsuid(2) returns the former user whether it succeeds or not, so a second call finds out.
fn set_files_user(uid: u32) -> io::Result<()> {
    setfsuid(Uid::from_raw(uid));
    leave_no_dump();
    if setfsuid(Uid::from_raw(u32::MAX)).as_raw() == uid { Ok(()) } else { Err(Errno::EPERM.into()) }
}

fn set_files_group(gid: u32) -> io::Result<()> {
    setfsgid(Gid::from_raw(gid));
    leave_no_dump();
    if setfsgid(Gid::from_raw(u32::MAX)).as_raw() == gid { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// Lets the calling thread, which acts as root, act with `rights` for the rest of its life. It keeps no more than
/// `permitted` of its permitted capabilities, which the kernel checks too (`cap_safe_nice`), and can't regain the
/// others.
///
/// # Errors
/// Those of the system calls; then the thread must do nothing more.
pub fn become_for_good(rights: &Rights<'_>, permitted: u64) -> io::Result<()> {
    let permitted = capabilities()?.permitted & permitted;
    set_groups(rights.groups)?;
    set_effective_group(rights.gid)?;
    set_effective_user(rights.uid)?;
    Ok(set_capabilities(permitted, rights.capabilities)?)
}

const UNCHANGED: i32 = -1;

fn set_effective_user(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid(2) takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, uid, UNCHANGED) };
    leave_no_dump();
    Ok(Errno::result(result).map(drop)?)
}

fn set_effective_group(gid: u32) -> io::Result<()> {
    // SAFETY: setresgid(2) takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_setresgid, UNCHANGED, gid, UNCHANGED) };
    leave_no_dump();
    Ok(Errno::result(result).map(drop)?)
}

thread_local! {
    /// Whether the calling thread has given up its supplementary groups. Only this module gives it any.
    static HAS_NO_GROUPS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread may have supplementary groups.
fn may_have_groups() -> io::Result<bool> {
    if HAS_NO_GROUPS.get() {
        return Ok(false);
    }
    let has = !nix::unistd::getgroups()?.is_empty();
    HAS_NO_GROUPS.set(!has);
    Ok(has)
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are the slice's; setgroups(2) only reads it.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Ok(Errno::result(result).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Capabilities, keep_capabilities};

    #[test]
    fn who_changes_files_as_a_user_has_no_capability_over_them_and_gets_all_back() {
        let before = capabilities().unwrap();
        if !nix::unistd::geteuid().is_root() || before.effective & 0b11111 != 0b11111 {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for gid in [0, 7] {
            let assumed = assume_for_files(12345, gid).unwrap();
            assert_eq!(capabilities().unwrap().effective & 0b11111, 0);
            assert!(std::fs::create_dir(folder.path().join("x")).is_err());
            drop(assumed);
            assert_eq!(capabilities().unwrap(), before);
            std::fs::create_dir(folder.path().join(gid.to_string())).unwrap();
        }
        assert!(assume_for_files(0, 7).is_err());
    }

    #[test]
    fn what_a_thread_gives_up_for_good_is_gone_for_it_alone() {
        let before = capabilities().unwrap();
        if !nix::unistd::geteuid().is_root() || before.permitted & 0b11 != 0b11 {
            return;
        }
        let lesser = std::thread::spawn(move || {
            let rights = Rights { uid: 1, gid: 1, groups: &[], capabilities: 0b110 };
            become_for_good(&rights, 0b11).unwrap();
            let now = capabilities().unwrap();
            assert_eq!(now, Capabilities { effective: 0b10, permitted: 0b11 });
            assert!(keep_capabilities(before.permitted).is_err());
        });
        lesser.join().unwrap();
        assert_eq!(capabilities().unwrap(), before);
    }
}
