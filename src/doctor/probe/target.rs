//! The process to probe.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::error::Error;

/// The number of the first cgroup namespace (`PROC_CGROUP_INIT_INO` of linux/proc_ns.h).
const INITIAL_CGROUP_NAMESPACE: u64 = 0xefff_fffb;

/// Whether the number of a cgroup namespace isn't that of the host's.
pub(crate) fn is_own_cgroup_namespace(number: u64) -> bool {
    number != INITIAL_CGROUP_NAMESPACE
}

/// A process, held by its directory in /proc, which never refers to another one later.
#[derive(Debug)]
pub(crate) struct ProbeTarget {
    pub(crate) pid: i32,
    directory: OwnedFd,
    /// The directory of a process whose mounts and root are used instead.
    stand_in: Option<OwnedFd>,
}

impl ProbeTarget {
    /// Opens the process with this id, or the calling process.
    pub(crate) fn open(pid: Option<i32>) -> Result<Self, Error> {
        let path = pid.map_or_else(|| "/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let directory = File::open(&path).map_err(|error| match (pid, error.kind()) {
            (Some(pid), io::ErrorKind::NotFound) => Error::failed(format!("there is no process {pid}")),
            _ => Error::system(format_args!("can't open {path}"), error),
        })?;
        Ok(Self { pid: pid.unwrap_or(std::process::id().cast_signed()), directory: directory.into(), stand_in: None })
    }

    /// The same process with the mount namespace and root directory of another one.
    pub(crate) fn with_mounts_of(self, pid: i32) -> Result<Self, Error> {
        Ok(Self { stand_in: Some(Self::open(Some(pid))?.directory), ..self })
    }

    /// Duplicates it, with its descriptors.
    pub(crate) fn share(&self) -> io::Result<Self> {
        let stand_in = self.stand_in.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Self { pid: self.pid, directory: self.directory.try_clone()?, stand_in })
    }

    /// Opens something in its directory.
    pub(crate) fn open_file(&self, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let directory = match (&self.stand_in, name) {
            (Some(stand_in), "mountinfo" | "root" | "ns/mnt") => stand_in,
            _ => &self.directory,
        };
        Ok(openat(directory, name, flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// Its descriptors.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(self.directory.as_fd()).chain(self.stand_in.iter().map(AsFd::as_fd)).collect()
    }

    /// The number of its namespace of a kind; `None` if the kernel has no such namespaces.
    pub(crate) fn namespace(&self, kind: &str) -> io::Result<Option<u64>> {
        let directory = self.stand_in.as_ref().filter(|_| kind == "mnt").unwrap_or(&self.directory);
        let link = match readlinkat(directory, format!("ns/{kind}").as_str()) {
            Err(nix::errno::Errno::ENOENT) => return Ok(None),
            link => link?,
        };
        // The link's text is `kind:[number]`.
        let number = link.to_str().and_then(|link| link.split_once(":[")?.1.strip_suffix(']')?.parse().ok());
        number.map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}
