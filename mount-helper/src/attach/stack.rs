//! The stack: the layout of a view in `/sys/fs/cgroup` of a legacy or hybrid host.
//!
//! ```text
//! /sys/fs/cgroup           tmpfs, read-only: clients that find a tmpfs here look for v1 hierarchies below
//! /sys/fs/cgroup/memory    the real hierarchy, read-only: clients look for its line in mountinfo
//! /sys/fs/cgroup/memory    the view's directory, mounted over it: this is what paths lead to
//! /sys/fs/cgroup/cpu       a symlink, where controllers are mounted together
//! ```
//!
//! It's made with mount(2) alone, so that it works on every kernel and on both sides: in a namespace of the server's
//! own if the kernel can move mounts between namespaces, else in the container's.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::flags::MountFlags;
use super::layout::{HierarchyMount, SYS_FS_CGROUP, StackSpec, Underlay};
use super::mounts::{
    MountSite, enter, make_below, make_directory, mount_tmpfs, mount_view, open_below, seal, take_away,
};
use super::step::{AttachStep, StepError, failed_at};

/// The mount point of the whole view while the stack is built, relative to the working directory. No layout uses such
/// a name.
const WHOLE_VIEW: &CStr = c".view";
/// The mount point of a whole hierarchy, likewise.
const WHOLE_HIERARCHY: &CStr = c".root";

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

/// Mounts the real hierarchy, read-only from the start.
fn underlay(hierarchy: &HierarchyMount) -> Result<(), Errno> {
    let directory = hierarchy.directory.as_c_str();
    match &hierarchy.underlay {
        Underlay::None => return Ok(()),
        Underlay::Bind { point, below } => {
            // Mounts of the host below a cgroup could lead to another one. A bind of the hierarchy alone doesn't
            // include them.
            mount(Some(point), WHOLE_HIERARCHY, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            mount(None::<&str>, WHOLE_HIERARCHY, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
            bind_below(hierarchy, below)?;
        }
        Underlay::Mount { options, below } => {
            // The superblock is the host's, and no option changes it: only this mount is read-only, and the binds
            // from it.
            let flags = hierarchy.flags.for_mount() | MsFlags::MS_RDONLY;
            mount(Some("cgroup"), WHOLE_HIERARCHY, Some("cgroup"), flags, Some(options.as_c_str()))?;
            bind_below(hierarchy, below)?;
        }
    }
    let kind = statfs(directory)?.filesystem_type();
    // Something else may have replaced the host's mount since it was found.
    if kind == CGROUP_SUPER_MAGIC || kind == CGROUP2_SUPER_MAGIC { Ok(()) } else { Err(Errno::ESTALE) }
}

/// Binds a cgroup from the whole hierarchy, and unmounts the whole.
fn bind_below(hierarchy: &HierarchyMount, below: &CStr) -> Result<(), Errno> {
    let bound = bind(&beneath(WHOLE_HIERARCHY, below), &hierarchy.directory, hierarchy.flags, true);
    umount2(WHOLE_HIERARCHY, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    bound
}

/// Binds the view's directory over the hierarchy.
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
