//! The stack: what a view looks like in `/sys/fs/cgroup`.
//!
//! ```text
//! /sys/fs/cgroup           tmpfs, read-only: clients that find a tmpfs here look for v1 hierarchies below
//! /sys/fs/cgroup/memory    the real hierarchy, read-only: clients look for its line in mountinfo
//! /sys/fs/cgroup/memory    the view's directory, in the same place: whoever comes here gets this
//! /sys/fs/cgroup/cpu       a symlink, where controllers are mounted together
//! ```
//!
//! It's made by mount(2) alone, so that it can be made on every kernel and on both sides: where
//! mounts can be moved between namespaces, in a namespace of the server's own, else in the
//! container's.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstat, mkdirat, umask};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{UnlinkatFlags, fchdir, symlinkat, unlinkat};

use super::flags::MountFlags;
use super::layout::MountSite;
use super::message::AttachStep;

/// What the tmpfs and the view are mounted from, as mountinfo shows it.
pub const MOUNT_SOURCE: &str = "vcgroupfs";
/// The view's filesystem type, as mountinfo shows it.
pub const VIEW_FSTYPE: &str = "fuse.vcgroupfs";

/// The components of `/sys/fs/cgroup`.
pub const SYS_FS_CGROUP: [&CStr; 3] = [c"sys", c"fs", c"cgroup"];

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSpec {
    /// The flags of the tmpfs, which is read-only besides.
    pub flags: MountFlags,
    /// The hierarchies.
    pub hierarchies: Vec<HierarchyMount>,
    /// Symlinks and where they lead, both single names.
    pub links: Vec<(CString, CString)>,
}

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HierarchyMount {
    /// Its directory, in the view and in the stack.
    pub directory: CString,
    /// What lies under the view.
    pub underlay: Underlay,
    /// Whether the view's mount is read-only.
    pub read_only: bool,
    /// The other flags of both mounts.
    pub flags: MountFlags,
}

/// Where the real hierarchy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Underlay {
    /// A v1 hierarchy or cgroup2, bound from where it's mounted in this mount namespace.
    Bind {
        /// The mount point.
        point: PathBuf,
        /// The cgroup below its root, relative.
        below: CString,
    },
    /// A v1 hierarchy that the host has mounted, mounted once more.
    Mount {
        /// Which one, as mount options.
        options: CString,
        /// The cgroup below its root, relative.
        below: CString,
    },
    /// There's none.
    None,
}

/// What went wrong.
pub type StepError = (AttachStep, Errno);

pub(super) fn failed_at(step: AttachStep) -> impl Fn(Errno) -> StepError {
    move |errno| (step, errno)
}

const PATH_ONLY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Where the view as a whole is while the stack is made, relative to the working directory. No spec has such a name.
const WHOLE_VIEW: &CStr = c".view";
/// The same for a hierarchy.
const WHOLE_HIERARCHY: &CStr = c".root";

/// Opens a directory by its name in another one. What is mounted on it is opened; a symlink isn't followed.
///
/// # Errors
/// ENOENT, ENOTDIR (also for a symlink).
pub fn open_below(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(directory, name, PATH_ONLY, Mode::empty())
}

