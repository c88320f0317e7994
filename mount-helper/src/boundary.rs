//! Makes a cgroup namespace that begins at a container's delegation boundary (cgroup v2), and checks that the kernel enforces it.
//!
//! A cgroup namespace begins at the cgroup of the process that makes it. So this process enters the boundary, makes
//! the namespace, and leaves at once. Between these three system calls the container may see it in a pid list, kill
//! it or freeze it, and gains nothing: the process has only a socket, a pipe and two files that migrate processes. It
//! isn't dumpable, and the server waits for it for only a second.
//!
//! Afterwards, outside again, it writes `0` to a membership file of the boundary that the server has opened in that
//! namespace. If the kernel checks both ends of a migration by the opener's namespace (`nsdelegate`, since Linux
//! 5.16), the write fails with ENOENT, and so does whatever a container writes to such a file. Otherwise this process
//! is now inside, and ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::unistd::{setsid, write};
use sys::descriptors::{close_from, inherited};
use sys::owner::signal_group_on_event;
use sys::seqpacket::{receive_with_files, send};

use crate::{check, privileges};

/// The descriptor of the SOCK_SEQPACKET socket to the server.
pub const SOCKET_FD: RawFd = 3;
/// The descriptor of the lifeline, like an agent's.
pub const LIFELINE_FD: RawFd = 4;
/// The descriptor of the boundary's `cgroup.procs`, for writing.
pub const BOUNDARY_FD: RawFd = 5;
/// The descriptor of the `cgroup.procs` of the cgroup to go back to, for writing.
pub const HOME_FD: RawFd = 6;

/// How long the process waits for the server, in ms.
const SERVER_TIMEOUT_MS: u16 = 10_000;

/// The purpose that the process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Make a namespace and check it.
    Make,
    /// Only check a namespace.
    Probe,
}

impl Purpose {
    /// Returns the word for it on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Probe => "probe",
        }
    }

    /// Reads that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Make, Self::Probe].into_iter().find(|purpose| purpose.word() == word)
    }
}

/// The length of a message to the server: 0 or an errno. With [`Purpose::Make`] the first one carries the namespace.
pub const MESSAGE_LEN: usize = 4;

/// Encodes a message to the server.
#[must_use]
pub fn encode(result: Result<(), Errno>) -> [u8; MESSAGE_LEN] {
    result.map_or_else(|errno| errno as i32, |()| 0).to_ne_bytes()
}

/// Decodes a message to the server. Malformed bytes are `EPROTO`.
///
/// # Errors
/// The errno in the message.
pub fn decode(message: &[u8]) -> Result<(), Errno> {
    match message.try_into().map(i32::from_ne_bytes) {
        Ok(0) => Ok(()),
        Ok(number) => Err(Errno::from_raw(number)),
        Err(_) => Err(Errno::EPROTO),
    }
}

/// Does what the process was started for, and reports the result to the server.
pub(crate) fn start(purpose: Purpose) -> ExitCode {
    let end = if purpose == Purpose::Make { HOME_FD } else { LIFELINE_FD } + 1;
    let closed = close_from(end);
    let Some(socket) = inherited(SOCKET_FD) else {
        return ExitCode::from(2);
    };
    let done = closed.and_then(|()| serve(&socket, purpose));
    match done.and_then(|result| send(socket.as_fd(), [&encode(result)], &[])) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

/// Returns the result of the check, or the error before it.
fn serve(socket: &OwnedFd, purpose: Purpose) -> Result<Result<(), Errno>, Errno> {
    prctl::set_dumpable(false)?;
    prctl::set_name(c"vcgroupfs-ns")?;
    check::seqpacket(socket.as_fd())?;
    let lifeline = inherited(LIFELINE_FD).ok_or(Errno::EBADF)?;
    check::pipe(lifeline.as_fd())?;
    setsid()?;
    signal_group_on_event(lifeline.as_fd(), libc::SIGKILL)?;
    if purpose == Purpose::Make {
        match make() {
            Ok(namespace) => send(socket.as_fd(), [&encode(Ok(()))], &[namespace.as_fd()])?,
            Err(errno) => return Ok(Err(errno)),
        }
    }
    privileges::drop_all(0)?;
    let file = received(socket.as_fd())?;
    Ok(migrate_self(file.as_fd()))
}

/// Makes the namespace that begins at the boundary.
fn make() -> Result<OwnedFd, Errno> {
    let boundary = inherited(BOUNDARY_FD).ok_or(Errno::EBADF)?;
    let home = inherited(HOME_FD).ok_or(Errno::EBADF)?;
    check::cgroup2(boundary.as_fd())?;
    check::cgroup2(home.as_fd())?;
    let own = own_namespace()?;
    migrate_self(boundary.as_fd())?;
    let made = unshare(CloneFlags::CLONE_NEWCGROUP);
    migrate_self(home.as_fd())?;
    made?;
    let namespace = own_namespace()?;
    // Before Linux 5.16 the writer's namespace decides. Leave this one, since a container's writer isn't in it
    // either.
    setns(&own, CloneFlags::CLONE_NEWCGROUP)?;
    Ok(namespace)
}

fn own_namespace() -> Result<OwnedFd, Errno> {
    open("/proc/self/ns/cgroup", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

fn migrate_self(file: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        match write(file, b"0") {
            Err(Errno::EINTR) => (),
            other => return other.map(drop),
        }
    }
}

/// Receives the file that the server sends.
fn received(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut waited = [PollFd::new(socket, PollFlags::POLLIN)];
    poll(&mut waited, PollTimeout::from(SERVER_TIMEOUT_MS))?;
    let received = receive_with_files(socket, &mut [0; MESSAGE_LEN])?;
    let file = received.files.into_iter().next().ok_or(Errno::EPROTO)?;
    check::cgroup2(file.as_fd())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_words() {
        for result in [Ok(()), Err(Errno::ENOENT), Err(Errno::EBUSY)] {
            assert_eq!(decode(&encode(result)), result);
        }
        assert_eq!(decode(&[0; 3]), Err(Errno::EPROTO));
        for purpose in [Purpose::Make, Purpose::Probe] {
            assert_eq!(Purpose::from_word(purpose.word()), Some(purpose));
        }
        assert_eq!(Purpose::from_word("x"), None);
    }
}
