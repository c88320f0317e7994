//! Keeps two commands from attaching to a container, or detaching from it, at the same time.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};

use crate::error::Error;
use crate::server::registry::directory::Directory;

/// The lock of one container, held until it's dropped or the process ends. The process owns it, not the open file, so
/// a forked server doesn't hold it.
#[derive(Debug)]
pub(crate) struct ContainerLock(File);

/// The additional lock of another container, held until it's dropped.
#[derive(Debug)]
pub(crate) struct SecondLock<'a> {
    lock: &'a ContainerLock,
    namespace: u64,
}

impl ContainerLock {
    /// Waits for the lock of the container whose mount namespace has this number. Each container has its own, since a
    /// hostile one can delay a command that attaches to it.
    pub(crate) fn acquire(namespace: u64) -> Result<Self, Error> {
        let failed = |error| Error::system("can't lock out another attach or detach", error);
        let file = Directory::make().and_then(|directory| directory.lock_file("attach.lock")).map_err(failed)?;
        let own = range(namespace, libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_SETLKW(&own)).map_err(|errno| failed(errno.into()))?;
        Ok(Self(file))
    }

    /// Takes the lock of another container, too, if it's free. It uses the same open file: closing another one would
    /// release all locks.
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

/// The byte of the lock file that stands for a mount namespace.
fn range(namespace: u64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: namespace.cast_signed(),
        l_len: 1,
        l_pid: 0,
    }
}
