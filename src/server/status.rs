//! The pipe by which a server reports to the process that started it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::records::descriptor;

/// One end of the pipe by which a server reports success or an error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusPipe {
    #[serde(with = "descriptor")]
    pipe: OwnedFd,
}

impl From<OwnedFd> for StatusPipe {
    fn from(pipe: OwnedFd) -> Self {
        Self { pipe }
    }
}

impl StatusPipe {
    /// Makes a pipe: the end that waits, and the end that reports.
    pub(crate) fn pair() -> Result<(StatusPipe, StatusPipe), Error> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|errno| Error::system("can't make a pipe", errno.into()))?;
        Ok((StatusPipe { pipe: read }, StatusPipe { pipe: write }))
    }

    /// The descriptor, for a process that only has to keep the end open.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Duplicates the end.
    pub(crate) fn share(&self) -> Result<Self, Error> {
        let pipe = self.pipe.try_clone().map_err(|error| Error::system("can't share a pipe", error))?;
        Ok(Self { pipe })
    }

    /// Waits until the other end has reported, or is closed. The report can still be read afterwards.
    pub(crate) fn wait_until_told(&self) {
        while poll(&mut [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) == Err(Errno::EINTR) {}
    }

    /// Reports success.
    pub(crate) fn ok(self) {
        let _ = File::from(self.pipe).write_all(&[0]);
    }

    /// Reports an error.
    pub(crate) fn failed(self, failed: &Error) {
        let text = failed.to_string();
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_ne_bytes();
        let report: [&[u8]; 3] = [&[failed.kind().to_byte()], &length, text.as_bytes()];
        let report = report.concat();
        let _ = File::from(self.pipe).write_all(&report);
    }

    /// Waits for the report of the other end.
    ///
    /// # Errors
    /// The error that it reports; also if it's closed without a report.
    pub(crate) fn wait(self) -> Result<(), Error> {
        self.wait_or("the server ended before the view was live")
    }

    /// The same, with other words for an end without a report.
    pub(crate) fn wait_or(self, ended: &str) -> Result<(), Error> {
        // It isn't read to its end: a server's keeper holds a copy of the other end.
        let mut pipe = File::from(self.pipe);
        let ended = |_| Error::failed(ended);
        let (mut kind, mut length) = ([0], [0; 4]);
        pipe.read_exact(&mut kind).map_err(ended)?;
        let [kind] = kind;
        if kind == 0 {
            return Ok(());
        }
        pipe.read_exact(&mut length).map_err(ended)?;
        let mut message = Vec::new();
        let _ = pipe.take(u64::from(u32::from_ne_bytes(length))).read_to_end(&mut message);
        Err(Error::new(ErrorKind::from_byte(kind), String::from_utf8_lossy(&message)))
    }
}
