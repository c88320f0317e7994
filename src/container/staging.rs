//! Staging: the stack of mounts is built in a mount namespace of this command's own, on a directory in `/run`.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::fchdir;

use crate::agents::attach::{AttachHelperError, Layout, MountSite};
use crate::container::view_mounts::MOUNT_POINTS;
use crate::container::{DIRECTORY, lock_mounts};
use crate::error::Error;
use crate::fuse::Connection;
use crate::server::registry;
use crate::sys;

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::system(what, errno.into())
}

/// Whether this kernel can move mounts into another mount namespace, and lock them (Linux 5.2).
pub(crate) fn can_move_mounts() -> bool {
    let tried = File::open("/proc").and_then(|directory| sys::mount::detached(directory.as_fd(), false));
    !tried.is_err_and(|error| error.raw_os_error() == Some(libc::ENOSYS))
}

/// Enters a new mount namespace. Mounts in it are visible nowhere else. If the host's mounts are shared, the host's
/// unmounts propagate to it: otherwise the namespace would keep filesystems of others busy.
pub(crate) fn enter_own_namespace() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("can't make a mount namespace"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(failed("can't make the mounts slaves of the host's mounts"))
}

/// Builds the stack on the staging directory. It calls `mounted` with the view's root once the connection is mounted;
/// `mounted` returns when the view is served.
pub(crate) fn build(
    layout: &Layout,
    depth: usize,
    connection: &Connection,
    mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let directory = Path::new(registry::directory::DIRECTORY);
    let (Some(above), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(Error::failed("no directory to mount on"));
    };
    let name = CString::new(name.as_bytes()).map_err(|_| Error::failed("no directory to mount on"))?;
    let above = File::open(above).map_err(|error| Error::system("can't open /run", error))?;
    let proc = File::open("/proc").map_err(|error| Error::system("can't open /proc", error))?;
    let site = MountSite { parent: above.as_fd(), name: &name, depth, proc: proc.as_fd() };
    let mut told = Ok(());
    let built = layout.build(site, connection.as_fd(), |view| {
        told = mounted(view);
        if told.is_ok() { Ok(()) } else { Err(Errno::ECANCELED) }
    });
    told?;
    built.map_err(|(step, errno)| AttachHelperError::Failed { step, errno })?;
    Ok(())
}

/// Copies the stack. The copy is detached.
pub(crate) fn copy_tree() -> Result<OwnedFd, Error> {
    // Mounts and unmounts of the host in the hierarchies beneath mustn't propagate to the container.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, registry::directory::DIRECTORY, None::<&str>, private, None::<&str>)
        .map_err(failed("can't make the view's mounts private"))?;
    lock_mounts::copy_tree(Path::new(registry::directory::DIRECTORY))
        .map_err(|error| Error::system("can't copy the mounts", error))
}

/// Unmounts the stack in this namespace.
pub(crate) fn unmount() -> Result<(), Error> {
    umount2(registry::directory::DIRECTORY, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(failed("can't unmount the view that was tried out"))
}

/// Builds the stack in this namespace and moves it to `/sys/fs/cgroup`, in place of all mounts there. The working
/// directory and the umask of this process stay the same.
pub(crate) fn build_in_place(
    layout: &Layout,
    connection: &Connection,
    mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    registry::directory::Directory::make()
        .map_err(|error| Error::system("can't make a directory to mount on", error))?;
    let here = open_directory(".")?;
    let mask = umask(Mode::empty());
    let built = build(layout, MOUNT_POINTS.len(), connection, mounted);
    umask(mask);
    fchdir(&here).map_err(failed("can't go back to the working directory"))?;
    built?;
    let no_place = failed("can't move the mounts to /sys/fs/cgroup");
    if can_move_mounts() {
        let tree = copy_tree()?;
        umount2(registry::directory::DIRECTORY, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(&no_place)?;
        clear_mount_point()?;
        let place = open_directory(DIRECTORY)?;
        sys::mount::attach(tree.as_fd(), place.as_fd())
            .map_err(|errno| Error::system("can't move the mounts", errno.into()))
    } else {
        clear_mount_point()?;
        mount(Some(registry::directory::DIRECTORY), DIRECTORY, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(no_place)
    }
}

fn open_directory(name: &str) -> Result<File, Error> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let opened = File::options().read(true).custom_flags(flags).open(name);
    opened.map_err(|error| Error::system(format!("can't open {name}"), error))
}

/// Unmounts everything on and below `/sys/fs/cgroup` in this mount namespace. If the view is unmounted later, an empty directory shows.
pub(crate) fn clear_mount_point() -> Result<(), Error> {
    // Otherwise mounts and unmounts of the host on these directories would propagate, and cover or remove the view:
    // the kernel matches the directory alone.
    for place in MOUNT_POINTS {
        // EINVAL: the directory isn't a mount point.
        let _ = mount(None::<&str>, place, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>);
    }
    loop {
        match umount2(DIRECTORY, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL) => return Ok(()),
            Err(Errno::ENOENT) => {
                return Err(Error::failed(format!("there is no {DIRECTORY}")).advise("mount sysfs on /sys first"));
            }
            Err(errno) => return Err(failed("can't unmount the host's cgroups in the new namespace")(errno)),
        }
    }
}
