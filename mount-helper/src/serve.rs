//! The agent's loop: one request, one reply.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sys::capability::{CAP_SYS_ADMIN, CAP_SYS_NICE, set_capabilities};
use sys::seqpacket::{receive_with_files, send};
use sys::{offset, owner};

use crate::clock::monotonic_ns;
use crate::request::{MAX_READ, MAX_WRITE, REQUEST_HEADER, Request, decode, reply_header};

/// How long an agent waits for the next request before it ends, in ms.
const IDLE_TIMEOUT_MS: u16 = 1000;

/// Serves until the server closes the connection, or no request comes for a second. Returns the exit status: 1 after
/// a message that an honest server doesn't send.
pub(crate) fn serve(socket: BorrowedFd<'_>, permitted: u64) -> i32 {
    let mut agent = Agent { socket, permitted, effective: 0, buffer: vec![0; MAX_READ] };
    let mut message = [0; REQUEST_HEADER + MAX_WRITE];
    loop {
        match wait(socket) {
            Ok(true) => (),
            Ok(false) => return 0,
            Err(_) => return 1,
        }
        let received = match receive_with_files(socket, &mut message) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(_) => return 1,
        };
        if received.length == 0 && received.files.is_empty() {
            return 0;
        }
        let Some(bytes) = message.get(..received.length).filter(|_| !received.is_truncated) else {
            return 1;
        };
        let Ok((request, deadline)) = decode(bytes) else {
            return 1;
        };
        let files: Vec<BorrowedFd<'_>> = received.files.iter().map(AsFd::as_fd).collect();
        let [file, more @ ..] = files.as_slice() else {
            return 1;
        };
        if files.len() != request.files() {
            return 1;
        }
        // The server has given up on this request, and has told its caller so: carrying it out now would be wrong.
        // This agent was stopped for long, and another one has replaced it.
        if monotonic_ns() >= deadline || agent.answer(&request, *file, more).is_err() {
            return 1;
        }
    }
}

/// Waits for a message or the end of the connection. Returns `false` on a timeout.
fn wait(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut waited = [PollFd::new(socket, PollFlags::POLLIN)];
    match poll(&mut waited, PollTimeout::from(IDLE_TIMEOUT_MS)) {
        Ok(ready) => Ok(ready > 0),
        // A signal restarts the timeout.
        Err(Errno::EINTR) => Ok(true),
        Err(error) => Err(error),
    }
}

struct Agent<'a> {
    socket: BorrowedFd<'a>,
    permitted: u64,
    /// The capabilities that are effective now.
    effective: u64,
    buffer: Vec<u8>,
}

impl Agent<'_> {
    /// Executes the request and sends the reply. An error ends the agent.
    fn answer(&mut self, request: &Request<'_>, file: BorrowedFd<'_>, more: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        match *request {
            Request::Read { offset, len } => {
                let into = self.buffer.get_mut(..len as usize).ok_or(Errno::EINVAL)?;
                match read_at(file, into, offset) {
                    Ok(read) => {
                        let data = self.buffer.get(..read).ok_or(Errno::EIO)?;
                        let (result, len) = (count(read)?, count(read)?.cast_unsigned());
                        send(self.socket, [&reply_header(result, len), data], &[])
                    }
                    Err(errno) => self.reply(Err(errno)),
                }
            }
            Request::Write { nice, data } => {
                self.lend(nice)?;
                self.reply(write_once(file, data))
            }
            Request::Migrate { nice, number, seen } => {
                let memberships = more.first().ok_or(Errno::EINVAL)?;
                self.lend(nice)?;
                let into = self.buffer.get_mut(..MAX_WRITE + 1).ok_or(Errno::EINVAL)?;
                // Nothing that could come earlier stands between the check and the write.
                let result = match read_at(*memberships, into, 0) {
                    Ok(length) if into.get(..length) == Some(seen) => write_once(file, number),
                    Ok(_) => Ok(0),
                    Err(errno) => Err(errno),
                };
                self.reply(result)
            }
            Request::SetOwner { number } => self.reply(owner::set_owner_thread(file, number).map(|()| 0)),
            Request::GetOwners { .. } => {
                let mut numbers = Vec::new();
                for owned in std::iter::once(&file).chain(more) {
                    match owner::owner(*owned) {
                        Ok(number) => numbers.extend(number.to_ne_bytes()),
                        Err(errno) => return self.reply(Err(errno)),
                    }
                }
                let len = count(numbers.len())?;
                send(self.socket, [&reply_header(len, len.cast_unsigned()), &numbers], &[])
            }
        }
    }

    fn reply(&self, result: Result<usize, Errno>) -> Result<(), Errno> {
        let result = match result {
            Ok(done) => count(done)?,
            // The kernel's own number: cgroup files also return errnos that nix has no name for.
            Err(Errno::UnknownErrno) => -raw_errno(),
            Err(errno) => -(errno as i32),
        };
        send(self.socket, [&reply_header(result, 0)], &[])
    }

    /// Makes effective only the capabilities that are lent for a write: CAP_SYS_NICE if the request says so, and
    /// CAP_SYS_ADMIN if this agent was made for that.
    fn lend(&mut self, nice: bool) -> Result<(), Errno> {
        let lent = CAP_SYS_ADMIN | if nice { CAP_SYS_NICE } else { 0 };
        let wanted = lent & self.permitted;
        if wanted != self.effective {
            set_capabilities(self.permitted, wanted)?;
            self.effective = wanted;
        }
        Ok(())
    }
}

/// No other process reads through this file's position.
fn read_at(file: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
    retry(|| offset::read_at(file, into, offset))
}

pub(crate) fn write_once(file: BorrowedFd<'_>, data: &[u8]) -> Result<usize, Errno> {
    retry(|| offset::write_once(file, data))
}

/// A signal that the agent survives doesn't concern the request. A write to a cgroup file is a single transaction:
/// EINTR means that nothing was done.
fn retry(mut operation: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match operation() {
            Err(Errno::EINTR) => (),
            other => return other,
        }
    }
}

fn count(bytes: usize) -> Result<i32, Errno> {
    i32::try_from(bytes).map_err(|_| Errno::EOVERFLOW)
}

/// The calling thread's errno as a number.
fn raw_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
