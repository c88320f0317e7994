//! The sentinel: the layout of a view in `/sys/fs/cgroup` of a unified host.
//!
//! ```text
//! /sys/fs/cgroup                     a real cgroup, read-only, without processes and limits: clients ask statfs, and get cgroup2
//! /sys/fs/cgroup/cgroup.controllers  the view's file: what the host has, and not the sentinel
//! /sys/fs/cgroup/cpu.stat            and all other files: those of the container's own cgroup, read-only, as in a cgroup namespace
//! /sys/fs/cgroup/machine.slice       the view's directory, on a real one of the same path: from here on all is the view's
//! ```
//!
//! The sentinel's root is also the root of all these mounts, so that they appear and disappear together. They are
//! made with mount(2) and descriptors alone: a process that has a directory open can mount beneath the mount on it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstatat, umask};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::fchdir;

use super::flags::MountFlags;
use super::layout::{SYS_FS_CGROUP, SentinelSource, SentinelSpec};
use super::mounts::{MountSite, make_below, mount_id, mount_tmpfs, mount_view, open_below, seal, take_away};
use super::step::{AttachStep, StepError, failed_at};

/// The number of the initial cgroup namespace (`PROC_CGROUP_INIT_INO`).
const INITIAL: u64 = 0xEFFF_FFFB;

/// The mount point when it's the working directory.
const HERE: &CStr = c".";

