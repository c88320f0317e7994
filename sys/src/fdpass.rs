//! Messages over a SOCK_SEQPACKET socket, and one descriptor along with them.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

/// Two connected sockets that keep message boundaries and report the other end's end
/// (socketpair(2), unix(7)). Both are close-on-exec.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends one message, `header` and `payload` as one, and a copy of `file` with it (sendmsg(2),
/// SCM_RIGHTS). Never waits, never raises SIGPIPE.
///
/// # Errors
/// EPIPE, ECONNRESET, ECONNREFUSED or ENOTCONN if the other end is closed: nothing was delivered.
/// EAGAIN if its queue is full.
pub fn send_with_file(
    socket: BorrowedFd<'_>,
    header: &[u8],
    payload: &[u8],
    file: BorrowedFd<'_>,
) -> Result<(), Errno> {
    send_with_files(socket, [header, payload, &[]], &[file])
}

/// The same for a message of three parts, and with copies of several files.
///
/// # Errors
/// As [`send_with_file`].
pub fn send_with_files(socket: BorrowedFd<'_>, parts: [&[u8]; 3], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let parts = parts.map(IoSlice::new);
    let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &parts, &control, flags, None).map(drop)
}

/// Receives one message, the descriptor that came with it, and nothing else of it. Never waits.
///
/// # Errors
/// EAGAIN if there's none; EPROTO if there was no descriptor, or more than one.
pub fn receive_file(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let numbers = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    match numbers.as_deref() {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Some([number]) => Ok(unsafe { OwnedFd::from_raw_fd(*number) }),
        _ => Err(Errno::EPROTO),
    }
}

/// Receives one message, its first bytes into `header`, the rest into `payload` (recvmsg(2)).
/// Descriptors that came with it are never installed in this process. Never waits.
///
/// Returns its length (0: the other end is closed), or `None` if it was longer than the two.
///
/// # Errors
/// EAGAIN if there's none. ECONNRESET, once, if the other end was closed before it had received
/// all that was sent to it.
pub fn receive(socket: BorrowedFd<'_>, header: &mut [u8], payload: &mut [u8]) -> Result<Option<usize>, Errno> {
    let mut parts = [IoSliceMut::new(header), IoSliceMut::new(payload)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?;
    let fits = !message.flags.contains(MsgFlags::MSG_TRUNC);
    Ok(fits.then_some(message.bytes))
}

/// Receives one message of at most `message` bytes, and the descriptor that came with it, if there is one. Never waits.
///
/// # Errors
/// EAGAIN if there's none; EPROTO if there was more than one descriptor, or the message was longer.
pub fn receive_with_file(socket: BorrowedFd<'_>, message: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut parts = [IoSliceMut::new(message)];
    let mut space = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    if received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EPROTO);
    }
    let numbers = received.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    match numbers.as_deref() {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Some([number]) => Ok((received.bytes, Some(unsafe { OwnedFd::from_raw_fd(*number) }))),
        None => Ok((received.bytes, None)),
        Some(_) => Err(Errno::EPROTO),
    }
}
