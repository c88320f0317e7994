//! Registers an event of a cgroup for a process of a container (cgroup v1, `cgroup.event_control`).
//!
//! The text that such a process writes to the file names two descriptors of its own: an eventfd, and a control file
//! that it has opened in a view. The helper fetches the eventfd (pidfd_getfd(2), Linux 5.6), tells the server which
//! file of the view the control file is, gets the backing file for it, and writes the numbers that both have *in the
//! helper* to the backing `cgroup.event_control`.
//!
//! Each registration has a process of its own, since closing a descriptor can block. Another thread of the container
//! can replace the eventfd between the check and the fetch. Closing the replacement may block forever, if it's a file
//! of a FUSE that never answers (FLUSH) or a socket that lingers. Then only this process waits. It holds nothing of
//! the server's, and the server goes on without it.
//!
//! The kernel's event ends when the last descriptor of the eventfd is closed. So the helper must have closed its own
//! before it tells the server that it's done.

use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::unistd::setsid;
use sys::capability::{CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, keep_capabilities};
use sys::descriptors::{close_from, inherited};
use sys::owner::signal_group_on_event;
use sys::process::exit_now;
use sys::seqpacket::{receive_with_files, send};
use sys::stat::known_access;
use sys::{handle, pidfd};

use crate::request::MAX_WRITE;
use crate::{agent, check, privileges, serve};

/// The descriptor of the SOCK_SEQPACKET socket to the server.
pub const SOCKET_FD: RawFd = 3;
/// The descriptor of the lifeline, like an agent's.
pub const LIFELINE_FD: RawFd = 4;
/// The descriptor of the server's epoll set. It contains the registered eventfds as long as they're open elsewhere,
/// and doesn't keep them open.
pub const LIVE_FD: RawFd = 5;

/// How long the process waits for the server, in ms.
const SERVER_TIMEOUT_MS: u16 = 10_000;

/// The name of an eventfd in /proc. All names that a container can choose begin with a slash.
const EVENTFD: &[u8] = b"anon_inode:[eventfd]";

/// The first message, which names the thread and its descriptors. The backing `cgroup.event_control` comes with it. The second message holds the
/// arguments of the registration, and the backing control file comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The thread that writes, in the server's pid namespace. It waits for the answer meanwhile.
    pub tid: i32,
    /// Its number of the eventfd.
    pub eventfd: u32,
    /// Its number of the control file.
    pub control: u32,
}

/// Length of a [`Claim`].
pub const CLAIM_LEN: usize = 12;

impl Claim {
    /// Encodes the message.
    #[must_use]
    pub fn encode(&self) -> [u8; CLAIM_LEN] {
        let mut out = [0; CLAIM_LEN];
        let fields = self.tid.to_ne_bytes().into_iter().chain(self.eventfd.to_ne_bytes());
        for (to, from) in out.iter_mut().zip(fields.chain(self.control.to_ne_bytes())) {
            *to = from;
        }
        out
    }

    /// Decodes the message.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tid, rest) = bytes.split_first_chunk()?;
        let (eventfd, rest) = rest.split_first_chunk()?;
        let control = rest.try_into().ok()?;
        Some(Self {
            tid: i32::from_ne_bytes(*tid),
            eventfd: u32::from_ne_bytes(*eventfd),
            control: u32::from_ne_bytes(control),
        })
    }
}

/// The identity of the control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimedControl {
    /// The node id, if it's a file of a FUSE.
    pub node: Option<u64>,
    /// Its mode, as the kernel knows it without asking a FUSE.
    pub mode: u32,
    /// Its user, likewise.
    pub uid: u32,
    /// Its group, likewise.
    pub gid: u32,
}

/// The answer to either message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The registration failed with this errno.
    Failed(i32),
    /// The helper has the eventfd, and this is the control file.
    Held(ClaimedControl),
    /// The event is registered.
    Done,
}

/// Length of a [`Reply`].
pub const REPLY_LEN: usize = 28;

const FAILED: u32 = 0;
const HELD: u32 = 1;
const HELD_OTHER: u32 = 2;
const DONE: u32 = 3;

impl Reply {
    /// Encodes the message.
    #[must_use]
    pub fn encode(self) -> [u8; REPLY_LEN] {
        let nothing = ClaimedControl { node: None, mode: 0, uid: 0, gid: 0 };
        let (kind, errno, control): (u32, i32, _) = match self {
            Self::Failed(errno) => (FAILED, errno, nothing),
            Self::Held(control) if control.node.is_some() => (HELD, 0, control),
            Self::Held(control) => (HELD_OTHER, 0, control),
            Self::Done => (DONE, 0, nothing),
        };
        let mut out = [0; REPLY_LEN];
        let start = kind.to_ne_bytes().into_iter().chain(errno.to_ne_bytes());
        let fields = start.chain(control.node.unwrap_or(0).to_ne_bytes()).chain(control.mode.to_ne_bytes());
        let fields = fields.chain(control.uid.to_ne_bytes()).chain(control.gid.to_ne_bytes());
        for (to, from) in out.iter_mut().zip(fields) {
            *to = from;
        }
        out
    }

