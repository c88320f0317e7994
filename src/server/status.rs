//! How a server tells whoever started it how that went.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, ErrorKind};

/// The two ends by which a server tells whoever started it how it went.
#[derive(Debug)]
pub(crate) struct StatusPipe {
    pipe: OwnedFd,
}

impl StatusPipe {
    pub(crate) fn pair() -> Result<(StatusPipe, StatusPipe), Error> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|errno| Error::system("can't make a pipe", errno.into()))?;
        Ok((StatusPipe { pipe: read }, StatusPipe { pipe: write }))
    }

    /// The end that tells, for whoever only has to keep it open.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// The same end once more.
    pub(crate) fn share(&self) -> Result<Self, Error> {
        let pipe = self.pipe.try_clone().map_err(|error| Error::system("can't share a pipe", error))?;
        Ok(Self { pipe })
    }

    /// Waits until the other end has told something, or is closed, and takes nothing of what it told.
    pub(crate) fn wait_until_told(&self) {
        while poll(&mut [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) == Err(Errno::EINTR) {}
    }

    /// Tells that it went well.
    pub(crate) fn ok(self) {
        let _ = File::from(self.pipe).write_all(&[0]);
    }

    /// Tells what went wrong.
    pub(crate) fn failed(self, failed: &Error) {
        let _ = File::from(self.pipe).write_all(&[&[failed.kind().to_byte()], failed.to_string().as_bytes()].concat());
    }

    /// Waits for what the other end tells.
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
