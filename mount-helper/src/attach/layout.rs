//! What a view looks like in `/sys/fs/cgroup`: one layout for hosts with v1 hierarchies, one for those without.

use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::sentinel::{self, SentinelSpec};
use super::stack::{self, StackSpec, StepError};

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// For legacy and hybrid hosts.
    Stack(StackSpec),
    /// For unified hosts.
    Sentinel(SentinelSpec),
}

/// Where to make it: the directory `name` of `parent`, which is the one of `/sys/fs/cgroup`'s components that has `SYS_FS_CGROUP[depth..]` left to
/// be made.
#[derive(Debug, Clone, Copy)]
pub struct MountSite<'a> {
    /// The directory that it's in.
    pub parent: BorrowedFd<'a>,
    /// Its name.
    pub name: &'a std::ffi::CStr,
    /// How many components of `/sys/fs/cgroup` lead to it.
    pub depth: usize,
    /// The host's procfs.
    pub proc: BorrowedFd<'a>,
}

/// The mount that a descriptor is on, by `/proc/self/fdinfo` (Linux 3.15) of the host's procfs: the container's isn't to be trusted, and a
/// view that isn't served yet can't be asked. 0 where the kernel doesn't tell.
pub(super) fn mount_id(proc: BorrowedFd<'_>, file: &OwnedFd) -> u64 {
    let name = format!("self/fdinfo/{}", file.as_raw_fd());
    let read = || {
        let info = openat(proc, name.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let text = std::io::read_to_string(std::fs::File::from(info)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
    };
    read().unwrap_or(0)
}

/// The device, major and minor number, of the mount with this id in this process' mount namespace, by mountinfo of the host's procfs.
pub(super) fn device_of(proc: BorrowedFd<'_>, mount: u64) -> Result<(u64, u64), Errno> {
    let info = openat(proc, "self/mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    // Names in there can be any bytes.
    std::fs::File::from(info).read_to_end(&mut text).map_err(|_| Errno::EIO)?;
    device_in(&String::from_utf8_lossy(&text), mount).ok_or(Errno::ESTALE)
}

/// A line begins with the mount's id, that of the one beneath, and the device.
fn device_in(mountinfo: &str, mount: u64) -> Option<(u64, u64)> {
    mountinfo.lines().find_map(|line| {
        let mut words = line.split(' ');
        words.next()?.parse().ok().filter(|id: &u64| *id == mount)?;
        let (major, minor) = words.nth(1)?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

impl Layout {
    /// Makes it from a connection to FUSE. `mounted` is called with the view's root once the connection is mounted; from then on it has to be
    /// served.
    ///
    /// Returns the root of the topmost mount. The working directory and the umask are changed.
    ///
    /// # Errors
    /// What failed; everything is unmounted then.
    pub fn build(
        &self,
        site: MountSite<'_>,
        device: BorrowedFd<'_>,
        mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<OwnedFd, StepError> {
        match self {
            Self::Stack(spec) => stack::build(site, spec, device, mounted),
            Self::Sentinel(sentinel) => sentinel::build(site, sentinel, device, mounted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::device_in;

    #[test]
    fn device_of_a_mount() {
        let mountinfo =
            "20 1 0:8 / / rw - tmpfs tmpfs rw\n201 20 0:4000000000 / /20 rw - fuse.vcgroupfs vcgroupfs rw\n";
        assert_eq!(device_in(mountinfo, 20), Some((0, 8)));
        assert_eq!(device_in(mountinfo, 201), Some((0, 4_000_000_000)));
        assert_eq!(device_in(mountinfo, 1), None);
    }
}
