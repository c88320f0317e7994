//! Attaches a view in a container's mount namespace, or detaches it.
//!
//! The server passes the namespace and the container's root. The helper follows no path of the container except three
//! plain names below that root. It opens what it finds, and mounts on the descriptor. It executes and reads nothing
//! of the container's, except that it checks whether a directory is empty, before it changes anything.
//!
//! The process is never in the container's pid namespace, and not dumpable.

mod build;
pub mod flags;
pub mod layout;
pub mod message;
pub mod mounts;
mod sentinel;
mod stack;
pub mod step;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::ExitCode;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::unistd::{fchdir, setsid};
use sys::capability::{CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_SYS_CHROOT, keep_capabilities};
use sys::descriptors::{close_from, inherited};
use sys::owner::signal_group_on_event;
use sys::seqpacket::{receive_with_files, send};

use crate::{check, privileges};
use layout::SYS_FS_CGROUP;
use message::{Location, MAX_ORDER, MountRequest, Report};
use mounts::{MountSite, device_of, mount_id, open_below};
use step::{AttachStep, StepError, failed_at};

/// The descriptor of the SOCK_SEQPACKET socket to the server.
pub const SOCKET_FD: RawFd = 3;
/// The descriptor of the lifeline: the reading end of a pipe whose writing end only the server has.
pub const LIFELINE_FD: RawFd = 4;
/// The descriptor of the container's mount namespace.
pub const NAMESPACE_FD: RawFd = 5;
/// The descriptor of the container's root directory.
pub const ROOT_FD: RawFd = 6;
/// The descriptor of the host's /proc.
pub const PROC_FD: RawFd = 7;
/// For `attach`, the descriptor of the liveness pipe: the writing end of a pipe that stays open as long as this process
/// exists.
pub const LIVENESS_PIPE_FD: RawFd = 8;

/// How long the server may take to send its order, in ms.
const ORDER_TIMEOUT_MS: u16 = 60_000;

/// The capabilities to join a mount namespace, to mount in it, and to search directories that only the container's
/// own users may search.
const CAPABILITIES: u64 = CAP_SYS_ADMIN | CAP_SYS_CHROOT | CAP_DAC_READ_SEARCH;

/// The task that the command line names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountTask {
    /// Locate the mount point, await the request, and carry it out.
    Attach,
    /// Unmount the mount on the mount point, if it's this one.
    Detach {
        /// How many components of `/sys/fs/cgroup` lead to the mount.
        depth: usize,
        /// Its `st_dev`, major and minor number.
        device: (u64, u64),
        /// Its id, as in mountinfo.
        mount: u64,
    },
}

impl MountTask {
    /// Parses the command line after the program's name. Returns `None` unless it's one that the server writes.
    pub fn from_words<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let task = match words.next()? {
            "attach" => Self::Attach,
            "detach" => {
                let depth = words.next()?.parse().ok().filter(|depth| (1..=SYS_FS_CGROUP.len()).contains(depth))?;
                let (major, minor) = words.next()?.split_once(':')?;
                let device = (major.parse().ok()?, minor.parse().ok()?);
                Self::Detach { depth, device, mount: words.next()?.parse().ok()? }
            }
            _ => return None,
        };
        words.next().is_none().then_some(task)
    }

    /// Returns the words that [`MountTask::from_words`] reads.
    #[must_use]
    pub fn words(self) -> Vec<String> {
        match self {
            Self::Attach => vec!["attach".to_owned()],
            Self::Detach { depth, device: (major, minor), mount } => {
                vec!["detach".to_owned(), depth.to_string(), format!("{major}:{minor}"), mount.to_string()]
            }
        }
    }
}

/// Does the task with the descriptors that the server left, and reports the result to the server.
pub(crate) fn start(task: MountTask) -> ExitCode {
    // This comes first, while no descriptor has an owner.
    let last = if task == MountTask::Attach { LIVENESS_PIPE_FD } else { PROC_FD };
    let closed = close_from(last + 1);
    let Some(socket) = inherited(SOCKET_FD) else {
        return ExitCode::from(2);
    };
    let done =
        closed.map_err(failed_at(AttachStep::Close)).and_then(|()| prepare(&socket)).and_then(|container| match task {
            MountTask::Attach => container.attach(&socket),
            MountTask::Detach { depth, device, mount } => container.detach(depth, device, mount),
        });
    let (report, status) = match done {
        Ok(()) => (Report::Done, 0),
        Err((step, errno)) => (Report::Failed { step, errno: errno as i32 }, 1),
    };
    let told = tell(&socket, report);
    ExitCode::from(if told.is_ok() { status } else { 1 })
}

