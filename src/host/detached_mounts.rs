//! Mounts of the host's hierarchies that are nobody else's, before Linux 5.2.
//!
//! Newer kernels copy a mount without attaching it anywhere ([`crate::sys::mount::detached`]). Older ones take a mount namespace for it, which a
//! thread makes and ends with: there each hierarchy is bound onto itself, without what is mounted below, and unmounted again as soon as it's held
//! open. What is held then is attached nowhere, and nothing is left of the namespace.

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

/// Makes, for each mount point and the directory that is mounted there, a mount of the same directory that is attached nowhere.
///
/// # Errors
/// `ENOSPC` where no mount namespace may be made (`user.max_mnt_namespaces`), `EPERM` without CAP_SYS_ADMIN; of each mount `ESTALE` if something else
/// is mounted there by now.
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

/// Binds a directory onto itself, in a mount namespace of the thread's own, and opens what is bound.
fn bind(point: &Path, directory: &OwnedFd) -> io::Result<OwnedFd> {
    // From here on neither the host nor this thread sees what the other mounts here.
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
