//! How a server ends.
//!
//! Whoever tells it to end gets it ended: it takes its view away where it can, and after a grace, whoever still uses the view, closes the
//! connection, so that callers get ENOTCONN instead of waiting.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup::{MountEntry, parse_mountinfo};
use crate::container::handle::Container;
use crate::fuse::FSTYPE;
use crate::host::mount_id;
use crate::provision::cgroups::OwnCgroups;
use crate::server::cleanup::SharedLeaving;
use crate::server::logging;
use crate::server::signals::Signals;
use crate::server::status::Status;
use crate::sys;

/// How long the session may take to end by itself once it's unmounted.
const GRACE: Duration = Duration::from_secs(1);

/// How long all that a server undoes may take. A helper in a container has 30 s for an answer.
const ENDING_TIMEOUT: Duration = Duration::from_secs(45);

/// What a server has to know of the container that its view is in.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) container: Arc<Container>,
    /// Tells that all is in its place.
    pub(crate) committed: Status,
    /// Closed when the view isn't mounted there any more: then nobody makes events for its watchers ([`OwnMount`]).
    pub(crate) own_mount: OwnedFd,
}

/// A mount of this process' mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    id: u32,
    device: (u32, u32),
}

impl Mounted {
    /// The view that was just mounted on a directory.
    pub(crate) fn on(directory: &Path) -> Option<Self> {
        let mounts = own_mounts();
        let mut here = mounts.iter().rev().filter(|mount| Path::new(&mount.mount_point) == directory);
        let mount = here.find(|mount| mount.fstype == FSTYPE)?;
        Some(Self { id: mount.id, device: mount.device })
    }

    /// Unmounts it, wherever it was moved to. What covers it is others', and stays.
    fn unmount(self) {
        let mounts = own_mounts();
        let Some(own) = mounts.iter().find(|mount| (mount.id, mount.device) == (self.id, self.device)) else {
            return tracing::info!("the view isn't mounted here any more");
        };
        let place = Path::new(&own.mount_point);
        if mounts.iter().any(|mount| mount.parent == own.id && mount.mount_point == own.mount_point)
            || !is_found(place, own.id)
        {
            return tracing::warn!(directory = %crate::cgroup::escaped(place), "not unmounted: another mount covers the view");
        }
        if let Err(errno) = umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            tracing::warn!(%errno, directory = %crate::cgroup::escaped(place), "can't unmount");
        }
    }
}

fn own_mounts() -> Vec<MountEntry> {
    parse_mountinfo(&std::fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// Whether whoever goes to a place gets to the mount with this id. Before Linux 3.15 the kernel doesn't say.
fn is_found(place: &Path, id: u32) -> bool {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let opened = File::options().read(true).custom_flags(flags).open(place);
    opened.is_ok_and(|file| match mount_id(&file) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => true,
        found => found.is_ok_and(|found| found == id),
    })
}

/// Ends the server of a view on a directory when it's told to.
pub(crate) fn end_on_signals(
    signals: Signals,
    leaving: SharedLeaving,
    unmount: impl Fn() + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("signals".to_owned()).stack_size(256 * 1024).spawn(move || {
        let signal = signals.wait_for_end();
        tracing::info!(%signal, "told to end: unmounting");
        limit_time();
        before_the_end(&leaving, unmount);
        end_after_grace(&leaving);
    })?;
    Ok(())
}

/// From here on the process ends in bounded time, whatever what it undoes waits for. If there's no thread for that, it goes without.
pub(crate) fn limit_time() {
    let _ = thread::Builder::new().name("end".to_owned()).stack_size(64 * 1024).spawn(|| {
        thread::sleep(ENDING_TIMEOUT);
        end_now()
    });
}

/// The same for a view on a directory of this mount namespace.
pub(crate) fn end_on_directory(signals: Signals, leaving: &SharedLeaving, directory: &Path) -> io::Result<()> {
    let mounted = Mounted::on(directory);
    end_on_signals(signals, Arc::clone(leaving), move || {
        if let Some(mounted) = mounted {
            mounted.unmount();
        }
    })
}

/// The same for a view in a container, which also ends with the container.
pub(crate) fn end_with_container(
    signals: Signals,
    leaving: &SharedLeaving,
    attachment: Attachment,
    program: OwnedFd,
) -> io::Result<()> {
    let Attachment { container, committed, own_mount } = attachment;
    let watched = Arc::clone(&container);
    let leaving_there = Arc::clone(leaving);
    thread::Builder::new().name("container".to_owned()).stack_size(256 * 1024).spawn(move || {
        // Whoever attaches may be killed in the midst of it.
        match committed.wait() {
            Ok(()) => {
                watched.wait_for_end();
                tracing::info!(process = watched.pid(), "the container's process has ended, or its view is unmounted");
            }
            Err(_) => tracing::info!("attaching was broken off"),
        }
        drop(own_mount);
        // Somebody else may still be there.
        if let Some(leaving) = leaving_there.lock().as_mut() {
            drop(leaving.attached.take());
        }
        end_after_grace(&leaving_there);
    })?;
    end_on_signals(signals, Arc::clone(leaving), move || {
        // What the container has moved or covered, or keeps from being taken away, isn't served either.
        container.detach_if_attached(program.as_fd());
    })
}

/// The process that runs a command, as its server knows it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// Its end is the supervisor's.
    pub(crate) ends: OwnedFd,
    pub(crate) cgroups: Arc<OwnCgroups>,
}

