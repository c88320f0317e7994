//! The control socket of a view: root asks its keeper to do something.
//!
//! It's beside the view's record, and each message is a JSON object. A client sends one request, and gets one answer.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket,
};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use crate::records::descriptor;
use crate::server::registry::directory::Directory;
use crate::sys::seqpacket::{Received, accept, receive_with_file, receive_with_files, send, send_as};

/// The longest message.
const MESSAGE_MAX: usize = 16 * 1024;

/// What a client asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Request {
    /// The program that comes with the message shall take the view over.
    Upgrade(Offer),
    /// What the view has done, as a descriptor for reading.
    Activity(Watch),
}

/// Who asks for what the view has done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// Whether the server shall note each request for the next [`WATCH_TIME`]. Who goes on to watch asks again before that
    /// is over, so a watcher that was killed costs nothing for long.
    pub(crate) requests: bool,
}

/// How long a watcher's request counts.
pub(crate) const WATCH_TIME: Duration = Duration::from_secs(5);

/// What a program can take over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// The versions of the state that it reads.
    pub(crate) state: Vec<u32>,
    /// The format of the records that it works with.
    pub(crate) records: u64,
}

/// What became of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    Done,
    /// It failed, for this reason, and nothing has changed.
    Failed(String),
}

/// The socket on which a keeper is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ControlSocket(#[serde(with = "descriptor")] OwnedFd);

impl ControlSocket {
    /// Makes the socket of the view that is registered in this directory.
    ///
    /// # Errors
    /// Those of bind(2).
    pub(crate) fn make(directory: &Directory, name: &OsStr) -> io::Result<Self> {
        let _ = directory.remove(name);
        let listener = new_socket()?;
        let address = UnixAddr::new(&directory.path_of(name))?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = bind(listener.as_raw_fd(), &address);
        umask(before);
        bound?;
        listen(&listener, Backlog::new(8)?)?;
        Ok(Self(listener))
    }

    /// Returns the next client. It never blocks.
    pub(crate) fn accept(&self) -> Option<Client> {
        let client = accept(self.as_fd()).ok()?;
        setsockopt(&client, PassCred, &true).ok()?;
        Some(Client(client))
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Who has asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Client(#[serde(with = "descriptor")] OwnedFd);

impl Client {
    /// Its request, and the descriptor that came with it. It never blocks.
    ///
    /// The client has to have named this process as the message's sender, which the kernel lets only root of the host do
    /// (CAP_SYS_ADMIN over the pid namespace, unix(7)), and only where this process has a number. Being user 0 isn't enough:
    /// a container may see the socket.
    ///
    /// # Errors
    /// EAGAIN if there's none yet; EPERM from somebody else; another one if it sent something else, or is gone.
    pub(crate) fn request(&self) -> io::Result<(Request, Option<OwnedFd>)> {
        let mut message = vec![0; MESSAGE_MAX];
        let Received { length, mut files, is_truncated, sender } = receive_with_files(self.0.as_fd(), &mut message)?;
        if sender != Some(std::process::id().cast_signed()) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        if is_truncated || files.len() > 1 {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        let request = serde_json::from_slice(message.get(..length).unwrap_or_default())?;
        Ok((request, files.pop()))
    }

    /// Answers it.
    pub(crate) fn answer(self, answer: &Answer) {
        self.answer_with(answer, &[]);
    }

    /// Answers it with a descriptor.
    pub(crate) fn answer_with(self, answer: &Answer, files: &[BorrowedFd<'_>]) {
        let text = serde_json::to_vec(answer).unwrap_or_default();
        let text = text.get(..text.len().min(MESSAGE_MAX)).unwrap_or_default();
        let _ = send(self.0.as_fd(), [text], files);
    }
}

impl From<OwnedFd> for Client {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks a keeper, whose socket has this name, and waits for its answer, and the descriptor that comes with it.
///
/// # Errors
/// `ENOENT` or `ECONNREFUSED` if there's none, `EPERM` without CAP_SYS_ADMIN in its pid namespace, `ETIMEDOUT` without an
/// answer, `EPIPE` if it has ended.
pub(crate) fn ask(
    directory: &Directory,
    name: &OsStr,
    keeper: u32,
    request: &Request,
    files: &[BorrowedFd<'_>],
    limit: Duration,
) -> io::Result<(Answer, Option<OwnedFd>)> {
    let socket = new_socket()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&directory.path_of(name))?)?;
    send_as(keeper.cast_signed(), socket.as_fd(), &serde_json::to_vec(request)?, files)?;
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], limit)? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let mut message = vec![0; MESSAGE_MAX];
    let (length, file) = receive_with_file(socket.as_fd(), &mut message)?;
    if length == 0 {
        return Err(io::Error::from_raw_os_error(libc::EPIPE));
    }
    Ok((serde_json::from_slice(message.get(..length).unwrap_or_default())?, file))
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}
