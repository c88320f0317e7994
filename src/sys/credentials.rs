//! Acting with another user's rights for the length of a few system calls, in the calling thread alone.
//!
//! glibc's setuid family changes all threads of a process (nptl(7)), the system calls only the caller's: hence the raw ones.

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
    if !rights.groups.is_empty() || has_groups()? {
        set_groups(rights.groups)?;
        assumed.groups = !rights.groups.is_empty();
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
        }
        Ok(())
    }
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

/// Whether the calling thread has supplementary groups.
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
