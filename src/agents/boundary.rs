//! The server's side of making a cgroup namespace at a delegation boundary (`mount_helper::boundary`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mount_helper::boundary::{MESSAGE_LEN, Purpose, decode};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::HelperImage;
use super::connection::{deadline_in, wait_readable};
use crate::sys::{seqpacket, spawn};

/// How long the helper may take for each step. The container may freeze it in the boundary. On a machine that is very
/// busy a start of a process takes more than a second, and without the namespace the container is less contained.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// A process outside the boundary, which tests a cgroup namespace. Dropping this ends it.
#[derive(Debug)]
pub struct BoundaryHelper {
    socket: OwnedFd,
    /// The lifeline. Closing it makes the kernel send SIGKILL to the process, which also ends a frozen one.
    _lifeline: OwnedFd,
}

impl BoundaryHelper {
    /// Starts the process.
    ///
    /// # Errors
    /// The errors of fork and of execve.
    pub fn start(image: &HelperImage) -> Result<Self, Errno> {
        Self::start_helper(image, Purpose::Probe, &[])
    }

    /// Starts the process, and has it enter the boundary, make a cgroup namespace there, and return. `boundary` and `home` are the
    /// `cgroup.procs` of the boundary and of the cgroup that it returns to, open for writing.
    ///
    /// # Errors
    /// The kernel's, among them EBUSY if the boundary has controllers enabled for its children. ETIMEDOUT after five seconds.
    pub fn make_namespace(
        image: &HelperImage,
        boundary: BorrowedFd<'_>,
        home: BorrowedFd<'_>,
    ) -> Result<(OwnedFd, Self), Errno> {
        let helper = Self::start_helper(image, Purpose::Make, &[boundary, home])?;
        wait_readable(helper.socket.as_fd(), deadline_in(STEP_TIMEOUT))?;
        let mut message = [0; MESSAGE_LEN];
        let (length, namespace) = seqpacket::receive_with_file(helper.socket.as_fd(), &mut message)?;
        decode(message.get(..length).unwrap_or_default())?;
        Ok((namespace.ok_or(Errno::EPROTO)?, helper))
    }

    fn start_helper(image: &HelperImage, purpose: Purpose, more: &[BorrowedFd<'_>]) -> Result<Self, Errno> {
        let (socket, theirs) = seqpacket::seqpacket_pair()?;
        let (lifeline, own_lifeline) = pipe2(OFlag::O_CLOEXEC)?;
        let word = std::ffi::CString::new(purpose.word()).map_err(|_| Errno::EINVAL)?;
        let files: Vec<BorrowedFd<'_>> =
            [theirs.as_fd(), lifeline.as_fd()].into_iter().chain(more.iter().copied()).collect();
        spawn::spawn_image(image.program(), &[mount_helper::PROGRAM_NAME, c"boundary", &word], &files)?;
        Ok(Self { socket, _lifeline: own_lifeline })
    }

    /// Returns whether the kernel refuses to migrate the process through `file`, a membership file inside the
    /// boundary that was opened in a namespace which begins there. The process writes `0`, so nothing else can be
    /// migrated.
    ///
    /// # Errors
    /// Any other error of the kernel; ETIMEDOUT after five seconds.
    pub fn is_refused(self, file: BorrowedFd<'_>) -> Result<bool, Errno> {
        seqpacket::send(self.socket.as_fd(), [&[0; MESSAGE_LEN]], &[file])?;
        wait_readable(self.socket.as_fd(), deadline_in(STEP_TIMEOUT))?;
        let mut message = [0; MESSAGE_LEN];
        let received = seqpacket::receive(self.socket.as_fd(), &mut message, &mut [])?;
        match decode(received.and_then(|length| message.get(..length)).unwrap_or_default()) {
            Ok(()) => Ok(false),
            Err(Errno::ENOENT) => Ok(true),
            Err(errno) => Err(errno),
        }
    }
}
