//! A connection to the kernel's FUSE, and where it's mounted.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::cgroup::escaped;
use crate::sys;

/// The filesystem type, as mountinfo shows it.
pub const FSTYPE: &str = crate::cgroup::VIEW_FSTYPE;

/// The kernel cuts writes into pieces of this size. The first piece of a write that is too long for every file is
/// refused as the whole write would be (`E2BIG`), so the size needn't be larger.
pub(super) const MAX_WRITE: u32 = 64 * 1024;

/// A connection to the kernel's FUSE: mounted once, then served.
#[derive(Debug)]
pub struct Connection {
    pub(super) device: OwnedFd,
}

/// The error of mounting a view.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// `/dev/fuse` can't be opened.
    #[error("can't open /dev/fuse")]
    Device(#[source] io::Error),
    /// mount(2) failed.
    #[error("can't mount on {directory}")]
    Mount {
        /// The directory.
        directory: String,
        /// The error of mount(2).
        source: io::Error,
    },
}

impl Connection {
    /// Opens `/dev/fuse`.
    ///
    /// # Errors
    /// `ENOENT`, `ENODEV` or `ENXIO` where there's no FUSE, `EACCES` or `EPERM` without the right.
    pub fn open() -> Result<Self, MountError> {
        let device = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse");
        Ok(Self { device: device.map_err(MountError::Device)?.into() })
    }

    /// Duplicates the connection, for a process that mounts it where another one serves it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn share(&self) -> Result<Self, MountError> {
        Ok(Self { device: self.device.try_clone().map_err(MountError::Device)? })
    }

    /// Opens another channel of the connection, which has to be mounted. Reads of it don't block.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 4.2; those of opening `/dev/fuse`.
    pub(super) fn another_channel(&self) -> io::Result<OwnedFd> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let channel = File::options().read(true).write(true).custom_flags(flags).open("/dev/fuse")?;
        sys::fuse::join(channel.as_fd(), self.as_fd())?;
        Ok(channel.into())
    }

    /// Mounts it on a directory of the calling process' mount namespace.
    ///
    /// The caller has to be in the initial user namespace, so that callers of all user namespaces may enter
    /// (`allow_other`), and in the server's pid namespace, in which the kernel then numbers the callers.
    ///
    /// # Errors
    /// The error of mount(2); `EPERM` without CAP_SYS_ADMIN.
    pub fn mount(&self, directory: &Path) -> Result<(), MountError> {
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            self.device.as_raw_fd()
        );
        // A cgroupfs has the same flags: SB_I_NOEXEC and SB_I_NODEV.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("vcgroupfs"), directory, Some(FSTYPE), flags, Some(options.as_str()))
            .map_err(|errno| MountError::Mount { directory: escaped(directory), source: errno.into() })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.device.as_fd()
    }
}
