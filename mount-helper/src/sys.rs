//! The helper's only unsafe code: one safe function per system call that nix doesn't wrap.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::request::MAX_OWNERS;

/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words per set. Since Linux 2.6.26.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `struct f_owner_ex` of fcntl(2).
#[repr(C)]
struct FOwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}

const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_GETOWN_EX: libc::c_int = 16;
const F_OWNER_TID: libc::c_int = 0;
const F_OWNER_PGRP: libc::c_int = 2;

/// Owns descriptor `number`, which the process that started this one left open for it. `None` if
/// it isn't open. Each number may be asked for once.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only looks the number up.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it's open (just checked), and the helper's start, where descriptors are numbered by
    // agreement with the server, is the only place that calls this, once per number.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` on. To be called before any of them has an owner.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: nothing in this process owns descriptors yet (the contract above).
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if done == 0 {
        return Ok(());
    }
    // Before Linux 5.9, or under a filter that doesn't know the call: one by one. The list is
    // taken before anything is closed, because the directory's own descriptor is in it.
    let entries = std::fs::read_dir("/proc/self/fd").map_err(|error| errno_of(&error))?;
    let numbers: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number: &RawFd| i64::from(*number) >= i64::from(first))
        .collect();
    for number in numbers {
        // SAFETY: as above; the directory itself is closed by now and gives a harmless EBADF.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Which of the two processes this is after [`clone_sibling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The caller.
    Original,
    /// The new process.
    Sibling,
}

/// fork(2), but the new process is a child of the *caller's parent*.
pub(crate) fn clone_sibling() -> Result<Side, Errno> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    let null: libc::c_long = 0;
    #[cfg(not(target_arch = "s390x"))]
    let (first, second) = (flags, null);
    #[cfg(target_arch = "s390x")] // takes the stack first
    let (first, second) = (null, flags);
    // SAFETY: no CLONE_VM and no stack, so that this is fork: the new process goes on in a copy of
    // this single-threaded one. What libc caches about a thread (its tid, for raise and robust
    // mutexes) is stale in it, and unused.
    let pid = unsafe { libc::syscall(libc::SYS_clone, first, second, null, null, null) };
    match Errno::result(pid)? {
        0 => Ok(Side::Sibling),
        _ => Ok(Side::Original),
    }
}

/// Ends the process without running anything of libc's or Rust's exit.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(status) }
}

/// Sets the calling thread's capability sets, inheritable to none. Bits as in `CAP_*`.
pub(crate) fn set_capabilities(permitted: u64, effective: u64) -> Result<(), Errno> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let word = |set: u64, shift: u32| ((set >> shift) & 0xffff_ffff) as u32;
    let data = [0, 32].map(|shift| CapData {
        effective: word(effective, shift),
        permitted: word(permitted, shift),
        inheritable: 0,
    });
    // SAFETY: both structures have the layout of version 3 and live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(done).map(drop)
}

/// The calling thread's permitted capabilities. Bits as in `CAP_*`.
pub(crate) fn permitted_capabilities() -> Result<u64, Errno> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: both structures have the layout of version 3 and live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(done)?;
    let [low, high] = data;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

/// prctl(2) with two arguments, for the operations that take plain numbers.
pub(crate) fn prctl(operation: libc::c_int, argument: libc::c_ulong) -> Result<(), Errno> {
    let null: libc::c_ulong = 0;
    // SAFETY: the module's callers use operations whose arguments are numbers (PR_CAPBSET_DROP,
    // PR_CAP_AMBIENT, PR_SET_SECUREBITS); none reads or writes memory.
    let done = unsafe { libc::prctl(operation, argument, null, null, null) };
    Errno::result(done).map(drop)
}

/// Leaves the session keyring of whoever started this process for a new, empty one.
pub(crate) fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let anonymous: libc::c_long = 0;
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    Errno::result(done).map(drop)
}

/// From now on `file`'s I/O events send `signal` to the caller's process group.
pub(crate) fn signal_group_on_event(file: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let group = nix::unistd::getpgrp().as_raw();
    set_owner(file, &FOwnerEx { kind: F_OWNER_PGRP, pid: group })?;
    let fd = file.as_raw_fd();
    // SAFETY: a number in, a number out.
    Errno::result(unsafe { libc::fcntl(fd, F_SETSIG, signal) })?;
    // SAFETY: as above. A pipe has no other status flag to lose.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Makes the thread with this number in the caller's pid namespace the owner of `file`. ESRCH if
/// there's none.
pub(crate) fn set_owner_thread(file: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    set_owner(file, &FOwnerEx { kind: F_OWNER_TID, pid: number })
}

/// The number that the owner of `file` has in the caller's pid namespace; 0 if it isn't in there, or has ended.
pub(crate) fn owner_thread(file: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut owner = FOwnerEx { kind: F_OWNER_TID, pid: 0 };
    // SAFETY: `owner` has the layout of `struct f_owner_ex` and lives through the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWN_EX, &raw mut owner) };
    Errno::result(done).map(|_| owner.pid)
}

fn set_owner(file: BorrowedFd<'_>, owner: &FOwnerEx) -> Result<(), Errno> {
    // SAFETY: `owner` has the layout of `struct f_owner_ex` and is only read.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), F_SETOWN_EX, std::ptr::from_ref(owner)) };
    Errno::result(done).map(drop)
}

/// Installs a seccomp filter; needs PR_SET_NO_NEW_PRIVS. EINVAL if the kernel has no filters.
pub(crate) fn install_filter(program: &mut [libc::sock_filter]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: `program` points to `len` instructions that live through the call; the kernel
    // checks them and takes a copy.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0) };
    Errno::result(done).map(drop)
}

/// The same for a program that runs nobody else's code: the kernel needn't keep it from speculating, as it does with whoever has a filter
/// (Linux 4.17 to 5.15; seccomp(2) with SECCOMP_FILTER_FLAG_SPEC_ALLOW).
pub(crate) fn install_own_filter(program: &mut [libc::sock_filter]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let fprog = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    // SAFETY: `fprog` points to `len` instructions that live through the call; the kernel checks them and takes a copy.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const fprog) };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        // No such flag, or, before Linux 3.17, no such call.
        Err(_) => install_filter(program),
    }
}

