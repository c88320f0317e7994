//! A container that runs: its process, its mount namespace and its root, held so that they can't come to mean another's.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat};

use crate::agents::attach;
use crate::agents::attach::{EntryError, Found, SOURCE, VIEW_TYPE};
use crate::cgroup::{Membership, MountEntry, parse_memberships, parse_mountinfo};
use crate::container::covered::Covered;
use crate::container::propagated;
use crate::error::Error;
use crate::host::mount_id;
use crate::provision::sentinel;
use crate::sys;

/// `/sys`, `/sys/fs`, `/sys/fs/cgroup`: where a view can have been mounted, by depth.
pub(crate) const PLACES: [&str; 3] = ["/sys", "/sys/fs", "/sys/fs/cgroup"];

/// How many mounts a helper that is killed can leave, and one that somebody has bound elsewhere.
const LEFT_AT_MOST: usize = 3;

/// How many mounts deep a stack is.
const DEPTH_AT_MOST: usize = 4;

/// How often a process is looked at where the kernel doesn't tell of its end, in ms.
const INTERVAL: u16 = 500;

/// How much longer than it looks at a container's mounts a server rests from that, and for how long at most.
const REST: u32 = 20;
const REST_AT_MOST: Duration = Duration::from_secs(1);

/// How long to try to start a helper where the kernel has no room for its process, and how often.
const ROOM_WITHIN: Duration = Duration::from_secs(5);
const ROOM_INTERVAL: Duration = Duration::from_millis(20);

/// A container, known by one of its processes.
#[derive(Debug)]
pub(crate) struct Container {
    pid: i32,
    /// Its directory in /proc, which never comes to mean another process.
    process: OwnedFd,
    /// Becomes readable when the process ends; `None` before Linux 5.3.
    end: Option<OwnedFd>,
    mounts: OwnedFd,
    number: u64,
    root: OwnedFd,
    /// Where that is until the process has made it its root.
    prefix: Option<OsString>,
}

/// A view that is mounted in a container: the topmost mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    depth: usize,
    device: (u32, u32),
    /// The mount's id.
    mount: u32,
}

