//! A handle to a running container: its process, mount namespace and root directory, held open so that they can't
//! come to mean another container's.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Membership, MountEntry, escaped, parse_memberships, parse_mountinfo};
use crate::error::Error;
use crate::host::mount_id;
use crate::records::descriptor;
use crate::sys;

/// A container, given by one of its processes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerHandle {
    pid: i32,
    /// The process' directory in /proc, which never comes to mean another process.
    #[serde(with = "descriptor")]
    pub(super) process: OwnedFd,
    /// A pidfd, which becomes readable when the process ends; `None` before Linux 5.3.
    #[serde(with = "descriptor::optional")]
    pub(super) end: Option<OwnedFd>,
    #[serde(with = "descriptor")]
    mounts: OwnedFd,
    number: u64,
    #[serde(with = "descriptor")]
    root: OwnedFd,
    /// The path of the root directory, as long as the process hasn't made it its root.
    pub(super) prefix: Option<OsString>,
}

impl ContainerHandle {
    /// Opens the container of a process.
    ///
    /// # Errors
    /// If there's no such process, if it's in the mount namespace of this command or of the host, or if it can't be opened.
    pub(crate) fn open(pid: i32) -> Result<Self, Error> {
        let failed = |what: &str| {
            let what = format!("can't {what} of process {pid}");
            move |errno: Errno| match errno {
                Errno::ENOENT | Errno::ESRCH => Error::failed(what).because("it has ended"),
                Errno::EACCES | Errno::EPERM => Error::system(what, errno.into()).advise("run it as root of the host"),
                errno => Error::system(what, errno.into()),
            }
        };
        let process = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(format!("/proc/{pid}"))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::failed(format!("there is no process {pid}")),
                _ => Error::system(format!("can't open /proc/{pid}"), error),
            })?;
        let process = OwnedFd::from(process);
        let end = sys::pidfd::open(pid).ok();
        let open = |name: &str, flags| openat(&process, name, flags | OFlag::O_CLOEXEC, Mode::empty());
        let mounts = open("ns/mnt", OFlag::O_RDONLY).map_err(failed("open the mount namespace"))?;
        let number = fstat(&mounts).map_err(failed("look at the mount namespace"))?.st_ino;
        let root = open("root", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(failed("open the root directory"))?;
        if is_kernel_thread(&process) {
            return Err(Error::failed(format!("process {pid} is a thread of the kernel, not in a container")));
        }
        for (whose, path) in [("this command's", "/proc/self/ns/mnt"), ("the host's", host_mount_namespace())] {
            if File::open(path).is_ok_and(|own| fstat(&own).is_ok_and(|own| own.st_ino == number)) {
                let what = format!("process {pid} is in {whose} own mount namespace, not in a container");
                return Err(Error::failed(what).advise(format!("use 'vcgroupfs mount --pid {pid} DIR'")));
            }
        }
        Ok(Self { pid, process, end, mounts, number, root, prefix: None })
    }

    /// The same container with `directory` as its root. An OCI runtime calls its hooks before the process makes that its root
    /// (pivot_root(2)), or after it (`poststart`).
    ///
    /// # Errors
    /// If `directory` isn't a mount point in the container's mount namespace.
    pub(crate) fn with_root(self, directory: &Path) -> Result<Self, Error> {
        let what = format!("can't open the container's root {} in its mount namespace", escaped(directory));
        let failed = |error: io::Error| Error::system(&what, error);
        // Resolve symlinks on the host: followed in the container's namespace, an absolute one would also lead to the
        // host's directories.
        let directory = std::fs::canonicalize(directory).map_err(failed)?;
        let number = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
        let entered = fstat(&self.root).map(number).map_err(|errno| failed(errno.into()))?;
        if nix::sys::stat::stat(&directory).is_ok_and(|there| number(there) == entered) {
            return Ok(self);
        }
        let mut root = self.root.try_clone().map_err(failed)?;
        for component in directory.components() {
            if let Component::Normal(name) = component {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                root = openat(&root, name, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
            }
        }
        let id = mount_id(&root).map_err(failed)?;
        let is_root = |mount: &MountEntry| mount.id == id && mount.mount_point == directory.as_os_str();
        if !self.mountinfo().iter().any(is_root) {
            let cause = format!("nothing is mounted there in the mount namespace of process {}", self.pid);
            let what = format!("{} isn't the container's root directory", escaped(&directory));
            return Err(Error::failed(what).because(cause));
        }
        Ok(Self { root, prefix: Some(directory.into_os_string()), ..self })
    }

    /// The path of its root directory, if its process hasn't entered that yet.
    pub(crate) fn new_root(&self) -> Option<&OsStr> {
        self.prefix.as_deref()
    }

    /// Fails if the process has ended: objects that were found by its number since may belong to another process.
    pub(crate) fn check_still_running(&self) -> Result<(), Error> {
        let ended = |_| Error::failed(format!("process {} has ended meanwhile", self.pid));
        self.read("stat").map(drop).map_err(ended)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The inode number of its mount namespace.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Returns the mounts of its namespace, with paths as its process sees them. Empty if the process has ended.
    pub(crate) fn mountinfo(&self) -> Vec<MountEntry> {
        parse_mountinfo(&self.read("mountinfo").unwrap_or_default())
    }

    /// Returns the cgroups of its process. Empty if the process has ended.
    pub(crate) fn memberships(&self) -> Vec<Membership> {
        parse_memberships(&self.read("cgroup").unwrap_or_default())
    }

    /// Whether cgroup2 is mounted in its mount namespace.
    pub(crate) fn mounts_v2(&self) -> bool {
        self.mountinfo().iter().any(|mount| mount.fstype == "cgroup2")
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = openat(&self.process, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut File::from(file), &mut text)?;
        Ok(text)
    }
}

/// Whether a process is one of the kernel's threads. They have no program, and all are in the host's namespaces.
fn is_kernel_thread(process: &OwnedFd) -> bool {
    matches!(readlinkat(process, "exe"), Err(Errno::ENOENT))
}

/// The link to the host's mount namespace. Process 1 may be unreadable, even for root. Where process 2 is the kernel's
/// first thread (`kthreadd`), that's in the host's namespace, too.
fn host_mount_namespace() -> &'static str {
    let process = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open("/proc/2");
    if process.is_ok_and(|process| is_kernel_thread(&process.into())) { "/proc/2/ns/mnt" } else { "/proc/1/ns/mnt" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let open = |name: &str| OwnedFd::from(File::open(name).unwrap());
        let container = ContainerHandle {
            pid: child.id() as i32,
            process: open(&format!("/proc/{}", child.id())),
            end: None,
            mounts: open("/proc/self/ns/mnt"),
            number: 0,
            root: open("/"),
            prefix: None,
        };
        assert!(container.check_still_running().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(container.check_still_running().unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn processes_outside_of_containers_are_refused() {
        let own = ContainerHandle::open(std::process::id() as i32).unwrap_err();
        assert!(own.to_string().contains("not in a container"), "{own}");
        let first = File::open("/proc/2").map(OwnedFd::from);
        if first.is_ok_and(|first| is_kernel_thread(&first)) {
            let of_kernel = ContainerHandle::open(2).unwrap_err();
            assert!(of_kernel.to_string().contains("a thread of the kernel"), "{of_kernel}");
        }
        let nobody = ContainerHandle::open(i32::MAX).unwrap_err();
        assert!(nobody.to_string().contains("there is no process"), "{nobody}");
    }
}
