//! The sentinel of a unified host: a real cgroup on `/sys/fs/cgroup` in a container. Programs recognise cgroup2 by statfs(2), whose
//! answer FUSE can't choose. The sentinel has no processes, so it limits nothing.
//!
//! ```text
//! /vcgroupfs-sentinel-NUMBER           named after the container's mount namespace
//! /vcgroupfs-sentinel-NUMBER/threads   threaded, which makes all of its siblings "domain invalid"
//! /vcgroupfs-sentinel-NUMBER/top       visible to the container, with an empty cgroup for the first step to its own
//! ```
//!
//! Although the mount is read-only, root in the container could start children in a cgroup whose directory it can open (clone3(2),
//! `CLONE_INTO_CGROUP`), outside the container's limits. But the kernel takes no process into a cgroup that is "domain invalid", and
//! nobody can change the type through a read-only mount.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;
use serde::{Deserialize, Serialize};

use crate::agents::attach::{Layout, MountFlags, SentinelSource, SentinelSpec};
use crate::cgroup::{CgroupPath, Setup};
use crate::container::lock::ContainerLock;
use crate::error::Error;
use crate::host::interface_file::write_file;
use crate::host::{HostCgroups, discover};
use crate::provision::cgroups;
use crate::provision::cgroups::CreatedCgroups;
use crate::records::descriptor;
use crate::server::registry;
use crate::server::registry::record::Record;
use crate::sys;
use crate::sys::seqpacket;

const PREFIX: &str = "vcgroupfs-sentinel-";
const TOP: &str = "top";

/// The sentinel of one container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SentinelCgroup {
    cgroups: CreatedCgroups,
    /// The number of the container's mount namespace.
    number: u64,
    /// The first step from the root to the container's own cgroup. The view is mounted on it, so that programs read
    /// everything below from the view: the sentinel's own files would show no limits.
    step: CgroupPath,
    own: CgroupPath,
    /// A cgroup namespace whose root is `top`, in which to mount the sentinel if it can't be bound.
    #[serde(with = "descriptor::optional")]
    namespace: Option<OwnedFd>,
}

/// The mountinfo root of the sentinel in the container whose mount namespace has this number.
pub(crate) fn root(number: u64) -> String {
    format!("/{PREFIX}{number}/{TOP}")
}

impl SentinelCgroup {
    /// Makes the sentinel for a container whose own cgroup is `own`, with a cgroup namespace if it can't be bound.
    pub(crate) fn make(
        host: &HostCgroups,
        lock: &ContainerLock,
        number: u64,
        own: &CgroupPath,
        with_namespace: bool,
    ) -> Result<Self, Error> {
        remove_stale(host, lock, number);
        let name = format!("{PREFIX}{number}");
        let failed = |errno: Errno| match errno {
            Errno::EEXIST => Error::failed("the container's former view hasn't ended yet").advise("try again"),
            errno => Error::system(
                format!("can't make the cgroup /{name}, which programs in the container recognise"),
                errno.into(),
            ),
        };
        let above = host.open_cgroup(0, &CgroupPath::root()).map_err(failed)?;
        let directory = make_below(&above, OsStr::new(&name)).map_err(failed)?;
        let cgroups = CreatedCgroups::existing_at_top(host, 0, &name).ok_or_else(|| failed(Errno::ENOENT))?;
        let step = own.prefix(1);
        match fill(&directory, &step, with_namespace) {
            Ok(namespace) => Ok(Self { cgroups, number, step, own: own.clone(), namespace }),
            Err(errno) => {
                cgroups.remove();
                Err(Error::system(format!("can't prepare the cgroup /{name}"), errno.into()))
            }
        }
    }

    /// The mounts to make in the container.
    pub(crate) fn layout(&self, host: &HostCgroups, flags: MountFlags) -> Result<Layout, Error> {
        let below = |path: &CgroupPath| path.components().join(OsStr::new("/"));
        let path = CgroupPath::parse(root(self.number)).map_err(|error| Error::failed(error.to_string()))?;
        let underlay = match (&self.namespace, host.hierarchies.first()) {
            (Some(_), _) => SentinelSource::Namespace,
            (None, Some(hierarchy)) => SentinelSource::Bind(hierarchy.mount_point.join(below(&path))),
            (None, None) => return Err(Error::failed("no cgroup2 is mounted on the host")),
        };
        let c_string = |path: &CgroupPath| {
            CString::new(below(path).as_bytes()).map_err(|_| Error::failed("a cgroup's path contains a NUL"))
        };
        let (step, own) = (c_string(&self.step)?, c_string(&self.own)?);
        let files = [c"cgroup.controllers", c"cgroup.subtree_control"].map(CString::from).to_vec();
        Ok(Layout::Sentinel(SentinelSpec { underlay, shown: step, own, flags, files }))
    }

