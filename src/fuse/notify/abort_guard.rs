//! The process that refuses requests once the server is killed.
//!
//! The kernel ends a connection when its last channel is closed. But a thread that tells it to forget an entry waits
//! for the directory's lock, even if it's killed, and the holder of that lock may wait for the server's answer. So
//! this thread has a channel and a descriptor table of its own ([`super::invalidation`]). When the server is killed,
//! its own channel is closed, which ends all requests that were read from it. Unread requests remain, and more come.
//! The abort guard refuses them, and does nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, read, write};
use serde::{Deserialize, Serialize};

use crate::fuse::connection::{Connection, MAX_WRITE};
use crate::fuse::notify::notification::error_message;
use crate::records::descriptor;
use crate::sys;

/// The server's handle of its abort guard, which waits until this is closed.
#[derive(Debug, Serialize, Deserialize)]
pub struct AbortGuard {
    process: i32,
    /// The end of a pipe that is open in the server's descriptor table.
    #[serde(with = "descriptor")]
    server: OwnedFd,
    /// The notifier's channel.
    #[serde(with = "descriptor")]
    pub(in crate::fuse) channel: OwnedFd,
    /// A pipe that stays open in the notifier's descriptor table.
    #[serde(with = "descriptor")]
    pub(in crate::fuse) notifier: OwnedFd,
}

impl AbortGuard {
    /// Starts the abort guard of a mounted connection that the calling process will serve. The calling process must
    /// have a single thread. The new process, which needs only its open descriptors, calls `give_up` to drop its
    /// rights.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 4.2; those of opening `/dev/fuse`, of pipe(2) and of fork(2).
    pub fn start(connection: &Connection, give_up: impl FnOnce()) -> io::Result<Self> {
        let (own, channel) = (connection.another_channel()?, connection.another_channel()?);
        let (server_ends, server) = pipe2(OFlag::O_CLOEXEC)?;
        let (notifier_ends, notifier) = pipe2(OFlag::O_CLOEXEC)?;
        match sys::process::fork()? {
            ForkResult::Parent { child } => Ok(Self { process: child.as_raw(), server, channel, notifier }),
            ForkResult::Child => {
                let _ = prctl::set_name(c"abort guard");
                let files = [own.as_fd(), server_ends.as_fd(), notifier_ends.as_fd()];
                if let Ok([channel, server_ends, notifier_ends]) = sys::descriptors::take_files(files)
                    && leave_output().is_ok()
                {
                    give_up();
                    let _ = wait_for_end(&server_ends);
                    let _ = refuse(&channel, &notifier_ends);
                }
                std::process::exit(0)
            }
        }
    }

    /// The process. It ends once the descriptors are closed.
    pub fn process(&self) -> Pid {
        Pid::from_raw(self.process)
    }

    /// The numbers of the descriptors.
    pub fn descriptors(&self) -> [RawFd; 3] {
        [&self.server, &self.channel, &self.notifier].map(AsRawFd::as_raw_fd)
    }
}

/// Closes standard input and output, so that readers of the server's output don't wait for this process.
fn leave_output() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    Ok(dup2_stderr(null.as_fd())?)
}

/// Waits for a pipe's end. Nobody writes to it, so it ends when the last descriptor table with its other end is gone.
fn wait_for_end(pipe: &OwnedFd) -> Result<(), Errno> {
    loop {
        match read(pipe, &mut [0]) {
            Err(Errno::EINTR) => {}
            end => return end.map(drop),
        }
    }
}

/// Refuses all requests until the notifier ends. After that no channel is left, and the kernel itself refuses
/// requests.
fn refuse(channel: &OwnedFd, notifier_ends: &OwnedFd) -> Result<(), Errno> {
    // The kernel gives requests only to a reader with room for the longest one.
    let mut request = vec![0; MAX_WRITE as usize + 4096];
    loop {
        let mut ready =
            [PollFd::new(channel.as_fd(), PollFlags::POLLIN), PollFd::new(notifier_ends.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        let [_, ended] = ready.map(|file| file.any().unwrap_or(true));
        if ended {
            return Ok(());
        }
        match read(channel, &mut request) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOENT) => continue,
            Err(errno) => return Err(errno),
        }
        if let Some(answer) = refusal(&request) {
            // ENOENT: the request needs no answer, or its caller is gone.
            let _ = write(channel, &answer);
        }
    }
}

/// Makes a `fuse_out_header` with an error, for a request that begins with a `fuse_in_header`, whose number is at byte 8 (linux/fuse.h).
fn refusal(request: &[u8]) -> Option<[u8; 16]> {
    let number = request.get(8..16)?.try_into().ok()?;
    Some(error_message(u64::from_ne_bytes(number), libc::ECONNABORTED))
}
