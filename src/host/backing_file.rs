//! Open files of the backing cgroupfs.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::cgroup_namespace::OpenedIn;
use super::pid_list::OpenerPidList;
use crate::fs::SysResult;
use crate::sys::offset::{read_at, write_once};

/// An open backing file.
#[derive(Debug)]
pub struct BackingFile {
    pub(super) fd: OwnedFd,
    pub(super) opened_in: OpenedIn,
    /// Held for operations that use the file position: some files can't be read or written at an offset.
    position: Mutex<()>,
    /// The list as its opener sees it, if the content depends on the opener.
    pub(super) list: Option<OpenerPidList>,
}

impl BackingFile {
    pub(super) fn new(fd: OwnedFd, opened_in: OpenedIn, list: Option<OpenerPidList>) -> Self {
        Self { fd, opened_in, position: Mutex::new(()), list }
    }

    /// Reads at an offset.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        match nix::sys::uio::pread(&self.fd, buffer, offset) {
            Err(Errno::ESPIPE) => {
                let _alone = self.position.lock();
                read_at(&self.fd, buffer, offset.unsigned_abs())
            }
            other => other,
        }
    }

    /// Writes once. Agents write through the same file, but only pid lists, and those can be read at an offset on
    /// every kernel.
    pub(super) fn write_once(&self, data: &[u8]) -> SysResult<usize> {
        match nix::sys::uio::pwrite(&self.fd, data, 0) {
            Err(Errno::ESPIPE) => {
                let _alone = self.position.lock();
                write_once(&self.fd, data)
            }
            other => other,
        }
    }
}