fn tell(socket: &OwnedFd, report: Report) -> Result<(), Errno> {
    send(socket.as_fd(), [&report.encode()], &[])
}

/// The container, by the descriptors that the server passed, checked.
struct Target {
    /// Held as long as the process lives.
    _lifeline: OwnedFd,
    namespace: OwnedFd,
    root: OwnedFd,
    proc: OwnedFd,
}

fn prepare(socket: &OwnedFd) -> Result<Target, StepError> {
    // For containers that share the host's pid namespace: keeps processes without CAP_SYS_PTRACE in the *initial*
    // user namespace from tracing this process or opening its /proc files.
    prctl::set_dumpable(false).map_err(failed_at(AttachStep::Privileges))?;
    check::seqpacket(socket.as_fd()).map_err(failed_at(AttachStep::Check))?;
    let passed = |number| inherited(number).ok_or((AttachStep::Check, Errno::EBADF));
    let lifeline = passed(LIFELINE_FD)?;
    check::pipe(lifeline.as_fd()).map_err(failed_at(AttachStep::Check))?;
    let (namespace, root, proc) = (passed(NAMESPACE_FD)?, passed(ROOT_FD)?, passed(PROC_FD)?);
    check::namespace(namespace.as_fd()).map_err(failed_at(AttachStep::Check))?;
    check::directory(root.as_fd()).map_err(failed_at(AttachStep::Check))?;
    check::procfs(proc.as_fd()).map_err(failed_at(AttachStep::Check))?;
    // A filesystem of the container (FUSE in a user namespace) may never answer. The kernel sends SIGKILL once the
    // server closes its end of the pipe, or ends.
    setsid().map_err(failed_at(AttachStep::Lifeline))?;
    signal_group_on_event(lifeline.as_fd(), libc::SIGKILL).map_err(failed_at(AttachStep::Lifeline))?;
    let permitted = privileges::drop_all(CAPABILITIES).map_err(failed_at(AttachStep::Privileges))?;
    keep_capabilities(permitted).map_err(failed_at(AttachStep::Privileges))?;
    Ok(Target { _lifeline: lifeline, namespace, root, proc })
}

/// An open directory to mount on.
struct MountPoint {
    /// The directory that it's in.
    parent: OwnedFd,
    /// The directory itself.
    directory: OwnedFd,
    /// How many components of [`SYS_FS_CGROUP`] lead to it; at least one.
    depth: usize,
}

