//! Messages with descriptors over a SOCK_SEQPACKET socket
//! ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, accept4,
    recvmsg, sendmsg, socketpair,
};

/// The maximum number of descriptors in a message, which is the kernel's (`SCM_MAX_FD`): more can't come.
pub const MAX_FILES: usize = 253;

/// Makes two connected sockets that keep message boundaries, and report when the other end is closed. Both are
/// close-on-exec.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Accepts the next connection to a listening socket, close-on-exec
/// ([accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html)). Calls on it don't block.
///
/// # Errors
/// EAGAIN if there's none and the listening socket doesn't block; EMFILE.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let number = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends one message that consists of the parts, with copies of `files` (`SCM_RIGHTS`). It never blocks and never
/// raises SIGPIPE.
///
/// # Errors
/// EPIPE, ECONNRESET, ECONNREFUSED or ENOTCONN if the other end is closed: nothing was delivered. EAGAIN if its queue is full.
pub fn send<const N: usize>(socket: BorrowedFd<'_>, parts: [&[u8]; N], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let parts = parts.map(IoSlice::new);
    let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if files.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None).map(drop)
}

/// Sends one message with copies of `files`, in the name of process `sender` (`SCM_CREDENTIALS`), with the own user and
/// group. It never blocks.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN over the own pid namespace, if it isn't the own process; `ESRCH` if there's no such process;
/// as [`send`].
pub fn send_as(sender: i32, socket: BorrowedFd<'_>, message: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let own = UnixCredentials::new();
    let named = libc::ucred { pid: sender, uid: own.uid(), gid: own.gid() }.into();
    let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let both = [ControlMessage::ScmCredentials(&named), ControlMessage::ScmRights(&numbers)];
    let control = both.get(..if files.is_empty() { 1 } else { 2 }).unwrap_or_default();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(message)], control, flags, None).map(drop)
}

/// Receives one message, its first bytes into `header`, the rest into `payload`. Descriptors that came with it are
/// never installed in this process. It never blocks.
///
/// Returns the length, 0 if the other end is closed, or `None` if the message was longer than both buffers.
///
/// # Errors
/// EAGAIN if there's none. ECONNRESET, once, if the other end was closed before it had received all that was sent to it.
pub fn receive(socket: BorrowedFd<'_>, header: &mut [u8], payload: &mut [u8]) -> Result<Option<usize>, Errno> {
    let mut parts = [IoSliceMut::new(header), IoSliceMut::new(payload)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?;
    let fits = !message.flags.contains(MsgFlags::MSG_TRUNC);
    Ok(fits.then_some(message.bytes))
}

/// A message and the descriptors that came with it.
#[derive(Debug)]
pub struct Received {
    /// The length of the message; 0 if the other end is closed.
    pub length: usize,
    /// The descriptors, close-on-exec.
    pub files: Vec<OwnedFd>,
    /// Whether the message didn't fit.
    pub is_truncated: bool,
    /// The process in whose name it was sent, if the socket receives that (`SO_PASSCRED`).
    pub sender: Option<i32>,
}

/// Receives one message and up to [`MAX_FILES`] descriptors. It never blocks.
///
/// # Errors
/// EAGAIN if there's none; ECONNRESET as for [`receive`]; EPROTO if a descriptor couldn't be installed, because the
/// process has no room for it or a security module denies it.
pub fn receive_with_files(socket: BorrowedFd<'_>, message: &mut [u8]) -> Result<Received, Errno> {
    let mut space = nix::cmsg_space!([RawFd; MAX_FILES], UnixCredentials);
    let mut parts = [IoSliceMut::new(message)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let (mut files, mut sender) = (Vec::new(), None);
    for control in received.cmsgs().map_err(|_| Errno::EPROTO)? {
        match control {
            ControlMessageOwned::ScmRights(numbers) => {
                // SAFETY: the kernel has just made these descriptors for this process, and nothing else knows of them.
                files.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
            ControlMessageOwned::ScmCredentials(named) => sender = Some(named.pid()),
            _ => {}
        }
    }
    let is_truncated = received.flags.contains(MsgFlags::MSG_TRUNC);
    Ok(Received { length: received.bytes, files, is_truncated, sender })
}

/// Receives one message of at most `message` bytes, and the descriptor that came with it, if there is one. It never
/// blocks.
///
/// # Errors
/// EAGAIN if there's none; EPROTO if there was more than one descriptor, or the message was longer.
pub fn receive_with_file(socket: BorrowedFd<'_>, message: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut received = receive_with_files(socket, message)?;
    let file = received.files.pop();
    if received.is_truncated || !received.files.is_empty() {
        return Err(Errno::EPROTO);
    }
    Ok((received.length, file))
}

/// Receives one message of a byte and the descriptor that came with it. It never blocks.
///
/// # Errors
/// EAGAIN if there's none; EPROTO if there was no descriptor, or more than one.
pub fn receive_file(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let (_, file) = receive_with_file(socket, &mut [0])?;
    file.ok_or(Errno::EPROTO)
}