impl Container {
    /// Takes hold of the container of a process.
    pub(crate) fn open(pid: i32) -> Result<Self, Error> {
        let failed = |what: &str| {
            let what = format!("can't {what} of process {pid}");
            move |errno: Errno| match errno {
                Errno::ENOENT | Errno::ESRCH => Error::failed(format!("{what}: it has ended")),
                Errno::EACCES | Errno::EPERM => {
                    Error::not_permitted(format!("{what}: {errno} (run it as root of the host)"))
                }
                errno => Error::failed(format!("{what}: {errno}")),
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
        let end = sys::process::pidfd(pid).ok();
        let open = |name: &str, flags| openat(&process, name, flags | OFlag::O_CLOEXEC, Mode::empty());
        let mounts = open("ns/mnt", OFlag::O_RDONLY).map_err(failed("open the mount namespace"))?;
        let number = fstat(&mounts).map_err(failed("look at the mount namespace"))?.st_ino;
        let root = open("root", OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(failed("open the root directory"))?;
        for (whose, path) in [("this command's", "/proc/self/ns/mnt"), ("the host's", "/proc/1/ns/mnt")] {
            if File::open(path).is_ok_and(|own| fstat(&own).is_ok_and(|own| own.st_ino == number)) {
                let what = format!(
                    "process {pid} is in {whose} own mount namespace, not in a container: use 'vcgroupfs mount --pid {pid} DIR'"
                );
                return Err(Error::failed(what));
            }
        }
        Ok(Self { pid, process, end, mounts, number, root, prefix: None })
    }

    /// Takes hold of the container of a process that is going to make `directory` its root (pivot_root(2)), as it is for the hooks of OCI
    /// runtimes, or has done so (`poststart`). That has to be a mount in its mount namespace.
    pub(crate) fn with_root(self, directory: &Path) -> Result<Self, Error> {
        let what = format!("can't open the container's root {} in its mount namespace", directory.display());
        let failed = |error: io::Error| Error::system(&what, error);
        // On the host, where the same directories lead to it: an absolute symlink followed there would come out here.
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
            let what = format!(
                "{} isn't the container's root: nothing is mounted there in the mount namespace",
                directory.display()
            );
            return Err(Error::failed(format!("{what} of process {}", self.pid)));
        }
        Ok(Self { root, prefix: Some(directory.into_os_string()), ..self })
    }

    /// Where its root directory is, if its process hasn't entered that yet.
    pub(crate) fn new_root(&self) -> Option<&OsStr> {
        self.prefix.as_deref()
    }

    /// Fails if the process has ended since: what was found by its number may be another's, which has that now.
    pub(crate) fn check_its_number(&self) -> Result<(), Error> {
        let ended = |_| Error::failed(format!("process {} has ended meanwhile", self.pid));
        self.read("stat").map(drop).map_err(ended)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The number of its mount namespace.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Its mounts, with paths as its process sees them. Empty when that has ended.
    pub(crate) fn mountinfo(&self) -> Vec<MountEntry> {
        parse_mountinfo(&self.read("mountinfo").unwrap_or_default())
    }

    /// In which cgroups its process is.
    pub(crate) fn memberships(&self) -> Vec<Membership> {
        parse_memberships(&self.read("cgroup").unwrap_or_default())
    }

    /// Whether v2 is mounted in it.
    pub(crate) fn mounts_v2(&self) -> bool {
        self.mountinfo().iter().any(|mount| mount.fstype == "cgroup2")
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = openat(&self.process, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut File::from(file), &mut text)?;
        Ok(text)
    }

    /// The view that is attached to it.
    pub(crate) fn attached(&self) -> Option<Attached> {
        self.attached_for(self.number)
    }

    /// The view that is attached to the container whose mount namespace has this number, as it's seen here.
    fn attached_for(&self, number: u64) -> Option<Attached> {
        let (mounts, sentinel) = (self.mountinfo(), sentinel::root(number));
        let prefix = self.prefix_in(&mounts);
        PLACES.iter().enumerate().find_map(|(index, place)| {
            let mut point = prefix.cloned().unwrap_or_default();
            point.push(place);
            let mount = topmost(&mounts, &point)?;
            let beneath = |mount: &MountEntry| mounts.iter().find(|beneath| beneath.id == mount.parent);
            // On a tmpfs of ours it comes and goes with that.
            let is_alone = |mount: &MountEntry| is_sentinel(mount, &sentinel) && !beneath(mount).is_some_and(is_tmpfs);
            // The whole view lies on its sentinel while the helper takes from it what is shown, and if that is killed then.
            let is_unfinished = |mount: &MountEntry| mount.fstype == VIEW_TYPE && beneath(mount).is_some_and(is_alone);
            let is_ours = is_tmpfs(mount) || is_alone(mount) || is_unfinished(mount);
            is_ours.then_some(Attached { depth: index + 1, device: mount.device, mount: mount.id })
        })
    }

    /// Where its root directory is in these mounts, if its process hasn't entered that. Once it has, nothing is mounted by that name.
    fn prefix_in(&self, mounts: &[MountEntry]) -> Option<&OsString> {
        self.prefix.as_ref().filter(|prefix| mounts.iter().any(|mount| mount.mount_point == **prefix))
    }

    /// What a view would cover in it.
    pub(crate) fn covered(&self) -> Covered {
        let mounts = self.mountinfo();
        let root = self.prefix_in(&mounts).map_or(Path::new("/"), |prefix| Path::new(prefix));
        Covered::of(&mounts, root)
    }

    /// Whether it's the container's view that is seen here, in another mount namespace.
    pub(crate) fn copy_of(&self, container: &Self, attached: Attached) -> Option<Attached> {
        self.attached_for(container.number).filter(|copy| copy.device == attached.device)
    }

    /// The device of the view that is attached to it.
    fn device_of_view(&self) -> Option<(u32, u32)> {
        let (mounts, attached) = (self.mountinfo(), self.attached()?);
        let is_in_it = |mount: &&MountEntry| {
            let beneath = |mount: &&MountEntry| mounts.iter().find(|other| other.id == mount.parent);
            // A view's directory lies on a real one, and that in the stack.
            let below = std::iter::successors(Some(*mount), beneath).take(DEPTH_AT_MOST);
            mount.fstype == VIEW_TYPE && below.into_iter().any(|mount| mount.id == attached.mount)
        };
        mounts.iter().find(is_in_it).map(|mount| mount.device)
    }

    /// Whether something of a view is mounted, be it covered by another mount.
    fn has_any(&self) -> bool {
        let sentinel = sentinel::root(self.number);
        self.mountinfo().iter().any(|mount| is_tmpfs(mount) || is_sentinel(mount, &sentinel))
    }

    /// Whether a view is in its mount namespace, but not on `/sys/fs/cgroup` as its process sees that: somebody has moved or covered it, or
    /// the process has another root directory.
    pub(crate) fn has_lost_view(&self) -> bool {
        self.attached().is_none() && (self.has_any() || self.attached_by_others().is_some())
    }

    /// Takes a view away in this mount namespace, and where the kernel does so, too.
    pub(crate) fn detach_here(&self, image: BorrowedFd<'_>, attached: Attached) -> Result<(), EntryError> {
        attach::detach(image, self.namespace(), self.root(), attached.depth, attached.device, attached.mount)
    }

    /// Takes away all that is there of a view: a helper that was killed in the midst of its work may have left two mounts. And, first, its
    /// copies: a server that does this may end with the last mount of its view.
    pub(crate) fn clear(&self, image: BorrowedFd<'_>) -> Result<(), EntryError> {
        if let Some(attached) = self.attached().or_else(|| self.attached_by_others()) {
            propagated::clear(self, image, attached);
        }
        for _ in 0..LEFT_AT_MOST {
            let Some(attached) = self.attached().or_else(|| self.attached_by_others()) else { break };
            match self.detach_here(image, attached) {
                // It went by itself, or others have taken it away; the kernel does where a cgroup that it's mounted on is removed.
                Err(EntryError::Failed { errno: Errno::ESTALE, .. }) if self.attached() != Some(attached) => {}
                detached => detached?,
            }
        }
        Ok(())
    }

    /// [`Container::clear`], if something is there; whether it did. Where the kernel has no room for a helper's process it tries for a while:
    /// a limit counts killed processes, too, until somebody waits for them.
    pub(crate) fn detach_if_attached(&self, image: BorrowedFd<'_>) -> bool {
        if self.attached().or_else(|| self.attached_by_others()).is_none() {
            return false;
        }
        let deadline = Instant::now() + ROOM_WITHIN;
        let mut cleared = self.clear(image);
        while matches!(cleared, Err(EntryError::System(Errno::EAGAIN | Errno::ENOMEM))) && Instant::now() < deadline {
            std::thread::sleep(ROOM_INTERVAL);
            cleared = self.clear(image);
        }
        if let Err(error) = &cleared {
            tracing::warn!(%error, process = self.pid, "can't take the view out of the container");
        }
        cleared.is_ok()
    }

    /// [`Container::attached`], when the process has ended: another process' mountinfo shows the same mounts.
    fn attached_by_others(&self) -> Option<Attached> {
        for entry in std::fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let same = File::open(format!("/proc/{pid}/ns/mnt")).and_then(|file| Ok(fstat(&file)?.st_ino));
            if same.is_ok_and(|number| number == self.number)
                && let Some(attached) = Self::open(pid).ok().and_then(|other| other.attached())
            {
                return Some(attached);
            }
        }
        None
    }

    /// Fails if what is mounted in the place would appear on the host as well: mounts of a peer group share what is mounted on them.
    pub(crate) fn check_propagation(&self, found: Found) -> Result<(), Error> {
        let mounts = self.mountinfo();
        let place = PLACES.get(found.depth as usize - 1).copied().unwrap_or_default();
        let by_id = mounts.iter().find(|mount| u64::from(mount.id) == found.mount);
        let by_path = || {
            let above = Path::new(place).ancestors().filter_map(|path| topmost(&mounts, path));
            above.max_by_key(|mount| mount.mount_point.len())
        };
        let Some(group) = by_id.or_else(by_path).and_then(|mount| mount.shared) else { return Ok(()) };
        let host = parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?);
        let reaches_us = |mount: &&MountEntry| mount.shared == Some(group) || mount.master == Some(group);
        match host.iter().find(reaches_us) {
            None => Ok(()),
            Some(mount) => Err(Error::failed(format!(
                "{place} in the container shares its mounts with {} of the host, where the view would appear as well: \
                     make it private first, for example with 'nsenter -t {} -m mount --make-rslave /'",
                mount.mount_point.display(),
                self.pid
            ))),
        }
    }

    /// Waits until the process has ended, or the view isn't in the container's mount namespace any more.
    pub(crate) fn wait_for_end(&self) {
        // Its priority event is that something was mounted or unmounted.
        let mounts = openat(&self.process, "mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok();
        // Something that looks like a view, or is left of one, can be anywhere.
        let view = self.device_of_view();
        let has_view = || match view {
            Some(device) => self.mountinfo().iter().any(|mount| mount.device == device),
            None => self.has_any(),
        };
        loop {
            let start = Instant::now();
            // The process alone may have gone elsewhere.
            if mounts.is_some() && !has_view() && self.attached_by_others().is_none() {
                return;
            }
            // A container can mount and unmount all the time, and have very many mounts to look at.
            std::thread::sleep((start.elapsed() * REST).min(REST_AT_MOST));
            let mut waited = Vec::new();
            waited.extend(self.end.as_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
            waited.extend(mounts.as_ref().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)));
            let timeout = if self.end.is_some() { PollTimeout::NONE } else { PollTimeout::from(INTERVAL) };
            if poll(&mut waited, timeout).is_err_and(|errno| errno != Errno::EINTR) {
                std::thread::sleep(Duration::from_millis(INTERVAL.into()));
            }
            if self.end.is_none() {
                if self.has_ended() {
                    return;
                }
            } else if waited.first().is_some_and(|end| end.any().unwrap_or(false)) {
                return;
            }
        }
    }

    fn has_ended(&self) -> bool {
        let Ok(stat) = self.read("stat") else { return true };
        // The state is the word behind the command's closing parenthesis. A leader that has ended waits for its threads as a zombie.
        let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
        matches!(state, Some(b'Z' | b'X' | b'x')) && self.is_alone()
    }

    fn is_alone(&self) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let threads = openat(&self.process, "task", flags, Mode::empty()).and_then(nix::dir::Dir::from_fd);
        // ".", ".." and the leader.
        threads.is_ok_and(|mut threads| threads.iter().count() <= 3)
    }
}