impl Target {
    fn attach(&self, socket: &OwnedFd) -> Result<(), StepError> {
        let place = self.find().map_err(failed_at(AttachStep::Find))?;
        let empty =
            place.depth == SYS_FS_CGROUP.len() || is_empty(&place.directory).map_err(failed_at(AttachStep::Find))?;
        let mount = mount_id(self.proc.as_fd(), &place.directory);
        tell(socket, Report::Location(Location { depth: place.depth as u32, empty, mount }))
            .map_err(failed_at(AttachStep::MountRequest))?;
        let (order, file) = receive(socket).map_err(failed_at(AttachStep::MountRequest))?;
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).map_err(failed_at(AttachStep::Enter))?;
        match order {
            MountRequest::Move => {
                sys::mount::attach(file.as_fd(), place.directory.as_fd()).map_err(failed_at(AttachStep::Move))
            }
            MountRequest::Build(layout) => {
                let name = SYS_FS_CGROUP.get(place.depth - 1).ok_or((AttachStep::MountRequest, Errno::EINVAL))?;
                let (parent, proc) = (place.parent.as_fd(), self.proc.as_fd());
                let site = MountSite { parent, name, depth: place.depth, proc };
                layout.build(site, file.as_fd(), |_| tell(socket, Report::Mounted)).map(drop)
            }
        }
    }

    fn detach(&self, depth: usize, device: (u64, u64), mount: u64) -> Result<(), StepError> {
        let place = self.find_at(depth).map_err(failed_at(AttachStep::Find))?;
        let found = mount_id(self.proc.as_fd(), &place.directory);
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).map_err(failed_at(AttachStep::Enter))?;
        let is_meant = match found {
            // The kernel doesn't tell (before 3.15).
            0 => fstat(&place.directory).map(|stat| (major(stat.st_dev), minor(stat.st_dev)) == device),
            // A stat would block on a view that isn't served, or no longer.
            id => device_of(self.proc.as_fd(), id).map(|found| id == mount && found == device),
        };
        if !is_meant.map_err(failed_at(AttachStep::Find))? {
            // Something else is mounted over it, or it's gone.
            return Err((AttachStep::Find, Errno::ESTALE));
        }
        // Unmount through the descriptor, so that it's the mount that was checked. A path into the view would need
        // the view's permission.
        let itself = format!("self/fd/{}", place.directory.as_raw_fd());
        fchdir(&self.proc)
            .and_then(|()| umount2(itself.as_str(), MntFlags::MNT_DETACH))
            .map_err(failed_at(AttachStep::Unmount))
    }

    /// Opens the deepest of `/sys`, `/sys/fs`, `/sys/fs/cgroup` that exists.
    fn find(&self) -> Result<MountPoint, Errno> {
        let mut place = self.find_at(1)?;
        while let Some(name) = SYS_FS_CGROUP.get(place.depth) {
            match open_below(place.directory.as_fd(), name) {
                Ok(directory) => place = MountPoint { parent: place.directory, directory, depth: place.depth + 1 },
                Err(Errno::ENOENT) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(place)
    }

    fn find_at(&self, depth: usize) -> Result<MountPoint, Errno> {
        let (parent, directory) = (self.root.try_clone(), self.root.try_clone());
        let (mut parent, mut directory) = (parent.map_err(|_| Errno::EMFILE)?, directory.map_err(|_| Errno::EMFILE)?);
        for name in SYS_FS_CGROUP.get(..depth).unwrap_or_default() {
            let next = open_below(directory.as_fd(), name)?;
            parent = std::mem::replace(&mut directory, next);
        }
        Ok(MountPoint { parent, directory, depth })
    }
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::from_fd(openat(directory, ".", flags, Mode::empty())?)?;
    for entry in listing.iter() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for the request and its descriptor.
fn receive(socket: &OwnedFd) -> Result<(MountRequest, OwnedFd), Errno> {
    loop {
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(ORDER_TIMEOUT_MS)) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => break,
            Err(Errno::EINTR) => (),
            Err(errno) => return Err(errno),
        }
    }
    let mut message = [0; MAX_ORDER];
    let mut received = receive_with_files(socket.as_fd(), &mut message)?;
    let bytes = message.get(..received.length).filter(|_| !received.is_truncated).ok_or(Errno::EMSGSIZE)?;
    let order = MountRequest::decode(bytes).map_err(|_| Errno::EBADMSG)?;
    let file = received.files.pop().filter(|_| received.files.is_empty()).ok_or(Errno::EBADMSG)?;
    check_file(&order, file.as_fd())?;
    Ok((order, file))
}

fn check_file(order: &MountRequest, file: BorrowedFd<'_>) -> Result<(), Errno> {
    match order {
        MountRequest::Move => check::directory(file),
        MountRequest::Build(_) => check::fuse_device(file),
    }
}

#[cfg(test)]
mod tests {
    use super::MountTask;

    #[test]
    fn command_line_is_a_closed_set() {
        let parse = |line: &str| MountTask::from_words(line.split_whitespace());
        for task in [MountTask::Attach, MountTask::Detach { depth: 3, device: (0, 4_000_000_000), mount: 71 }] {
            assert_eq!(parse(&task.words().join(" ")), Some(task));
        }
        for line in [
            "",
            "attach x",
            "detach",
            "detach 3",
            "detach 3 0:1",
            "detach 0 0:1 7",
            "detach 4 0:1 7",
            "detach 3 0 7",
            "detach 3 0:-1 7",
            "detach 3 0:1 -7",
            "detach 3 0:1 7 x",
            "mount",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