pub(super) fn build(
    site: MountSite<'_>,
    sentinel: &SentinelSpec,
    device: BorrowedFd<'_>,
    mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<OwnedFd, StepError> {
    umask(Mode::from_bits_truncate(0o022));
    let Some((name, between)) = SYS_FS_CGROUP.get(site.depth..).and_then(<[_]>::split_last) else {
        return cover(site, sentinel, device, mounted);
    };
    let top = mount_tmpfs(&site, MountFlags::TMPFS)?;
    let built = make_below(&top, between)
        .and_then(|parent| make_below(&parent, &[*name]).map(|_| parent))
        .map_err(failed_at(AttachStep::Fill))
        .and_then(|parent| cover(MountSite { parent: parent.as_fd(), name, ..site }, sentinel, device, mounted))
        .and_then(|_| seal(&top, MountFlags::TMPFS).map_err(failed_at(AttachStep::Seal)));
    if built.is_err() {
        take_away(&top);
    }
    built.map(|()| top)
}

/// Mounts the sentinel on the mount point, and the view in it.
fn cover(
    site: MountSite<'_>,
    sentinel: &SentinelSpec,
    device: BorrowedFd<'_>,
    mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<OwnedFd, StepError> {
    let below = open_below(site.parent, site.name).map_err(failed_at(AttachStep::Underlay))?;
    underlay(&site, &below, sentinel).map_err(failed_at(AttachStep::Underlay))?;
    let top = newly_mounted(&site, &below).map_err(failed_at(AttachStep::Underlay))?;
    let filled = check(&top, sentinel)
        .map_err(failed_at(AttachStep::Underlay))
        .and_then(|()| fill(&site, &top, sentinel, device, mounted));
    if filled.is_err() {
        take_away(&top);
    }
    filled.map(|()| top)
}

fn underlay(site: &MountSite<'_>, below: &OwnedFd, sentinel: &SentinelSpec) -> Result<(), Errno> {
    match &sentinel.underlay {
        SentinelSource::Bind(path) => {
            fchdir(below)?;
            mount(Some(path), HERE, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        }
        SentinelSource::Namespace => {
            // In the initial namespace, a new mount of cgroup2 would change options of the host.
            if fstatat(site.proc, "self/ns/cgroup", AtFlags::empty())?.st_ino == INITIAL {
                return Err(Errno::EPERM);
            }
            match mount_on(below, sentinel.flags) {
                // A filesystem can't be mounted on itself: the container has cgroup2 there. A bind is possible.
                Err(Errno::EBUSY) if site.depth == SYS_FS_CGROUP.len() => bind_by_detour(site, below, sentinel.flags),
                mounted => mounted,
            }
        }
    }
}

fn mount_on(directory: impl AsFd, flags: MountFlags) -> Result<(), Errno> {
    fchdir(directory)?;
    mount(Some("cgroup2"), HERE, Some("cgroup2"), flags.for_mount() | MsFlags::MS_RDONLY, None::<&str>)
}

/// Mounts the sentinel on the parent directory, `/sys/fs`, binds it from there, and unmounts it again.
fn bind_by_detour(site: &MountSite<'_>, below: &OwnedFd, flags: MountFlags) -> Result<(), Errno> {
    let above = site.parent.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    mount_on(&above, flags)?;
    let mounted = open_below(site.parent, c"../fs")?;
    if mount_id(site.proc, &mounted) == mount_id(site.proc, &above) {
        // Somebody has just unmounted it again.
        return Err(Errno::ESTALE);
    }
    let bound = fchdir(site.proc).and_then(|()| bind(&mounted, below));
    take_away(&mounted);
    bound
}

/// Opens the new mount on the mount point, where `below` was before.
fn newly_mounted(site: &MountSite<'_>, below: &OwnedFd) -> Result<OwnedFd, Errno> {
    let top = open_below(site.parent, site.name)?;
    // Somebody may have just unmounted it again.
    match (mount_id(site.proc, &top), mount_id(site.proc, below)) {
        (new, old) if new != old && new != 0 => Ok(top),
        _ => Err(Errno::ESTALE),
    }
}

fn check(top: &OwnedFd, sentinel: &SentinelSpec) -> Result<(), Errno> {
    if fstatfs(top)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        // Something else may have replaced the host's mount since it was found.
        return Err(Errno::ESTALE);
    }
    if matches!(sentinel.underlay, SentinelSource::Bind(_)) {
        fchdir(top)?;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | sentinel.flags.for_mount();
        mount(None::<&str>, HERE, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Mounts the view over the whole sentinel, binds parts of it into the sentinel, and unmounts the whole again.
fn fill(
    site: &MountSite<'_>,
    top: &OwnedFd,
    sentinel: &SentinelSpec,
    device: BorrowedFd<'_>,
    mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<(), StepError> {
    let place = walk(top, &sentinel.shown).map_err(failed_at(AttachStep::Underlay))?;
    fchdir(top).and_then(|()| mount_view(device, HERE, sentinel.flags)).map_err(failed_at(AttachStep::View))?;
    let view = newly_mounted(site, top).map_err(failed_at(AttachStep::View))?;
    mounted(view.as_fd()).map_err(failed_at(AttachStep::View))?;
    let shown = walk(&view, &sentinel.shown).map_err(failed_at(AttachStep::Overlay))?;
    fchdir(site.proc).map_err(failed_at(AttachStep::Overlay))?;
    bind(&shown, &place).map_err(failed_at(AttachStep::Overlay))?;
    let own = walk(&view, &sentinel.own).map_err(failed_at(AttachStep::Overlay))?;
    for name in files_of(top).map_err(failed_at(AttachStep::Overlay))? {
        let is_the_hosts = sentinel.files.contains(&name);
        let from = if is_the_hosts { &view } else { &own };
        let flags = if is_the_hosts { None } else { Some(sentinel.flags.for_mount() | MsFlags::MS_RDONLY) };
        cover_file(from, top, &name, flags).map_err(failed_at(AttachStep::Overlay))?;
    }
    fchdir(&view).and_then(|()| umount2(HERE, MntFlags::MNT_DETACH)).map_err(failed_at(AttachStep::View))
}

/// Lists the interface files of a cgroup.
fn files_of(cgroup: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut directory = Dir::openat(cgroup, c".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        let entry = entry?;
        if entry.file_type() == Some(Type::File) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Covers a file of the sentinel, which says nothing about the container, by another file. `flags` are the mount's,
/// unless they are the view's.
fn cover_file(from: &OwnedFd, top: &OwnedFd, name: &CStr, flags: Option<MsFlags>) -> Result<(), Errno> {
    let file = |directory: &OwnedFd| openat(directory, name, FILE, Mode::empty());
    let shown = match file(from) {
        // A file of a controller that the container doesn't have; the sentinel's shows nothing either.
        Err(Errno::ENOENT) => return Ok(()),
        shown => shown?,
    };
    bind(&shown, &file(top)?)?;
    let Some(flags) = flags else { return Ok(()) };
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
    let mounted = file(top)?;
    mount(None::<&str>, format!("self/fd/{}", mounted.as_raw_fd()).as_str(), None::<&str>, flags, None::<&str>)
}

const FILE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opens a directory below another one, name by name.
fn walk(directory: &OwnedFd, path: &CStr) -> Result<OwnedFd, Errno> {
    let mut place = directory.try_clone().map_err(|_| Errno::EMFILE)?;
    for name in path.to_bytes().split(|byte| *byte == b'/') {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        place = open_below(place.as_fd(), &name)?;
    }
    Ok(place)
}

/// Binds `source` to `target`. The working directory must be procfs.
fn bind(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let path = |file: &OwnedFd| format!("self/fd/{}", file.as_raw_fd());
    mount(Some(path(source).as_str()), path(target).as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
}