/// The tmpfs of a view. A view without one is that of `run`, or of a `mount` in there.
fn is_tmpfs(mount: &MountEntry) -> bool {
    mount.source == SOURCE && mount.fstype == "tmpfs"
}

fn is_sentinel(mount: &MountEntry, root: &str) -> bool {
    mount.fstype == "cgroup2" && mount.root == *root
}

/// The mount that whoever goes to `place` gets to, if something is mounted right there.
fn topmost(mounts: &[MountEntry], place: impl AsRef<OsStr>) -> Option<&MountEntry> {
    let here = |mount: &&MountEntry| mount.mount_point == place.as_ref();
    let covered =
        |mount: &MountEntry| mounts.iter().filter(here).any(|other| other.parent == mount.id && other.id != mount.id);
    mounts.iter().filter(here).find(|mount| !covered(mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topmost_is_what_nothing_is_mounted_on() {
        let mounts = parse_mountinfo(
            b"30 20 0:9 / /sys/fs/cgroup rw - tmpfs vcgroupfs rw\n\
              20 10 0:8 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
              10 10 0:1 / / rw - rootfs none rw\n",
        );
        assert_eq!(topmost(&mounts, "/sys/fs/cgroup").unwrap().id, 30);
        assert_eq!(topmost(&mounts, "/").unwrap().id, 10);
        assert_eq!(topmost(&mounts, "/sys"), None);
    }

    #[test]
    fn both_programs_mount_the_same() {
        assert_eq!(attach::VIEW_TYPE, crate::fuse::FSTYPE);
    }

    #[test]
    fn its_number_is_its_own_while_it_lives() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let open = |name: &str| OwnedFd::from(File::open(name).unwrap());
        let container = Container {
            pid: child.id() as i32,
            process: open(&format!("/proc/{}", child.id())),
            end: None,
            mounts: open("/proc/self/ns/mnt"),
            number: 0,
            root: open("/"),
            prefix: None,
        };
        assert!(container.check_its_number().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(container.check_its_number().unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn what_is_no_container() {
        let own = Container::open(std::process::id() as i32).unwrap_err();
        assert!(own.to_string().contains("not in a container"), "{own}");
        let nobody = Container::open(i32::MAX).unwrap_err();
        assert!(nobody.to_string().contains("there is no process"), "{nobody}");
    }
}
