//! Whom to look at.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::cli::error::{FAILED, Failed};

/// A process that is held by its directory in /proc, which never comes to mean another one.
#[derive(Debug)]
pub(in crate::cli) struct Target {
    pub(in crate::cli) pid: i32,
    directory: OwnedFd,
}

impl Target {
    /// The calling process without a number.
    pub(in crate::cli) fn open(pid: Option<i32>) -> Result<Self, Failed> {
        let path = pid.map_or_else(|| "/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let directory = File::open(&path).map_err(|error| match (pid, error.kind()) {
            (Some(pid), io::ErrorKind::NotFound) => Failed::new(FAILED, format!("there is no process {pid}")),
            _ => Failed::system(format_args!("can't open {path}"), error),
        })?;
        Ok(Self { pid: pid.unwrap_or(std::process::id().cast_signed()), directory: directory.into() })
    }

    /// The same once more, with a descriptor of its own.
    pub(in crate::cli) fn share(&self) -> io::Result<Self> {
        Ok(Self { pid: self.pid, directory: self.directory.try_clone()? })
    }

    /// Opens something in its directory.
    pub(in crate::cli) fn open_file(&self, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
        Ok(openat(self.directory.as_fd(), name, flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// Which namespace of this kind it's in; `None` where the kernel has no such.
    pub(in crate::cli) fn namespace(&self, kind: &str) -> io::Result<Option<u64>> {
        let link = match readlinkat(self.directory.as_fd(), format!("ns/{kind}").as_str()) {
            Err(nix::errno::Errno::ENOENT) => return Ok(None),
            link => link?,
        };
        // `kind:[number]`
        let number = link.to_str().and_then(|link| link.split_once(":[")?.1.strip_suffix(']')?.parse().ok());
        number.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
