//! One `attach` or `detach` at a time and container.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

use crate::cli::error::Failed;
use crate::cli::registry;

/// Held until it's dropped, or the process ends. A lock of the process and not of the open file: a server that's forked doesn't have it.
#[derive(Debug)]
pub(in crate::cli) struct Lock(#[expect(dead_code, reason = "closing it unlocks")] File);

impl Lock {
    /// Waits for its turn with the container whose mount namespace has this number. Others don't wait: a hostile container can keep whoever
    /// attaches to it busy for a while.
    pub(in crate::cli) fn take(namespace: u64) -> Result<Self, Failed> {
        let failed = |error| Failed::system("can't lock out another attach or detach", error);
        registry::make_directory().map_err(failed)?;
        let path = Path::new(registry::DIRECTORY).join("attach.lock");
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        let own = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: namespace.cast_signed(),
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLKW(&own)).map_err(|errno| failed(errno.into()))?;
        Ok(Self(file))
    }
}
