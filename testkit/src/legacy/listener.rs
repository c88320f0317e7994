//! System calls that wait for a supervisor's answer (seccomp_unotify(2)).
#![allow(unsafe_code, reason = "no crate wraps seccomp(2)'s listener, its ioctls, and kcmp(2)")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A system call about which the listener is asked. The thread waits for the answer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Notice {
    id: u64,
    /// The thread, in the supervisor's pid namespace.
    pub(super) thread: u32,
    flags: u32,
    /// The number of the system call.
    pub(super) call: i32,
    architecture: u32,
    instruction: u64,
    /// The arguments of the system call.
    pub(super) arguments: [u64; 6],
}

/// The answer to a system call.
#[derive(Debug)]
pub(super) enum Answer {
    /// The kernel executes it.
    GoOn,
    /// It fails with this errno.
    Failed(Errno),
    /// It returns this value.
    Done(i64),
    /// It returns a descriptor of this file, with `O_CLOEXEC` or without.
    Opened(OwnedFd, bool),
}

#[repr(C)]
struct Reply {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct Added {
    id: u64,
    flags: u32,
    file: u32,
    number: u32,
    number_flags: u32,
}

// Constants of linux/seccomp.h.
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const NOTIF_FLAG_CONTINUE: u32 = 1;
const NOTIF_RECV: libc::Ioctl = 0xc050_2100;
const NOTIF_SEND: libc::Ioctl = 0xc018_2101;
const NOTIF_ADDFD: libc::Ioctl = 0x4018_2103;

/// The supervisor's end.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl From<OwnedFd> for Listener {
    fn from(file: OwnedFd) -> Self {
        Self(file)
    }
}

/// Puts a filter on the calling thread, and on all processes that it starts. Returns the descriptor that the supervisor needs.
pub(super) fn install(program: &mut [libc::sock_filter]) -> io::Result<OwnedFd> {
    nix::sys::prctl::set_no_new_privs()?;
    let len = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let install = |flags: libc::c_ulong| {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` points to `len` instructions that live through the call.
        Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) })
    };
    // Before Linux 5.19 a signal may interrupt what waits for an answer.
    let number = install(FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV).or_else(|_| install(FLAG_NEW_LISTENER))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as RawFd) })
}

impl Listener {
    /// The next system call; `None` once no process with the filter is left.
    pub(super) fn receive(&self) -> io::Result<Option<Notice>> {
        loop {
            let mut waited = [PollFd::new(std::os::fd::AsFd::as_fd(&self.0), PollFlags::POLLIN)];
            poll(&mut waited, PollTimeout::NONE)?;
            let [waited] = waited;
            if waited.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
                return Ok(None);
            }
            let mut notice = Notice::default();
            // SAFETY: `notice` has the layout of `struct seccomp_notif` and is all zeros, as the kernel wants it.
            let received = unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_RECV, &raw mut notice) };
            match Errno::result(received) {
                Ok(_) => return Ok(Some(notice)),
                // It was killed meanwhile.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Answers a request. A thread that was killed meanwhile gets no answer.
    pub(super) fn answer(&self, notice: &Notice, answer: Answer) {
        let (value, error, flags) = match answer {
            Answer::GoOn => (0, 0, NOTIF_FLAG_CONTINUE),
            Answer::Failed(errno) => (0, -(errno as i32), 0),
            Answer::Done(value) => (value, 0, 0),
            Answer::Opened(file, close_on_exec) => match self.add(notice, &file, close_on_exec) {
                Ok(number) => (number, 0, 0),
                Err(errno) => (0, -(errno as i32), 0),
            },
        };
        let reply = Reply { id: notice.id, value, error, flags };
        // SAFETY: `reply` has the layout of `struct seccomp_notif_resp` and lives through the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SEND, &raw const reply) };
    }

    /// Gives the waiting thread a descriptor of a file.
    fn add(&self, notice: &Notice, file: &OwnedFd, close_on_exec: bool) -> Result<i64, Errno> {
        let number_flags = if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
        let file = file.as_raw_fd().cast_unsigned();
        let added = Added { id: notice.id, flags: 0, file, number: 0, number_flags };
        // SAFETY: `added` has the layout of `struct seccomp_notif_addfd` and lives through the call.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_ADDFD, &raw const added) }).map(i64::from)
    }
}

/// Whether a thread's descriptor is of the same open file as an own one.
pub(super) fn is_same_file(own: BorrowedFd<'_>, thread: u32, number: u64) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let (me, own) = (std::process::id(), own.as_raw_fd());
    // SAFETY: five numbers in, one out.
    unsafe { libc::syscall(libc::SYS_kcmp, me, thread, KCMP_FILE, own, number) == 0 }
}
