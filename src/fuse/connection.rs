//! A connection to the kernel's FUSE, and where it's mounted.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use fuser::{Config, Filesystem, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use super::negotiated::Negotiated;
use super::notify::notification::notification;
use crate::cgroup::escaped;
use crate::records::{Number, Records, descriptor};
use crate::sys;

/// The filesystem type, as mountinfo shows it.
pub const FSTYPE: &str = crate::cgroup::VIEW_FSTYPE;

/// The kernel cuts writes into pieces of this size. The first piece of a write that is too long for every file is
/// refused as the whole write would be (`E2BIG`), so the size needn't be larger.
pub(super) const MAX_WRITE: u32 = 64 * 1024;

/// A connection to the kernel's FUSE: mounted once, then served.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connection {
    #[serde(with = "descriptor")]
    pub(super) device: OwnedFd,
    /// The kernel's first request, once it was read.
    init: Option<Vec<u8>>,
}

/// `FUSE_NOTIFY_RESEND` of linux/fuse.h (Linux 6.9): a notification without content, which makes the kernel send all
/// requests again that were read and not answered.
const RESEND: i32 = 7;

/// Where the kernel's first request has its second word of flags, and the bit for `FUSE_HAS_RESEND` there.
const FLAGS2: usize = 56;
const HAS_RESEND: u32 = 1 << (39 - 32);

/// The longest request of the kernel's, and the longest first one.
const INIT_MAX: usize = 256;

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
        Ok(Self { device: device.map_err(MountError::Device)?.into(), init: None })
    }

    /// Duplicates the connection, for a process that mounts it where another one serves it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn share(&self) -> Result<Self, MountError> {
        Ok(Self { device: self.device.try_clone().map_err(MountError::Device)?, init: self.init.clone() })
    }

    /// Opens another channel of the connection, which has to be mounted. Reads of it don't block.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 4.2; those of opening `/dev/fuse`.
    pub(super) fn another_channel(&self) -> io::Result<OwnedFd> {
        self.channel(libc::O_NONBLOCK)
    }

    fn channel(&self, flags: i32) -> io::Result<OwnedFd> {
        let flags = libc::O_CLOEXEC | flags;
        let channel = File::options().read(true).write(true).custom_flags(flags).open("/dev/fuse")?;
        sys::fuse::join(channel.as_fd(), self.as_fd())?;
        Ok(channel.into())
    }

    /// Waits for the kernel's first request, which is kept for each server of the connection. It has to be mounted.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn meet(&mut self) -> io::Result<()> {
        if self.init.is_some() {
            return Ok(());
        }
        // The kernel gives requests only to a reader with room for the longest one.
        let mut request = vec![0; MAX_WRITE as usize + 4096];
        loop {
            match nix::unistd::read(&self.device, &mut request) {
                Ok(length) => {
                    self.init = Some(request.get(..length.min(INIT_MAX)).unwrap_or_default().to_vec());
                    return Ok(());
                }
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Whether the kernel can send requests again that a server has read and not answered (Linux 6.9).
    fn can_resend(&self) -> bool {
        let flags = self.init.as_ref().and_then(|init| init.get(FLAGS2..FLAGS2 + 4)?.try_into().ok());
        flags.is_some_and(|flags| u32::from_ne_bytes(flags) & HAS_RESEND != 0)
    }

    /// Whether another server can continue with the connection when one is killed: the requests that it had read
    /// are sent again, or, before Linux 6.9, fail. Before Linux 4.2 they would never be answered.
    pub fn can_be_resumed(&self) -> bool {
        self.can_resend() || self.another_channel().is_ok()
    }

    /// Makes the session of a server, which may not be the first one. fuser negotiates with a socket, to which this
    /// sends the kernel's first request, and reads from the kernel afterwards.
    pub(super) fn resume<F: Filesystem>(
        mut self,
        filesystem: F,
        config: Config,
        records: &Records,
    ) -> io::Result<Session<F>> {
        self.meet()?;
        let (kernel, server) = sys::seqpacket::seqpacket_pair()?;
        let before = Negotiated(records.negotiated());
        let init = before.bound(self.init.clone().unwrap_or_default());
        sys::seqpacket::send(kernel.as_fd(), [&init, &[], &[]], &[])?;
        let session = Session::from_fd(filesystem, server, SessionACL::All, config)?;
        let mut answer = [0; INIT_MAX];
        let length = sys::seqpacket::receive(kernel.as_fd(), &mut answer, &mut [])?.unwrap_or_default();
        let answer = answer.get(..length).unwrap_or_default();
        match nix::unistd::write(&self.device, answer) {
            Ok(_) => records.set_negotiated(answer),
            // An earlier server has answered it.
            Err(Errno::ENOENT) => before.check(answer)?,
            Err(errno) => return Err(errno.into()),
        }
        // What was read from a channel fails when it's closed.
        let channel = if self.can_resend() { None } else { self.channel(0).ok() };
        let source = channel.as_ref().unwrap_or(&self.device);
        sys::descriptors::copy_to(source.as_raw_fd(), session.as_fd().as_raw_fd())?;
        if records.get(Number::Starts) > 1 && self.can_resend() {
            nix::unistd::write(&self.device, &notification(RESEND, &[]))?;
        }
        Ok(session)
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
