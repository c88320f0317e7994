//! One `attach` or `detach` at a time and container.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};

use crate::error::Error;
use crate::server::registry::directory::Directory;

/// Held until it's dropped, or the process ends. A lock of the process and not of the open file: a server that's forked doesn't have it.
#[derive(Debug)]
pub(crate) struct ContainerLock(File);

/// The turn with another container as well, until this is dropped.
#[derive(Debug)]
pub(crate) struct SecondLock<'a> {
    lock: &'a ContainerLock,
    namespace: u64,
}

impl ContainerLock {
    /// Waits for its turn with the container whose mount namespace has this number. Others don't wait: a hostile container can keep whoever
    /// attaches to it busy for a while.
    pub(crate) fn acquire(namespace: u64) -> Result<Self, Error> {
        let failed = |error| Error::system("can't lock out another attach or detach", error);
        let file = Directory::make().and_then(|directory| directory.lock_file("attach.lock")).map_err(failed)?;
        let own = range(namespace, libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_SETLKW(&own)).map_err(|errno| failed(errno.into()))?;
        Ok(Self(file))
    }

    /// The turn with another container, if nobody has it. By the same open file: closing another one would unlock all.
    pub(crate) fn try_lock_other(&self, namespace: u64) -> Option<SecondLock<'_>> {
        fcntl(&self.0, FcntlArg::F_SETLK(&range(namespace, libc::F_WRLCK))).ok()?;
        Some(SecondLock { lock: self, namespace })
    }
}

impl Drop for SecondLock<'_> {
    fn drop(&mut self) {
        let _ = fcntl(&self.lock.0, FcntlArg::F_SETLK(&range(self.namespace, libc::F_UNLCK)));
    }
}

/// The byte that stands for a mount namespace.
fn range(namespace: u64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: namespace.cast_signed(),
        l_len: 1,
        l_pid: 0,
    }
}
