//! One agent, from its start to its end.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mount_helper::agent::ADMINISTRATOR;
use mount_helper::clock::monotonic_ns;
use mount_helper::request::{AgentStep, HELLO_LEN, Hello, MAX_READ, NUMBER_LEN, REPLY_HEADER, Request, decode_reply};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::{HelperImage, PidNamespace};
use crate::limit::LogLimiter;
use crate::sys::{seqpacket, spawn};

/// How long a request, or the start of an agent, may take. On a machine with all CPUs busy an agent was seen to wait
/// three seconds for a CPU.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the caller polls for a reply before it sleeps: somewhat longer than an agent takes for a short request.
/// Waking an idle CPU takes longer than the request itself. Without polling, a round trip takes two and a half times
/// as long on two CPUs, and the same on one.
const BUSY_POLL_TIMEOUT: Duration = Duration::from_micros(40);

/// The largest errno of the kernel.
const MAX_ERRNO: i32 = 4095;

/// The connection to an agent, which was alive when it was last used. Dropping this ends the agent.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    /// The lifeline. Closing it makes the kernel send SIGKILL to the agent, which holds the pipe's other end
    /// (see `mount_helper::agent`). No pid is involved, so the signal can't hit another process, and it ends a
    /// stopped agent as well. The lifeline is never copied into another process.
    _lifeline: OwnedFd,
}

/// Why a request has no valid reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgentFailure {
    /// The agent was gone before it received the request.
    NotDelivered,
    /// The agent ended after it had received the request, and may have carried it out.
    Died,
    /// The agent didn't reply in time, or sent a reply that no honest agent sends.
    NoValidReply,
}

impl Connection {
    /// Starts an agent in `namespace`, and waits for it until `deadline` (monotonic ns). An administrator has CAP_SYS_ADMIN while it writes.
    ///
    /// # Errors
    /// EACCES if the namespace isn't the server's or below it (or the server lacks CAP_SYS_ADMIN),
    /// EIO for everything else, with a warning in the log.
    pub(super) fn start(
        image: &HelperImage,
        namespace: &PidNamespace,
        is_administrator: bool,
        deadline: u64,
        log: &LogLimiter,
    ) -> Result<Self, Errno> {
        Self::try_start(image, namespace, is_administrator, deadline).map_err(|error| {
            if let Some(suppressed) = log.admit() {
                tracing::warn!(namespace = ?namespace.id(), %error, suppressed, "can't start a pid-namespace agent");
            }
            match error {
                StartError::Refused(AgentStep::EnterPid, Errno::EINVAL | Errno::EPERM) => Errno::EACCES,
                _ => Errno::EIO,
            }
        })
    }

    fn try_start(
        image: &HelperImage,
        namespace: &PidNamespace,
        is_administrator: bool,
        deadline: u64,
    ) -> Result<Self, StartError> {
        let (socket, theirs) = seqpacket::seqpacket_pair()?;
        let (lifeline, server_lifeline) = pipe2(OFlag::O_CLOEXEC)?;
        let mut words = vec![c"agent".to_owned()];
        if is_administrator {
            words.push(CString::new(ADMINISTRATOR).map_err(|_| Errno::EINVAL)?);
        }
        words.push(c"pid".to_owned());
        let mut files = vec![theirs.as_fd(), lifeline.as_fd(), namespace.as_fd()];
        for (kind, file) in image.namespaces() {
            words.push(CString::new(kind.word()).map_err(|_| Errno::EINVAL)?);
            files.push(file);
        }
        let arguments: Vec<&CStr> =
            std::iter::once(mount_helper::PROGRAM_NAME).chain(words.iter().map(CString::as_c_str)).collect();
        spawn::spawn_image(image.program(), &arguments, &files)?;
        // Now only the helper has these descriptors, so the server notices its end.
        drop((theirs, lifeline));

        let mut hello = [0; HELLO_LEN];
        wait_readable(socket.as_fd(), deadline)?;
        let received = seqpacket::receive(socket.as_fd(), &mut hello, &mut [])?;
        let bytes = received.and_then(|len| hello.get(..len)).unwrap_or_default();
        match Hello::decode(bytes).map_err(|_| StartError::System(Errno::EPROTO))? {
            Hello::Ready => Ok(Self { socket, _lifeline: server_lifeline }),
            Hello::Failed { step, errno } => Err(StartError::Refused(step, Errno::from_raw(errno))),
        }
    }

