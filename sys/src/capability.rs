//! Capabilities of a thread ([capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)), and the sets and flags that keep it from
//! regaining them.
//!
//! A set of capabilities is a `u64` with a bit for each.

use nix::errno::Errno;

/// Changes owner and group of any file.
pub const CAP_CHOWN: u64 = 1 << 0;
/// Bypasses the modes of files.
pub const CAP_DAC_OVERRIDE: u64 = 1 << 1;
/// Reads any file, searches any directory, and opens files by their handles.
pub const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
/// Does what only a file's owner may.
pub const CAP_FOWNER: u64 = 1 << 3;
/// Keeps the set-user-id bits of any file.
pub const CAP_FSETID: u64 = 1 << 4;
/// Signals any process.
pub const CAP_KILL: u64 = 1 << 5;
/// Changes groups.
pub const CAP_SETGID: u64 = 1 << 6;
/// Changes users.
pub const CAP_SETUID: u64 = 1 << 7;
/// Changes the bounding set and the securebits.
pub const CAP_SETPCAP: u64 = 1 << 8;
/// Changes the root directory, and joins mount namespaces.
pub const CAP_SYS_CHROOT: u64 = 1 << 18;
/// Traces any process, and reads what only its tracer may.
pub const CAP_SYS_PTRACE: u64 = 1 << 19;
/// Mounts, joins namespaces, and much else.
pub const CAP_SYS_ADMIN: u64 = 1 << 21;
/// Changes the scheduling of any process.
pub const CAP_SYS_NICE: u64 = 1 << 23;
/// Exceeds resource limits.
pub const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// The effective and the permitted set of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The effective capabilities.
    pub effective: u64,
    /// The capabilities that the thread may make effective.
    pub permitted: u64,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two elements of data for each set. Linux 2.6.26.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Returns the capabilities of the calling thread.
///
/// # Errors
/// None are known.
pub fn capabilities() -> Result<Capabilities, Errno> {
    capabilities_of(0)
}

/// Returns the capabilities of a thread in its own user namespace; 0 is the calling thread
/// ([capget(2)](https://man7.org/linux/man-pages/man2/capget.2.html)).
///
/// # Errors
/// `ESRCH` if there's no such thread.
pub fn capabilities_of(thread: i32) -> Result<Capabilities, Errno> {
    let mut header = Header { version: VERSION, pid: thread };
    let mut data = [Data::default(); 2];
    // SAFETY: the header and the two data elements that version 3 demands outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let [low, high] = data;
    Ok(Capabilities { effective: join(low.effective, high.effective), permitted: join(low.permitted, high.permitted) })
}

/// Sets the capabilities of the calling thread ([capset(2)](https://man7.org/linux/man-pages/man2/capset.2.html)).
/// The inheritable set becomes empty. A capability that isn't permitted doesn't become effective.
///
/// # Errors
/// `EPERM` if one of them isn't permitted now.
pub fn set_capabilities(permitted: u64, effective: u64) -> Result<(), Errno> {
    let effective = effective & permitted;
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: 0,
    };
    let header = Header { version: VERSION, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: the header and the two data elements that version 3 demands outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Sets both the permitted and the effective capabilities of the calling thread to `kept`.
///
/// # Errors
/// As [`set_capabilities`].
pub fn keep_capabilities(kept: u64) -> Result<(), Errno> {
    set_capabilities(kept, kept)
}

/// Removes all capabilities but `kept` from the bounding set of the calling thread (`PR_CAPBSET_DROP`). Without
/// CAP_SETPCAP the set stays unchanged.
///
/// # Errors
/// None are known.
pub fn drop_bounding_set(kept: u64) -> Result<(), Errno> {
    for capability in (0..64).filter(|capability| kept & (1 << capability) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => (),
            // The first number beyond the kernel's last capability; or no CAP_SETPCAP.
            Err(Errno::EINVAL | Errno::EPERM) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Empties the ambient set of the calling thread (`PR_CAP_AMBIENT_CLEAR_ALL`). Before Linux 4.3 threads have no such set.
pub fn clear_ambient_set() {
    const PR_CAP_AMBIENT_CLEAR_ALL: libc::c_ulong = 4;
    let _ = prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
}

/// Removes the privileges of user 0 for good (`PR_SET_SECUREBITS`): neither being user 0 nor a change of users grants
/// capabilities any more.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn lock_no_root() -> Result<(), Errno> {
    let bits = libc::SECBIT_NOROOT
        | libc::SECBIT_NOROOT_LOCKED
        | libc::SECBIT_NO_SETUID_FIXUP
        | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
        | libc::SECBIT_KEEP_CAPS_LOCKED;
    prctl(libc::PR_SET_SECUREBITS, bits.cast_unsigned().into())
}

/// Whether the kernel clears capabilities over files when a thread's fsuid changes from 0 (`SECBIT_NO_SETUID_FIXUP`).
pub(crate) fn is_setuid_fixed_up() -> bool {
    // SAFETY: prctl(2) with this option takes no further argument and touches no memory.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    bits >= 0 && bits & libc::SECBIT_NO_SETUID_FIXUP == 0
}

/// Calls prctl(2) with one argument, a number.
fn prctl(operation: libc::c_int, argument: libc::c_ulong) -> Result<(), Errno> {
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: the operations above take numbers; none reads or writes memory.
    Errno::result(unsafe { libc::prctl(operation, argument, UNUSED, UNUSED, UNUSED) }).map(drop)
}
