//! A copy of a container's mount namespace, in which `attach --dry-run` tries a view. Mounts in it are visible
//! nowhere else and end with the copy.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, chroot, fchdir, pipe2, read, write};

use crate::cgroup::parse_mountinfo;
use crate::container::handle::ContainerHandle;
use crate::error::Error;
use crate::sys;

/// A process that keeps the copy alive. Dropping this ends both.
#[derive(Debug)]
pub(crate) struct MountNamespaceCopy {
    pid: Pid,
    /// The process ends when this is closed.
    _stay: OwnedFd,
}

impl MountNamespaceCopy {
    /// Copies the mounts of a container.
    pub(crate) fn start(container: &ContainerHandle) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::system("can't copy the container's mounts", errno.into());
        let (told, tells) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (waits, stay) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let forked = sys::process::fork();
        match forked.map_err(|error| Error::system("can't copy the container's mounts", error))? {
            ForkResult::Child => {
                drop((told, stay));
                // A copy of the command's pipes in this process would keep their readers waiting.
                let kept = [container.namespace(), container.root(), waits.as_fd(), tells.as_fd()];
                let closed = sys::descriptors::close_all_but(&kept);
                let closed = closed.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
                let copied = closed.and_then(|()| copy_mounts(container));
                let word = copied.map_or_else(|errno| errno as i32, |()| 0);
                let _ = write(&tells, &word.to_ne_bytes());
                // It waits until it's killed, or until its parent ends.
                while copied.is_ok() && read(&waits, &mut [0]) == Err(Errno::EINTR) {}
                std::process::exit(1);
            }
            ForkResult::Parent { child } => {
                drop((tells, waits));
                let copy = Self { pid: child, _stay: stay };
                read_errno(&told).map_err(failed)?;
                // Checked before the first mount: in a shared mount it would appear in the container, too.
                let mounts = copy.open("mountinfo", OFlag::O_RDONLY).map_err(failed)?;
                let mut text = Vec::new();
                std::fs::File::from(mounts)
                    .read_to_end(&mut text)
                    .map_err(|error| Error::system("can't see the copied mounts", error))?;
                if parse_mountinfo(&text).iter().any(|mount| mount.shared.is_some()) {
                    return Err(Error::failed("the copy of the container's mounts shares them with the container"));
                }
                Ok(copy)
            }
        }
    }

    /// Mounts a tree on `place` in the copy.
    pub(crate) fn mount_tree(&self, tree: BorrowedFd<'_>, place: &str) -> Result<(), Error> {
        let failed = |errno: Errno| Error::system(format!("can't mount the view on {place} in the copy"), errno.into());
        let mounts = self.open("ns/mnt", OFlag::O_RDONLY).map_err(failed)?;
        let root = self.open("root", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(failed)?;
        let (told, tells) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let forked = sys::process::fork();
        match forked.map_err(|error| Error::system("can't mount the view in the copy", error))? {
            ForkResult::Child => {
                let put = || -> Result<(), Errno> {
                    setns(&mounts, CloneFlags::CLONE_NEWNS)?;
                    fchdir(&root)?;
                    chroot(".")?;
                    let place = open(place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
                    sys::mount::attach(tree, place.as_fd())
                };
                let word = put().map_or_else(|errno| errno as i32, |()| 0);
                let _ = write(&tells, &word.to_ne_bytes());
                std::process::exit(0);
            }
            ForkResult::Parent { child } => {
                drop(tells);
                let heard = read_errno(&told);
                while waitpid(child, None) == Err(Errno::EINTR) {}
                heard.map_err(failed)
            }
        }
    }

    fn open(&self, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        open(format!("/proc/{}/{name}", self.pid).as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }
}

/// Reads the errno that a child writes; 0 means success.
fn read_errno(told: &OwnedFd) -> Result<(), Errno> {
    let mut word = [0; 4];
    match read(told, &mut word)? {
        4 => match i32::from_ne_bytes(word) {
            0 => Ok(()),
            number => Err(Errno::from_raw(number)),
        },
        _ => Err(Errno::ECHILD),
    }
}

impl Drop for MountNamespaceCopy {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

/// Enters the container's mount namespace, and then a copy of it.
fn copy_mounts(container: &ContainerHandle) -> Result<(), Errno> {
    prctl::set_dumpable(false)?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    setns(container.namespace(), CloneFlags::CLONE_NEWNS)?;
    // The root of the namespace stays the root directory until all mounts are private, since that call needs a mount
    // point. unshare(2) moves root and working directory to the copy, while a descriptor would still lead to the
    // container's mounts.
    fchdir(container.root())?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    chroot(".")
}

/// Waits, with a limit, until the server of an unmounted view has ended, and warns if it hasn't. `socket` is a
/// connection whose other end the server alone has.
pub(crate) fn wait_for_server_end(socket: BorrowedFd<'_>) {
    const SERVER_END_TIMEOUT_MS: u16 = 5000;
    let mut server = [PollFd::new(socket, PollFlags::empty())];
    if poll(&mut server, PollTimeout::from(SERVER_END_TIMEOUT_MS)) == Ok(0) {
        tracing::warn!("the server of the dry run hasn't ended: 'vcgroupfs list' shows it");
    }
}