    /// Decodes the message.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first_chunk()?;
        let (errno, rest) = rest.split_first_chunk()?;
        let (node, rest) = rest.split_first_chunk()?;
        let (mode, rest) = rest.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let [mode, uid, gid] = [*mode, *uid, rest.try_into().ok()?].map(u32::from_ne_bytes);
        let control = |node| ClaimedControl { node, mode, uid, gid };
        match u32::from_ne_bytes(*kind) {
            FAILED => Some(Self::Failed(i32::from_ne_bytes(*errno))),
            HELD => Some(Self::Held(control(Some(u64::from_ne_bytes(*node))))),
            HELD_OTHER => Some(Self::Held(control(None))),
            DONE => Some(Self::Done),
            _ => None,
        }
    }
}

/// Makes one registration, and ends.
pub(crate) fn start() -> ExitCode {
    let closed = close_from(LIVE_FD + 1);
    let [Some(socket), Some(lifeline), Some(live)] = [SOCKET_FD, LIFELINE_FD, LIVE_FD].map(inherited) else {
        return ExitCode::from(2);
    };
    let made = closed
        .and_then(|()| prepare(socket.as_fd(), lifeline.as_fd()))
        .and_then(|()| register(socket.as_fd(), &Epoll(live)));
    let reply = match made {
        Ok(()) => Reply::Done,
        Err(errno) => Reply::Failed(errno as i32),
    };
    let told = send(socket.as_fd(), [&reply.encode()], &[]);
    exit_now(i32::from(told.is_err()))
}

fn prepare(socket: BorrowedFd<'_>, lifeline: BorrowedFd<'_>) -> Result<(), Errno> {
    prctl::set_dumpable(false)?;
    prctl::set_name(c"vcgroupfs-event")?;
    check::seqpacket(socket)?;
    check::pipe(lifeline)?;
    setsid()?;
    signal_group_on_event(lifeline, libc::SIGKILL)?;
    agent::stand_in_for_stdio()?;
    // The capabilities to examine another process' descriptors, to fetch one, and to read the control file, which the
    // kernel checks again.
    let permitted = privileges::drop_all(CAP_SYS_PTRACE | CAP_DAC_READ_SEARCH)?;
    keep_capabilities(permitted)
}

/// Registers the event. All descriptors are closed on return.
fn register(socket: BorrowedFd<'_>, live: &Epoll) -> Result<(), Errno> {
    let mut message = [0; MAX_WRITE];
    let (bytes, event_control) = receive(socket, &mut message)?;
    let claim = Claim::decode(bytes).ok_or(Errno::EPROTO)?;
    let eventfd = fetch(claim.tid, claim.eventfd)?;
    let control = control(claim.tid, claim.control)?;
    send(socket, [&Reply::Held(control).encode()], &[])?;
    let (arguments, control) = receive(socket, &mut message)?;

    let (eventfd, _spare) = note(live, eventfd)?;
    let text = text(eventfd.as_raw_fd(), control.as_raw_fd(), arguments);
    let written = serve::write_once(event_control.as_fd(), &text);
    if written.is_err() {
        let _ = live.delete(&eventfd);
    }
    written.map(drop)
}

fn receive<'a>(socket: BorrowedFd<'_>, into: &'a mut [u8]) -> Result<(&'a [u8], OwnedFd), Errno> {
    let mut waited = [PollFd::new(socket, PollFlags::POLLIN)];
    if poll(&mut waited, PollTimeout::from(SERVER_TIMEOUT_MS))? == 0 {
        return Err(Errno::ETIMEDOUT);
    }
    let mut received = receive_with_files(socket, into)?;
    match (received.files.pop(), received.is_truncated) {
        (Some(file), false) => Ok((into.get(..received.length).unwrap_or_default(), file)),
        _ => Err(Errno::EPROTO),
    }
}

/// Returns the text to write: the numbers in this process, and the arguments unchanged.
fn text(eventfd: RawFd, control: RawFd, arguments: &[u8]) -> Vec<u8> {
    let mut text = format!("{eventfd} {control}").into_bytes();
    if arguments.is_empty() {
        // Before Linux 6.11 the kernel reads the arguments beyond the end of the text (CVE-2024-45021). The NULs make
        // them empty.
        text.extend(b"\0\0");
    } else {
        text.push(b' ');
        text.extend(arguments);
    }
    text
}

/// Finds an open descriptor of a thread. Returns its path in /proc and its name.
///
/// # Errors
/// EBADF if there's none with this number, or if it's O_PATH.
fn descriptor(thread: impl Display, number: u32) -> Result<(PathBuf, PathBuf), Errno> {
    let path = PathBuf::from(format!("/proc/{thread}/fd/{number}"));
    // The mode shows an O_PATH descriptor, which can neither be read nor written (proc_fd_instantiate).
    if fs::symlink_metadata(&path).map_err(no_descriptor)?.mode() & 0o700 == 0 {
        return Err(Errno::EBADF);
    }
    let name = fs::read_link(&path).map_err(no_descriptor)?;
    Ok((path, name))
}