pub(super) fn build(
    site: MountSite<'_>,
    spec: &StackSpec,
    device: BorrowedFd<'_>,
    mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<OwnedFd, StepError> {
    umask(Mode::from_bits_truncate(0o022));
    let top = mount_tmpfs(&site, spec.flags)?;
    let filled = fill(&top, site.depth, spec, device, mounted)
        .and_then(|()| seal(&top, spec.flags).map_err(failed_at(AttachStep::Seal)));
    if filled.is_err() {
        take_away(&top);
    }
    filled.map(|()| top)
}

/// Mounts a tmpfs on the site, and returns its root.
pub(super) fn mount_tmpfs(site: &MountSite<'_>, flags: MountFlags) -> Result<OwnedFd, StepError> {
    let below = open_below(site.parent, site.name).map_err(failed_at(AttachStep::Tmpfs))?;
    enter(&below).map_err(failed_at(AttachStep::Tmpfs))?;
    // Read-only comes last. Nobody but root of the initial user namespace can write here until then, and what that could change here
    // would be in its own container.
    mount(Some(MOUNT_SOURCE), ".", Some("tmpfs"), flags.for_mount(), Some("mode=0755,size=64k,nr_inodes=1k"))
        .map_err(failed_at(AttachStep::Tmpfs))?;
    let top = open_below(site.parent, site.name).map_err(failed_at(AttachStep::Tmpfs))?;
    let fresh =
        fstat(&top).and_then(|top| Ok(top.st_dev != fstat(&below)?.st_dev)).map_err(failed_at(AttachStep::Tmpfs))?;
    if !fresh {
        // Somebody has been quicker in taking it away again.
        return Err((AttachStep::Tmpfs, Errno::ESTALE));
    }
    Ok(top)
}

/// Unmounts the mount whose root this is, with all that is mounted below it.
pub(super) fn take_away(top: &OwnedFd) {
    let _ = enter(top).and_then(|()| umount2(".", MntFlags::MNT_DETACH));
}

/// Makes directories, each in the one before, and returns the last one.
pub(super) fn make_below(directory: &OwnedFd, names: &[&CStr]) -> Result<OwnedFd, Errno> {
    let mut place = directory.try_clone().map_err(|error| errno_of(&error))?;
    for name in names {
        make_directory(&place, name)?;
        place = open_below(place.as_fd(), name)?;
    }
    Ok(place)
}

fn enter(directory: &OwnedFd) -> Result<(), Errno> {
    fchdir(directory)
}

fn fill(
    top: &OwnedFd,
    depth: usize,
    spec: &StackSpec,
    device: BorrowedFd<'_>,
    mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<(), StepError> {
    let place = make_below(top, SYS_FS_CGROUP.get(depth..).unwrap_or_default()).map_err(failed_at(AttachStep::Fill))?;
    enter(&place).map_err(failed_at(AttachStep::Fill))?;
    make_directory(&place, WHOLE_VIEW).map_err(failed_at(AttachStep::Fill))?;
    make_directory(&place, WHOLE_HIERARCHY).map_err(failed_at(AttachStep::Fill))?;
    for hierarchy in &spec.hierarchies {
        make_directory(&place, &hierarchy.directory).map_err(failed_at(AttachStep::Fill))?;
    }
    for (name, target) in &spec.links {
        symlinkat(target.as_c_str(), &place, name.as_c_str()).map_err(failed_at(AttachStep::Fill))?;
    }
    mount_view(device, WHOLE_VIEW, MountFlags::HIERARCHY).map_err(failed_at(AttachStep::View))?;
    let view = open_below(place.as_fd(), WHOLE_VIEW).map_err(failed_at(AttachStep::View))?;
    mounted(view.as_fd()).map_err(failed_at(AttachStep::View))?;
    drop(view);
    for hierarchy in &spec.hierarchies {
        underlay(hierarchy).map_err(failed_at(AttachStep::Underlay))?;
        overlay(hierarchy).map_err(failed_at(AttachStep::Overlay))?;
    }
    umount2(WHOLE_VIEW, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(failed_at(AttachStep::View))?;
    for name in [WHOLE_VIEW, WHOLE_HIERARCHY] {
        unlinkat(AT_FDCWD, name, UnlinkatFlags::RemoveDir).map_err(failed_at(AttachStep::Fill))?;
    }
    Ok(())
}

fn make_directory(directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    mkdirat(directory, name, Mode::from_bits_truncate(0o755))
}

/// Mounts a connection to FUSE as a view. To be done in the initial user namespace, so that callers of all user namespaces may come in,
/// and in the server's pid namespace, in which the kernel then numbers the callers.
pub(super) fn mount_view(device: BorrowedFd<'_>, directory: &CStr, flags: MountFlags) -> Result<(), Errno> {
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
    mount(Some(MOUNT_SOURCE), directory, Some(VIEW_FSTYPE), flags.for_mount(), Some(options.as_str()))
}

/// Mounts the real hierarchy. It's read-only from the first moment on.
fn underlay(hierarchy: &HierarchyMount) -> Result<(), Errno> {
    let directory = hierarchy.directory.as_c_str();
    match &hierarchy.underlay {
        Underlay::None => return Ok(()),
        Underlay::Bind { point, below } => {
            // What the host has mounted on a cgroup would lead to another one: it isn't in a mount of the hierarchy alone.
            mount(Some(point), WHOLE_HIERARCHY, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            mount(None::<&str>, WHOLE_HIERARCHY, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
            bind_below(hierarchy, below)?;
        }
        Underlay::Mount { options, below } => {
            // The superblock is the host's, which no option of ours changes: read-only is this mount alone, and what is bound from it.
            let flags = hierarchy.flags.for_mount() | MsFlags::MS_RDONLY;
            mount(Some("cgroup"), WHOLE_HIERARCHY, Some("cgroup"), flags, Some(options.as_c_str()))?;
            bind_below(hierarchy, below)?;
        }
    }
    let kind = statfs(directory)?.filesystem_type();
    // Between finding the host's mount and now, something else may have come in its place.
    if kind == CGROUP_SUPER_MAGIC || kind == CGROUP2_SUPER_MAGIC { Ok(()) } else { Err(Errno::ESTALE) }
}

/// Binds a cgroup from the whole hierarchy, which isn't mounted any more then.
fn bind_below(hierarchy: &HierarchyMount, below: &CStr) -> Result<(), Errno> {
    let bound = bind(&beneath(WHOLE_HIERARCHY, below), &hierarchy.directory, hierarchy.flags, true);
    umount2(WHOLE_HIERARCHY, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    bound
}

/// Mounts the view's directory on the hierarchy.
fn overlay(hierarchy: &HierarchyMount) -> Result<(), Errno> {
    let HierarchyMount { directory, flags, read_only, .. } = hierarchy;
    bind(&beneath(WHOLE_VIEW, directory), directory, *flags, *read_only)
}

fn bind(source: &Path, directory: &CStr, flags: MountFlags, read_only: bool) -> Result<(), Errno> {
    mount(Some(source), directory, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let access = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags.for_mount() | access;
    mount(None::<&str>, directory, None::<&str>, flags, None::<&str>)
}

fn beneath(directory: &CStr, name: &CStr) -> PathBuf {
    let part = |name: &CStr| OsStr::from_bytes(name.to_bytes()).to_os_string();
    Path::new(&part(directory)).join(part(name))
}

/// Makes the tmpfs read-only, its superblock as well as this mount of it.
pub(super) fn seal(top: &OwnedFd, flags: MountFlags) -> Result<(), Errno> {
    enter(top)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags.for_mount();
    mount(None::<&str>, ".", None::<&str>, flags, None::<&str>)
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
