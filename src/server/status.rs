//! The pipe by which a server reports to the process that started it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, ErrorKind};

/// One end of the pipe by which a server reports success or an error.
#[derive(Debug)]
pub(crate) struct StatusPipe {
    pipe: OwnedFd,
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
        let _ = File::from(self.pipe).write_all(&[&[failed.kind().to_byte()], failed.to_string().as_bytes()].concat());
    }

    /// Waits for the report of the other end.
    ///
    /// # Errors
    /// The error that it reports; also if it's closed without a report.
    pub(crate) fn wait(self) -> Result<(), Error> {
        let mut told = Vec::new();
        let read = File::from(self.pipe).read_to_end(&mut told);
        match (read, told.split_first()) {
            (Ok(_), Some((0, _))) => Ok(()),
            (Ok(_), Some((kind, message))) => {
                Err(Error::new(ErrorKind::from_byte(*kind), String::from_utf8_lossy(message)))
            }
            _ => Err(Error::failed("the server ended before the view was live")),
        }
    }
}