    /// Makes the agent carry out `request` on `files`. Data of the reply goes to `data`. The agent may reply no more
    /// data than fit, and no larger result if there is data.
    ///
    /// The inner error is the system call's own errno. `deadline` is in monotonic ns.
    pub(super) fn request(
        &self,
        request: &Request<'_>,
        files: &[BorrowedFd<'_>],
        data: &mut [u8],
        deadline: u64,
    ) -> Result<Result<usize, Errno>, AgentFailure> {
        let socket = self.socket.as_fd();
        let (header, [first, second]) = (request.header(deadline), request.payload());
        match seqpacket::send(socket, [&header, first, second], files) {
            Ok(()) => (),
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED | Errno::ENOTCONN) => {
                return Err(AgentFailure::NotDelivered);
            }
            Err(_) => return Err(AgentFailure::NoValidReply),
        }
        busy_poll(socket);
        wait_readable(socket, deadline).map_err(|_| AgentFailure::NoValidReply)?;
        let mut header = [0; REPLY_HEADER];
        let len = match seqpacket::receive(socket, &mut header, data) {
            Ok(Some(0)) => return Err(AgentFailure::Died),
            Ok(Some(len)) => len,
            // The kernel reports that the socket was closed with unread data in it. That data is the request, since
            // nothing else was under way.
            Err(Errno::ECONNRESET) => return Err(AgentFailure::NotDelivered),
            Ok(None) | Err(_) => return Err(AgentFailure::NoValidReply),
        };
        let data_len = len.checked_sub(REPLY_HEADER).ok_or(AgentFailure::NoValidReply)?;
        check_reply(request, header, data_len).ok_or(AgentFailure::NoValidReply)
    }
}

/// Returns the result in a reply, if an honest agent could have sent it.
fn check_reply(request: &Request<'_>, header: [u8; REPLY_HEADER], data_len: usize) -> Option<Result<usize, Errno>> {
    let (result, announced) = decode_reply(header);
    if announced as usize != data_len {
        return None;
    }
    let Ok(done) = usize::try_from(result) else {
        let legal = data_len == 0 && result >= -MAX_ERRNO;
        return legal.then(|| Err(errno(-result)));
    };
    let legal = match *request {
        Request::Read { len, .. } => done == data_len && done <= len as usize,
        Request::Migrate { number, .. } => data_len == 0 && done <= number.len(),
        Request::Write { data, .. } => data_len == 0 && done <= data.len(),
        Request::SetOwner { .. } => data_len == 0 && done == 0,
        Request::GetOwners { count } => done == data_len && done == count as usize * NUMBER_LEN,
    };
    legal.then_some(Ok(done))
}

/// Returns the errno with this number, or EIO for those that have no name (the kernel's internal ones).
pub(super) fn errno(number: i32) -> Errno {
    match Errno::from_raw(number) {
        Errno::UnknownErrno => Errno::EIO,
        known => known,
    }
}

/// Returns the length that one request may ask for with a buffer of this length.
pub(super) fn read_len(buffer: usize) -> usize {
    buffer.min(MAX_READ)
}

/// Returns the deadline after this span of time, in monotonic ns.
pub(super) fn deadline_in(time: Duration) -> u64 {
    monotonic_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Polls for a reply, up to [`BUSY_POLL_TIMEOUT`], without sleeping. The caller doesn't learn whether one came.
fn busy_poll(socket: BorrowedFd<'_>) {
    let end = deadline_in(BUSY_POLL_TIMEOUT);
    while monotonic_ns() < end {
        let mut watched = [PollFd::new(socket, PollFlags::POLLIN)];
        if poll(&mut watched, PollTimeout::ZERO) != Ok(0) {
            return;
        }
        // The agent may be waiting for this CPU.
        std::thread::yield_now();
    }
}

/// Waits until there's something to receive, which may be the end of the connection.
///
/// # Errors
/// ETIMEDOUT after the deadline.
pub(super) fn wait_readable(socket: BorrowedFd<'_>, deadline: u64) -> Result<(), Errno> {
    loop {
        let left = Duration::from_nanos(deadline.saturating_sub(monotonic_ns()));
        // Rounded up, so that the last part of a millisecond isn't a busy loop.
        let left = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut waited = [PollFd::new(socket, PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::from(left)) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => (),
            Err(error) => return Err(error),
        }
    }
}

/// Why an agent didn't start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    System(#[from] Errno),
    #[error("mount-helper failed at {0:?}: {1}")]
    Refused(AgentStep, Errno),
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
