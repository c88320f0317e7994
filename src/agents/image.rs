//! The image of agents: a program that they can't change, and namespaces with nothing in them.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Error};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use mount_helper::agent::Namespace;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, chroot, gettid, pivot_root};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sys;

/// The mount point of the tmpfs, in a mount namespace of their own. This directory always exists, since nothing works
/// without /proc.
const SCRATCH: &str = "/proc";

/// The program image that agents are executed from, and the namespaces that they share.
///
/// A container that may ptrace an agent can open /proc/AGENT/exe. If it could write to that file, it would change the
/// program of every later agent (CVE-2019-5736). So agents are executed from a mount of their own, read-only and
/// detached, that contains only the program's file (Linux 5.12). Opening the file for writing is EROFS (ETXTBSY while
/// it runs), as are chmod and similar calls. The mount takes no memory, and an upgrade that replaces the program's
/// file doesn't affect it.
///
/// If that isn't possible, or if others than root may write to the program, the image is a copy, alone on a tmpfs
/// whose superblock is read-only. Nobody can make it writable again, since the tmpfs isn't mounted anywhere. (A
/// sealed memfd, the usual way, needs Linux 3.17, and is weaker: a process can open it for writing, which keeps
/// everybody from executing it, ETXTBSY, and can change its mode.)
///
/// The namespaces (mnt, net, ipc, uts) are made once and joined by every agent. Making them costs a millisecond or
/// more each time, and a mount namespace more for each mount of the host; joining costs microseconds. All that the
/// agents share through them is an empty read-only tmpfs.
#[derive(Debug)]
pub struct HelperImage {
    program: OwnedFd,
    namespaces: Vec<(Namespace, OwnedFd)>,
}

impl HelperImage {
    /// Makes the image from the program that runs now, which must be vcgroupfs.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN, ENOMEM; those of reading the program.
    pub fn new() -> io::Result<Self> {
        Self::from_program(Path::new("/proc/self/exe"))
    }

    /// Makes the image from another file, for tests.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_program(program: &Path) -> io::Result<Self> {
        let source = File::open(program)?;
        // Before the thread leaves its mount namespace.
        let in_place = in_place(&source);
        // A thread may leave its process' mount namespace for a new one. The namespace ends with the thread, but what
        // it made lives on through the descriptors that it returns.
        std::thread::Builder::new()
            .name("image".to_owned())
            .spawn(move || build(source, in_place))?
            .join()
            .map_err(|_| Error::other("the thread that makes the helper's image panicked"))?
    }

    /// Moves the calling thread, and everything that it starts, into the empty namespaces except for the mount
    /// namespace. There it has no network and no SysV IPC, but still reaches sockets in directories. Returns the
    /// namespaces that it couldn't join, with the errnos.
    pub fn enter_namespaces(&self) -> Vec<(&'static str, Errno)> {
        let apart = self.namespaces().filter(|(kind, _)| *kind != Namespace::Mnt);
        let failed = apart.filter_map(|(kind, file)| Some((kind.word(), setns(file, kind.flag()).err()?)));
        failed.collect()
    }

    /// Returns the program.
    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Returns the empty namespaces. `mnt` is always among them.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (Namespace, BorrowedFd<'_>)> {
        self.namespaces.iter().map(|(kind, file)| (*kind, file.as_fd()))
    }
}

/// An image isn't handed over: each program makes its own.
impl Serialize for HelperImage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_unit()
    }
}

impl<'a> Deserialize<'a> for HelperImage {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from)?;
        Self::new().map_err(|error| serde::de::Error::custom(format_args!("can't prepare the mount-helper: {error}")))
    }
}