/// Maps errors of /proc: EBADF for a descriptor that doesn't exist, EACCES for a process that may not be examined.
fn no_descriptor(error: std::io::Error) -> Errno {
    match error.kind() {
        ErrorKind::NotFound => Errno::EBADF,
        ErrorKind::PermissionDenied => Errno::EACCES,
        _ => error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
    }
}

/// Fetches a thread's eventfd.
///
/// # Errors
/// EBADF for no descriptor, EINVAL for one that isn't an eventfd (`eventfd_ctx_fileget`), EACCES if it can't be
/// fetched.
fn fetch(tid: i32, number: u32) -> Result<OwnedFd, Errno> {
    let (_, name) = descriptor(tid, number)?;
    if name.as_os_str().as_bytes() != EVENTFD {
        return Err(Errno::EINVAL);
    }
    let identity = identity(&format!("/proc/{tid}/fdinfo/{number}"))?;
    let (holder, is_thread) = match pidfd::open_thread(tid) {
        Ok(thread) => (thread, true),
        // Before Linux 6.9 only processes have pidfds. The fetched file is checked below.
        Err(Errno::EINVAL) => (pidfd::open(process_of(tid)?)?, false),
        Err(errno) => return Err(errno),
    };
    let file = match pidfd::fetch(holder.as_fd(), number) {
        Ok(file) => file,
        Err(Errno::EPERM) => return Err(Errno::EACCES),
        Err(Errno::EBADF) if !is_thread => return Err(Errno::EACCES),
        Err(errno) => return Err(errno),
    };
    // Another thread may have replaced the descriptor, or the thread may have a descriptor table that it doesn't
    // share with its process.
    let fetched = file.as_raw_fd();
    let (_, own) = descriptor("self", fetched.cast_unsigned())?;
    if own.as_os_str().as_bytes() != EVENTFD || self::identity(&format!("/proc/self/fdinfo/{fetched}"))? != identity {
        return Err(Errno::EACCES);
    }
    Ok(file)
}

/// Returns the identity of an eventfd among all that exist (Linux 5.2, before pidfd_getfd).
fn identity(fdinfo: &str) -> Result<String, Errno> {
    let text = fs::read_to_string(fdinfo).map_err(no_descriptor)?;
    let line = text.lines().find_map(|line| line.strip_prefix("eventfd-id:"));
    line.map(|id| id.trim().to_owned()).ok_or(Errno::EACCES)
}

fn process_of(tid: i32) -> Result<i32, Errno> {
    let status = fs::read(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|id| id.trim().parse().ok()).ok_or(Errno::ESRCH)
}

/// Identifies a thread's control file. A FUSE gets no request from that: neither from following the link, nor from
/// making a handle, nor from this kind of attribute lookup. The file isn't opened (O_PATH).
///
/// # Errors
/// EBADF for no descriptor.
fn control(tid: i32, number: u32) -> Result<ClaimedControl, Errno> {
    let (path, _) = descriptor(tid, number)?;
    let file = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let file = file.map_err(|errno| if errno == Errno::ENOENT { Errno::EBADF } else { errno })?;
    let access = known_access(file.as_fd())?;
    Ok(ClaimedControl { node: handle::fuse_node_id(file.as_fd()), mode: access.mode, uid: access.uid, gid: access.gid })
}

/// Adds an eventfd to the set of registered ones, once for each registration. The set distinguishes files by their numbers too, so each
/// registration takes another number. Returns the descriptor to register, and those that have to stay open until then.
fn note(live: &Epoll, mut eventfd: OwnedFd) -> Result<(OwnedFd, Vec<OwnedFd>), Errno> {
    let mut spare = Vec::new();
    loop {
        match live.add(&eventfd, EpollEvent::new(EpollFlags::empty(), 0)) {
            Ok(()) => return Ok((eventfd, spare)),
            Err(Errno::EEXIST) => {
                let next = eventfd.try_clone().map_err(|_| Errno::ENOMEM)?;
                spare.push(std::mem::replace(&mut eventfd, next));
            }
            Err(_) => return Err(Errno::ENOMEM),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let claim = Claim { tid: 7, eventfd: u32::MAX, control: 3 };
        assert_eq!(Claim::decode(&claim.encode()), Some(claim));
        let control = |node| Reply::Held(ClaimedControl { node, mode: 0o100_644, uid: 7, gid: u32::MAX });
        for reply in [Reply::Failed(9), control(Some(u64::MAX - 1)), control(None), Reply::Done] {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        for length in (0..40).filter(|length| ![CLAIM_LEN, REPLY_LEN].contains(length)) {
            assert_eq!((Claim::decode(&vec![0xff; length]), Reply::decode(&vec![0xff; length])), (None, None));
        }
        assert_eq!(Reply::decode(&[0xff; REPLY_LEN]), None);
    }

    #[test]
    fn what_is_written() {
        assert_eq!(text(6, 7, b"4096"), b"6 7 4096");
        assert_eq!(text(6, 7, b""), b"6 7\0\0");
    }
}
