//! Private mounts of the host's hierarchies, before Linux 5.2.
//!
//! Newer kernels copy a mount without attaching it ([`crate::sys::mount::detached`]). On older kernels a thread makes
//! a mount namespace for it. There it binds each hierarchy onto itself, without the mounts below, opens it, and
//! unmounts it again. The open mount is attached nowhere, and the namespace ends with the thread.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::fstat;

/// The stack of a thread that makes a few system calls, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// Opens the directory that is mounted on `point`.
pub(super) fn open_directory(point: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    File::options().read(true).custom_flags(flags).open(point)
}

/// Makes a detached mount for each mount point and the directory that is mounted there.
///
/// # Errors
/// `ENOSPC` if no mount namespace may be made (`user.max_mnt_namespaces`), `EPERM` without CAP_SYS_ADMIN; for each
/// mount `ESTALE` if something else is mounted there by now.
pub(super) fn mounts<'a>(
    places: impl Iterator<Item = (&'a Path, &'a OwnedFd)> + Send,
) -> io::Result<Vec<io::Result<OwnedFd>>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mounts".to_owned()).stack_size(STACK_BYTES);
        let made = thread.spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            Ok(places.map(|(point, directory)| bind(point, directory)).collect())
        });
        made?.join().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)))
    })
}

/// Binds a directory onto itself, in a mount namespace of the thread's own, and opens the bind mount.
fn bind(point: &Path, directory: &OwnedFd) -> io::Result<OwnedFd> {
    // From here on, mounts made here or on the host don't propagate to each other.
    mount(None::<&str>, point, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some(point), point, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let opened = open_directory(point);
    umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    let (opened, meant) = (OwnedFd::from(opened?), fstat(directory)?);
    let found = fstat(&opened)?;
    if (found.st_dev, found.st_ino) == (meant.st_dev, meant.st_ino) {
        Ok(opened)
    } else {
        Err(io::Error::from_raw_os_error(libc::ESTALE))
    }
}
