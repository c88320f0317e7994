//! The open hierarchies of the host.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use serde::{Deserialize, Serialize};

use super::errno;
use super::opening::single_component;
use crate::cgroup::{CgroupPath, HierarchyKind, Setup, name_as_text};
use crate::fs::SysResult;
use crate::records::descriptor;

/// An open hierarchy of the host.
#[derive(Debug, Serialize, Deserialize)]
pub struct HostHierarchy {
    /// The kind of hierarchy.
    pub kind: HierarchyKind,
    /// The directory on which it's mounted.
    #[serde(with = "name_as_text")]
    pub mount_point: PathBuf,
    /// The name of its directory in a view.
    #[serde(with = "name_as_text")]
    pub directory: OsString,
    /// The symlinks to that directory, one per co-mounted controller.
    pub links: Vec<OsString>,
    #[serde(with = "descriptor")]
    pub(super) root: OwnedFd,
    #[serde(with = "descriptor::optional")]
    pub(super) root_for_reading: Option<OwnedFd>,
    /// The reason that the root is in the host's own mount, if it is.
    #[serde(with = "errno::optional")]
    pub(super) attached: Option<Errno>,
    pub(super) device: u64,
    pub(super) has_handles: bool,
    pub(super) has_cpuset: bool,
    pub(super) has_devices: bool,
}

impl HostHierarchy {
    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Its root directory for reading. If the kernel supports it (Linux 5.12), files that are opened through it can't
    /// be reopened for writing. Agents get such files, because a container with CAP_SYS_PTRACE can steal an agent's
    /// descriptors.
    pub fn root_for_reading(&self) -> BorrowedFd<'_> {
        self.root_for_reading.as_ref().unwrap_or(&self.root).as_fd()
    }

    /// Whether the root is in a private detached mount.
    pub fn is_detached(&self) -> bool {
        self.attached.is_none()
    }

    /// The `st_dev` of all its objects.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether the cpuset controller is bound to it.
    pub fn has_cpuset(&self) -> bool {
        self.has_cpuset
    }

    /// Whether the devices controller of cgroup v1 is bound to it.
    pub fn has_devices(&self) -> bool {
        self.has_devices
    }

    /// Whether its objects can be opened by their kernfs ids (Linux 5.5, with CAP_DAC_READ_SEARCH).
    pub fn has_handles(&self) -> bool {
        self.has_handles
    }
}

/// The host's hierarchies.
#[derive(Debug, Serialize, Deserialize)]
pub struct HostCgroups {
    /// The setup: legacy, hybrid or unified.
    pub setup: Setup,
    /// cgroup2 first, if there is one.
    pub hierarchies: Vec<HostHierarchy>,
}

/// The error that a hierarchy has no mount of the server's own.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't make a mount of hierarchy {hierarchy} for the server alone: {errno} (it takes root with CAP_SYS_ADMIN, and user.max_mnt_namespaces above 0); \
     by the host's own mount, what is mounted on a cgroup there would lead the server elsewhere"
)]
pub struct Attached {
    hierarchy: HierarchyKind,
    /// The errno that the kernel gave.
    pub errno: Errno,
}

impl HostCgroups {
    /// Checks that each hierarchy's root is in a mount of the server's own, in which nobody can mount anything.
    ///
    /// # Errors
    /// The first hierarchy without such a mount.
    pub fn check_detached(&self) -> Result<(), Attached> {
        let found = self.hierarchies.iter().find_map(|hierarchy| Some((&hierarchy.kind, hierarchy.attached?)));
        found.map_or(Ok(()), |(kind, errno)| Err(Attached { hierarchy: kind.clone(), errno }))
    }

    /// Opens a cgroup, component by component, without leaving the hierarchy's filesystem.
    ///
    /// # Errors
    /// `ENOENT` if it doesn't exist or is on another filesystem, `ENOTDIR` for a file.
    pub fn open_cgroup(&self, hierarchy: usize, path: &CgroupPath) -> nix::Result<OwnedFd> {
        let hierarchy = self.hierarchies.get(hierarchy).ok_or(nix::Error::ENOENT)?;
        let opened = walk(hierarchy, path.components())?;
        if nix::sys::stat::fstat(&opened)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(nix::Error::ENOTDIR);
        }
        Ok(opened)
    }
}

/// Opens (`O_PATH`) the object to which `names` lead from a hierarchy's root. There are no symlinks on a cgroupfs,
/// and objects on another filesystem count as missing. That is openat2's RESOLVE_BENEATH | RESOLVE_NO_XDEV |
/// RESOLVE_NO_SYMLINKS, on every kernel. A bind mount of another cgroup of the same hierarchy would pass for a
/// cgroup, but the mount of `root` is detached and has none.
pub(super) fn walk(hierarchy: &HostHierarchy, names: &[OsString]) -> SysResult<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = openat(hierarchy.root(), ".", flags | OFlag::O_DIRECTORY, Mode::empty())?;
    for name in names {
        at = openat(&at, single_component(name)?, flags, Mode::empty())?;
        if fstat(&at)?.st_dev != hierarchy.device() {
            return Err(Errno::ENOENT);
        }
    }
    Ok(at)
}