/// The same for a view that ends with a command, and for the end of whoever runs that: if it's killed, the command's processes have to be
/// ended by somebody who can thaw them.
pub(crate) fn end_with_command(signals: Signals, leaving: &SharedLeaving, supervisor: Supervisor) -> io::Result<()> {
    let supervisor = Arc::new(supervisor);
    let watched = Arc::clone(&supervisor);
    thread::Builder::new().name("supervisor".to_owned()).stack_size(256 * 1024).spawn(move || {
        while !has_ended(&watched.ends, PollTimeout::NONE) {}
        watched.cgroups.end_processes();
    })?;
    end_on_signals(signals, Arc::clone(leaving), move || {
        // While it's there, it goes on with its command, and removes the cgroups afterwards.
        if has_ended(&supervisor.ends, PollTimeout::ZERO) {
            supervisor.cgroups.end_processes();
            supervisor.cgroups.remove();
        }
    })
}

fn has_ended(pipe: &OwnedFd, limit: PollTimeout) -> bool {
    let mut waited = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut waited, limit).is_ok_and(|ready| ready > 0)
}

/// Unmounts, and until that's done the server doesn't end: its session may with the first of several mounts, while the others are left.
fn before_the_end(leaving: &SharedLeaving, unmount: impl FnOnce()) {
    let _held = leaving.lock();
    unmount();
}

/// The session ends by itself once it's unmounted. Unless somebody still holds something open there: whoever asks a server to end doesn't
/// wait for its users, who get ENOTCONN from then on.
fn end_after_grace(leaving: &SharedLeaving) -> ! {
    thread::sleep(GRACE);
    let mut leaving = leaving.lock();
    drop(leaving.take());
    tracing::info!("the view is still in use: ending nevertheless");
    // Whoever serves and comes to the end by itself waits for the lock, and so for the end of the process.
    end_now()
}

/// Whether the process is about to end, whatever its threads do.
static IS_FORCED: AtomicBool = AtomicBool::new(false);

/// Stays here if the process is about to end: the session broke off by that, and there's nothing to be done about it.
pub(crate) fn stay_if_forced() {
    while IS_FORCED.load(Ordering::Acquire) {
        thread::park();
    }
}

/// Ends the connection and the process. A thread that waits for a device, which nothing can end, would keep the connection open with the
/// descriptors that all threads share, and its callers waiting; so these are closed before.
fn end_now() -> ! {
    logging::finish();
    IS_FORCED.store(true, Ordering::Release);
    let _ = sys::process::abandon_files();
    std::process::exit(0)
}