/// A process, or with `PIDFD_THREAD` (Linux 6.9) a thread, to hold (pidfd_open(2), Linux 5.3).
pub(crate) fn pidfd_open(number: i32, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: two numbers in.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, number, flags) })?;
    // SAFETY: the kernel has just made this descriptor for this process; it's close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Another process' descriptor, here: the same open file (pidfd_getfd(2), Linux 5.6).
pub(crate) fn pidfd_getfd(process: BorrowedFd<'_>, number: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: three numbers in.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A close-on-exec copy of `file`, with the lowest number that is free.
pub(crate) fn duplicate(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let number = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(0))?;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Kind and content of the handle of an open file, if it has three words (name_to_handle_at(2)).
pub(crate) fn file_handle(file: BorrowedFd<'_>) -> Result<(i32, [u32; 3]), Errno> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        words: [u32; 3],
    }
    let mut handle = Handle { bytes: 12, kind: 0, words: [0; 3] };
    let mut mount = 0i32;
    // SAFETY: the name is an empty C string, and `handle` has room for the 12 bytes that it says; both live through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::result(done)?;
    if handle.bytes == 12 { Ok((handle.kind, handle.words)) } else { Err(Errno::EOVERFLOW) }
}

/// Mode, user and group of an open file, as the kernel has them: of a network filesystem or a FUSE they may be old, since it isn't asked
/// (statx(2) with AT_STATX_DONT_SYNC, Linux 4.11). What isn't known is nobody's.
pub(crate) fn known_attributes(file: BorrowedFd<'_>) -> Result<(u32, u32, u32), Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_MODE | libc::STATX_UID | libc::STATX_GID;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, and `found` has room for the answer; both live through the call.
    let done =
        unsafe { libc::syscall(libc::SYS_statx, file.as_raw_fd(), c"".as_ptr(), flags, mask, found.as_mut_ptr()) };
    match Errno::result(done) {
        // A FUSE that doesn't let this process in.
        Err(Errno::EACCES) => return Ok((0, u32::MAX, u32::MAX)),
        done => done?,
    };
    // SAFETY: all zeros are a valid value, and the kernel has filled it in.
    let found = unsafe { found.assume_init() };
    Ok((found.stx_mode.into(), found.stx_uid, found.stx_gid))
}

/// Moves the mount that `from` is the root of to the directory `to` (move_mount(2), Linux 5.2).
pub(crate) fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    const FROM_EMPTY_PATH: libc::c_uint = 0x4;
    const TO_EMPTY_PATH: libc::c_uint = 0x40;
    let empty = c"".as_ptr();
    let (from, to, flags) = (from.as_raw_fd(), to.as_raw_fd(), FROM_EMPTY_PATH | TO_EMPTY_PATH);
    // SAFETY: both paths are empty C strings that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) };
    Errno::result(done).map(drop)
}

/// One message and the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Received {
    /// Length of the message; 0: the other end is closed.
    pub(crate) len: usize,
    /// Every descriptor of the message.
    pub(crate) files: Vec<OwnedFd>,
    /// The message or its descriptors didn't fit.
    pub(crate) truncated: bool,
}

/// Receives one message, and as many descriptors as may belong to one, without waiting.
pub(crate) fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<Received, Errno> {
    let mut space = nix::cmsg_space!([RawFd; MAX_OWNERS]);
    let mut parts = [IoSliceMut::new(into)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nothing
            // else knows of them.
            files.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    let truncated = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    Ok(Received { len: message.bytes, files, truncated })
}

/// Sends one message without waiting.
pub(crate) fn send(socket: BorrowedFd<'_>, header: &[u8], data: &[u8]) -> Result<(), Errno> {
    let parts = [IoSlice::new(header), IoSlice::new(data)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &parts, &[], flags, None).map(drop)
}

/// Sends one message, and a copy of `file` with it, without waiting.
pub(crate) fn send_file(socket: BorrowedFd<'_>, message: &[u8], file: BorrowedFd<'_>) -> Result<(), Errno> {
    let numbers = [file.as_raw_fd()];
    let control = [nix::sys::socket::ControlMessage::ScmRights(&numbers)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(message)], &control, flags, None).map(drop)
}

/// The errno of an error of the standard library.
fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
