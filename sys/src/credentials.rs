//! Acting with another user's rights for the length of a few system calls, in the calling thread alone.
//!
//! glibc's setuid family changes all threads of a process (nptl(7)), the system calls only the caller's: hence the raw ones.

use std::cell::Cell;
use std::io;

use nix::errno::Errno;

/// The rights to act with.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// Effective user, and with it the fsuid.
    pub uid: u32,
    /// Effective group, and with it the fsgid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// Effective capabilities, a bit each; those that the process doesn't have are left out.
    pub capabilities: u64,
}

/// The thread acts with other rights until this is dropped. It can't be sent to another thread.
#[derive(Debug)]
#[must_use]
pub struct Assumed {
    permitted: u64,
    /// Which of them were changed.
    user: bool,
    group: bool,
    groups: bool,
    capabilities: bool,
    not_send: std::marker::PhantomData<*const ()>,
}

/// Lets the calling thread, which acts as root, act with `rights`. The real and the saved user stay root's, so no process of that user may
/// signal or trace it.
///
/// # Errors
/// Whatever the system calls answer, `EPERM` above all; then nothing has changed.
pub fn assume(rights: &Rights<'_>) -> io::Result<Assumed> {
    let permitted = capabilities()?.permitted;
    let (user, group, groups, capabilities) = (false, false, false, false);
    let mut assumed = Assumed { permitted, user, group, groups, capabilities, not_send: std::marker::PhantomData };
    // From here on, dropping `assumed` restores whatever has been changed. Each change makes the kernel copy the thread's credentials: what
    // is as wanted already stays.
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
    // Another user than root has lost all effective ones by that.
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
            // A thread that goes on with another's rights would be wrong about every later request. This can't happen: the kernel lets
            // the real user become effective, and the permitted capabilities too.
            std::process::abort();
        }
    }
}

impl Assumed {
    /// The way back, in an order in which each step is allowed: user 0 first, since it's the real one.
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

/// The thread changes files as another user until this is dropped. It can't be sent to another thread.
#[derive(Debug)]
#[must_use]
pub struct AssumedForFiles {
    user: bool,
    group: bool,
    not_send: std::marker::PhantomData<*const ()>,
}

/// Lets the calling thread, which acts as root, change files as a user other than 0, without supplementary groups and without the capabilities over
/// files: the kernel takes those away with the user (capabilities(7)). That's half of the system calls that [`assume`] takes.
///
/// # Errors
/// `EPERM` if that can't be, or where the kernel was told not to take capabilities away (`SECBIT_NO_SETUID_FIXUP`); then nothing has changed.
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
            // As for `Assumed`.
            std::process::abort();
        }
    }
}

/// Whether the kernel takes capabilities over files from a thread that gives up being user 0 for them.
fn takes_capabilities_away() -> bool {
    static TAKES: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    const SECBIT_NO_SETUID_FIXUP: i32 = 1 << 2;
    *TAKES.get_or_init(|| {
        // SAFETY: prctl(2) with this option takes no further argument and touches no memory.
        let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
        bits >= 0 && bits & SECBIT_NO_SETUID_FIXUP == 0
    })
}

/// setfsuid(2) says who it was before, whether it did anything or not.
fn set_files_user(uid: u32) -> io::Result<()> {
    let set = |uid: u32| {
        // SAFETY: setfsuid(2) takes a number and touches no memory.
        unsafe { libc::syscall(libc::SYS_setfsuid, uid) }
    };
    set(uid);
    if set(u32::MAX) as u32 == uid { Ok(()) } else { Err(Errno::EPERM.into()) }
}

fn set_files_group(gid: u32) -> io::Result<()> {
    let set = |gid: u32| {
        // SAFETY: setfsgid(2) takes a number and touches no memory.
        unsafe { libc::syscall(libc::SYS_setfsgid, gid) }
    };
    set(gid);
    if set(u32::MAX) as u32 == gid { Ok(()) } else { Err(Errno::EPERM.into()) }
}

/// Lets the calling thread, which acts as root, act with `rights` for the rest of its life, and keep no more than `permitted` of the
/// capabilities that it could put in force: the kernel looks at those too (`cap_safe_nice`), and nothing brings them back.
///
/// # Errors
/// Whatever the system calls answer; then the thread must do nothing more.
pub fn become_for_good(rights: &Rights<'_>, permitted: u64) -> io::Result<()> {
    let permitted = capabilities()?.permitted & permitted;
    set_groups(rights.groups)?;
    set_effective_group(rights.gid)?;
    set_effective_user(rights.uid)?;
    set_capabilities(permitted, rights.capabilities)
}

/// A thread's capabilities, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Those in force.
    pub effective: u64,
    /// Those that it may put in force.
    pub permitted: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// The calling thread's capabilities.
///
/// # Errors
/// None are known.
pub fn capabilities() -> io::Result<Capabilities> {
    capabilities_of(0)
}

/// The capabilities of a thread, 0 for the calling one, in its own user namespace
/// ([capget(2)](https://man7.org/linux/man-pages/man2/capget.2.html)).
///
/// # Errors
/// `ESRCH` if there's no such thread.
pub fn capabilities_of(thread: i32) -> io::Result<Capabilities> {
    let mut header = Header { version: VERSION, pid: thread };
    let mut data = [Data::default(); 2];
    // SAFETY: the header and the two data elements that version 3 demands outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let [low, high] = data;
    Ok(Capabilities { effective: join(low.effective, high.effective), permitted: join(low.permitted, high.permitted) })
}

/// Sets the calling thread's permitted and effective capabilities, a bit each, to the same; nothing becomes inheritable.
///
/// # Errors
/// `EPERM` if one of them isn't permitted now.
pub fn keep_capabilities(kept: u64) -> io::Result<()> {
    set_capabilities(kept, kept)
}

/// Sets the calling thread's capabilities; nothing becomes inheritable.
fn set_capabilities(permitted: u64, effective: u64) -> io::Result<()> {
    let effective = effective & permitted;
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: 0,
    };
    let header = Header { version: VERSION, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: the header and the two data elements that version 3 demands outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Ok(Errno::result(result).map(drop)?)
}

const UNCHANGED: i32 = -1;

fn set_effective_user(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid(2) takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, uid, UNCHANGED) };
    Ok(Errno::result(result).map(drop)?)
}

fn set_effective_group(gid: u32) -> io::Result<()> {
    // SAFETY: setresgid(2) takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_setresgid, UNCHANGED, gid, UNCHANGED) };
    Ok(Errno::result(result).map(drop)?)
}

thread_local! {
    /// The calling thread has given up its supplementary groups: nothing but what is here gives it any.
    static HAS_NO_GROUPS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread has supplementary groups.
fn may_have_groups() -> io::Result<bool> {
    if HAS_NO_GROUPS.get() {
        return Ok(false);
    }
    let has = has_groups()?;
    HAS_NO_GROUPS.set(!has);
    Ok(has)
}

fn has_groups() -> io::Result<bool> {
    // SAFETY: with a size of 0, getgroups(2) touches no memory.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    Ok(Errno::result(count)? > 0)
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are the slice's; setgroups(2) only reads it.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Ok(Errno::result(result).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