    /// The cgroup namespace in which to mount it, if it can't be bound.
    pub(crate) fn namespace(&self) -> std::io::Result<Option<OwnedFd>> {
        self.namespace.as_ref().map(OwnedFd::try_clone).transpose()
    }

    pub(crate) fn remove(&self) {
        self.cgroups.remove();
    }
}

/// Makes a cgroup and opens it.
fn make_below(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    mkdirat(directory, name, Mode::from_bits_truncate(0o755))?;
    openat(directory, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Makes the cgroups in a sentinel's cgroup, and the namespace if it's requested.
fn fill(directory: &OwnedFd, shown: &CgroupPath, with_namespace: bool) -> Result<Option<OwnedFd>, Errno> {
    let top = make_below(directory, OsStr::new(TOP))?;
    let mut place = top.try_clone().map_err(|_| Errno::EMFILE)?;
    for name in shown.components() {
        place = make_below(&place, name)?;
    }
    // The namespace first: `threads` makes `top` invalid, which then accepts no process.
    let namespace = with_namespace.then(|| make_cgroup_namespace(&top)).transpose()?;
    let threads = make_below(directory, OsStr::new("threads"))?;
    match write_file(&threads, "cgroup.type", b"threaded") {
        // Before Linux 4.14 there are neither threaded cgroups nor CLONE_INTO_CGROUP.
        Ok(()) | Err(Errno::ENOENT) => Ok(namespace),
        Err(errno) => Err(errno),
    }
}

/// Makes a cgroup namespace whose root is this cgroup: a child enters the cgroup, makes the namespace, and ends.
fn make_cgroup_namespace(cgroup: &OwnedFd) -> Result<OwnedFd, Errno> {
    let errno_of = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let (ours, theirs) = seqpacket::seqpacket_pair()?;
    match sys::process::fork().map_err(errno_of)? {
        ForkResult::Child => {
            let sent = write_file(cgroup, "cgroup.procs", b"0")
                .and_then(|()| unshare(CloneFlags::CLONE_NEWCGROUP))
                .and_then(|()| File::open("/proc/self/ns/cgroup").map_err(errno_of))
                .and_then(|namespace| seqpacket::send(theirs.as_fd(), [&[0]], &[namespace.as_fd()]));
            std::process::exit(sent.map_or_else(|errno| errno as i32, |()| 0))
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            match waitpid(child, None)? {
                WaitStatus::Exited(_, 0) => seqpacket::receive_file(ours.as_fd()),
                WaitStatus::Exited(_, number) => Err(Errno::from_raw(number)),
                _ => Err(Errno::EINTR),
            }
        }
    }
}

/// Removes the sentinels that killed servers have left, and that of the locked container.
pub(crate) fn remove_leftovers(lock: &ContainerLock, number: u64) {
    if let Ok(host) = discover()
        && host.setup == Setup::Unified
    {
        remove_stale(&host, lock, number);
    }
}

/// Removes the sentinels of servers that were killed, and the one of the container `own` if its view is gone.
fn remove_stale(host: &HostCgroups, lock: &ContainerLock, own: u64) {
    // If the registry can't be read, every sentinel counts as live.
    let is_live = |number: u64| {
        let is_its = |record: &Record| {
            record.run == Some(number) || record.container.as_ref().is_some_and(|inside| inside.namespace == number)
        };
        registry::live_records().map_or(true, |live| live.iter().any(is_its))
    };
    let Ok(above) = host.open_cgroup(0, &CgroupPath::root()) else { return };
    for name in cgroups::children(&above).unwrap_or_default() {
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        let Some(number) = number else { continue };
        // A command that is attaching has no record yet, but it holds the container's lock.
        let held = if number == own { None } else { lock.try_lock_other(number) };
        if (number == own || held.is_some())
            && !is_live(number)
            && let Some(left) = CreatedCgroups::existing_at_top(host, 0, &name.to_string_lossy())
        {
            left.remove();
        }
    }
}