/// Makes the image, in a thread that does nothing else.
fn build(source: File, in_place: Option<OwnedFd>) -> io::Result<HelperImage> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let mut kinds = vec![Namespace::Mnt];
    for kind in [Namespace::Net, Namespace::Ipc, Namespace::Uts] {
        match unshare(kind.flag()) {
            Ok(()) => kinds.push(kind),
            // The kernel was built without this kind, so there's nothing to separate. Or the administrator allows
            // none (a limit since Linux 4.9, where the agents' seccomp filter, which permits no sockets and no SysV
            // IPC, can't be bypassed).
            Err(Errno::EINVAL | Errno::ENOSPC) => (),
            Err(error) => return Err(error.into()),
        }
    }
    // Before Linux 3.17 only the longer path exists, which is wrong if /proc is another pid namespace's.
    let own = match Path::new("/proc/thread-self").try_exists()? {
        true => "/proc/thread-self/ns".to_owned(),
        false => format!("/proc/self/task/{}/ns", gettid()),
    };
    let namespaces = kinds
        .into_iter()
        .map(|kind| Ok((kind, File::open(format!("{own}/{}", kind.word()))?.into())))
        .collect::<io::Result<Vec<_>>>()?;
    // None of these mounts may propagate to the host.
    mount(none(), "/", none(), MsFlags::MS_REC | MsFlags::MS_PRIVATE, none())?;
    let program = match in_place {
        Some(program) => program,
        None => copy_program(source)?,
    };
    enter_empty_root(|| pivot_root(".", "."))?;
    Ok(HelperImage { program, namespaces })
}

/// Puts the program on a read-only mount of its own, if the kernel can do that, and if nobody can change the file
/// while it's in use. The server executes it as well, which prevents writes except on Linux 6.11 and 6.12.
fn in_place(program: &File) -> Option<OwnedFd> {
    let found = program.metadata().ok()?;
    let is_roots_alone = found.uid() == 0 && found.mode() & 0o022 == 0;
    if !is_roots_alone {
        return None;
    }
    sys::mount::read_only_file(program.as_fd()).ok()
}

/// Copies `source` to a tmpfs of its own, makes that read-only, and returns the copy.
fn copy_program(mut source: File) -> io::Result<OwnedFd> {
    // The exact size would suffice; the slack is for tmpfs' accounting of directories.
    let size = source.metadata()?.len().saturating_add(256 * 1024);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("size={size},mode=0755");
    mount(Some("tmpfs"), SCRATCH, Some("tmpfs"), flags, Some(options.as_str()))?;
    let path = format!("{SCRATCH}/{}", mount_helper::PROGRAM_NAME.to_string_lossy());
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path)?;
    io::copy(&mut source, &mut copy)?;
    copy.set_permissions(Permissions::from_mode(0o555))?;
    drop(copy);
    // Without MS_BIND this changes the superblock, not only this mount.
    let read_only = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none(), SCRATCH, none(), read_only, none())?;
    let program = File::open(&path)?;
    umount2(SCRATCH, MntFlags::MNT_DETACH)?;
    Ok(program.into())
}

/// Makes an empty read-only tmpfs the root of the calling thread's mount namespace, and removes all other mounts.
/// `pivot` calls pivot_root(".", "."); tests replace it.
fn enter_empty_root(pivot: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("size=4k,nr_inodes=2,mode=0555");
    mount(Some("vcgroupfs"), SCRATCH, Some("tmpfs"), flags, options)?;
    let read_only = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none(), SCRATCH, none(), read_only, none())?;
    chdir(SCRATCH)?;
    match pivot() {
        Ok(()) => {
            // The old root now lies on top of the new one, and "." is the old one.
            umount2(".", MntFlags::MNT_DETACH)?;
        }
        // The host runs from its initramfs, which pivot_root can't replace. Cover it instead: a thread that joins the
        // namespace starts at the topmost mount, and uncovering takes CAP_SYS_ADMIN.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", none(), MsFlags::MS_MOVE, none())?;
            chroot(".")?;
        }
        Err(error) => return Err(error.into()),
    }
    chdir("/")?;
    Ok(())
}

fn none() -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_root_also_where_pivoting_is_impossible() {
        if !nix::unistd::geteuid().is_root() {
            assert_ne!(std::env::var("VCGROUPFS_REQUIRE").as_deref(), Ok("all"), "needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        for pivoting in [true, false] {
            let listing = std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(none(), "/", none(), MsFlags::MS_REC | MsFlags::MS_PRIVATE, none())?;
                enter_empty_root(|| if pivoting { pivot_root(".", ".") } else { Err(Errno::EINVAL) })?;
                assert_eq!(std::env::current_dir()?, Path::new("/"));
                let written = File::create("/x").map(drop).map_err(|error| error.raw_os_error());
                assert_eq!(written, Err(Some(Errno::EROFS as i32)));
                Ok::<_, Error>(std::fs::read_dir("/..")?.count())
            })
            .join()
            .unwrap();
            assert_eq!(listing.unwrap(), 0, "pivoting: {pivoting}");
        }
    }
}
