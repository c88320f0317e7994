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
use crate::provision::cgroups::CreatedCgroups;
use crate::server::cleanup::SharedCleanup;
use crate::server::logging;
use crate::server::signals::ServerSignals;
use crate::server::status::StatusPipe;
use crate::sys;

/// How long the session may take to end by itself once it's unmounted.
const SESSION_END_GRACE: Duration = Duration::from_secs(1);

/// How long all that a server undoes may take. A helper in a container has 30 s for an answer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(45);

/// What a server has to know of the container that its view is in.
#[derive(Debug)]
pub(crate) struct AttachedContainer {
    pub(crate) container: Arc<Container>,
    /// Tells that all is in its place.
    pub(crate) committed: StatusPipe,
    /// Closed when the view isn't mounted there any more: then nobody makes events for its watchers ([`OwnMount`]).
    pub(crate) own_mount: OwnedFd,
}

/// A mount of this process' mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ViewMount {
    id: u32,
    device: (u32, u32),
}

impl ViewMount {
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
pub(crate) fn shut_down_on_signal(
    signals: ServerSignals,
    cleanup: SharedCleanup,
    unmount: impl Fn() + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("signals".to_owned()).stack_size(256 * 1024).spawn(move || {
        let signal = signals.wait_for_end();
        tracing::info!(%signal, "told to end: unmounting");
        start_exit_deadline();
        unmount_under_lock(&cleanup, unmount);
        exit_after_grace(&cleanup);
    })?;
    Ok(())
}

/// From here on the process ends in bounded time, whatever what it undoes waits for. If there's no thread for that, it goes without.
pub(crate) fn start_exit_deadline() {
    let _ = thread::Builder::new().name("end".to_owned()).stack_size(64 * 1024).spawn(|| {
        thread::sleep(SHUTDOWN_TIMEOUT);
        exit_now()
    });
}

/// The same for a view on a directory of this mount namespace.
pub(crate) fn shut_down_directory_view(
    signals: ServerSignals,
    cleanup: &SharedCleanup,
    directory: &Path,
) -> io::Result<()> {
    let mounted = ViewMount::on(directory);
    shut_down_on_signal(signals, Arc::clone(cleanup), move || {
        if let Some(mounted) = mounted {
            mounted.unmount();
        }
    })
}

/// The same for a view in a container, which also ends with the container.
pub(crate) fn shut_down_with_container(
    signals: ServerSignals,
    cleanup: &SharedCleanup,
    attachment: AttachedContainer,
    program: OwnedFd,
) -> io::Result<()> {
    let AttachedContainer { container, committed, own_mount } = attachment;
    let watched = Arc::clone(&container);
    let cleanup_there = Arc::clone(cleanup);
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
        if let Some(cleanup) = cleanup_there.lock().as_mut() {
            drop(cleanup.attached.take());
        }
        exit_after_grace(&cleanup_there);
    })?;
    shut_down_on_signal(signals, Arc::clone(cleanup), move || {
        // What the container has moved or covered, or keeps from being taken away, isn't served either.
        container.detach_if_attached(program.as_fd());
    })
}

/// The process that runs a command, as its server knows it.
#[derive(Debug)]
pub(crate) struct SupervisorHandle {
    /// Its end is the supervisor's.
    pub(crate) ends: OwnedFd,
    pub(crate) cgroups: Arc<CreatedCgroups>,
}

/// The same for a view that ends with a command, and for the end of whoever runs that: if it's killed, the command's processes have to be
/// ended by somebody who can thaw them.
pub(crate) fn shut_down_with_command(
    signals: ServerSignals,
    cleanup: &SharedCleanup,
    supervisor: SupervisorHandle,
) -> io::Result<()> {
    let supervisor = Arc::new(supervisor);
    let watched = Arc::clone(&supervisor);
    thread::Builder::new().name("supervisor".to_owned()).stack_size(256 * 1024).spawn(move || {
        while !has_ended(&watched.ends, PollTimeout::NONE) {}
        watched.cgroups.end_processes();
    })?;
    shut_down_on_signal(signals, Arc::clone(cleanup), move || {
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
fn unmount_under_lock(cleanup: &SharedCleanup, unmount: impl FnOnce()) {
    let _held = cleanup.lock();
    unmount();
}

/// The session ends by itself once it's unmounted. Unless somebody still holds something open there: whoever asks a server to end doesn't
/// wait for its users, who get ENOTCONN from then on.
fn exit_after_grace(cleanup: &SharedCleanup) -> ! {
    thread::sleep(SESSION_END_GRACE);
    let mut cleanup = cleanup.lock();
    drop(cleanup.take());
    tracing::info!("the view is still in use: ending nevertheless");
    // Whoever serves and comes to the end by itself waits for the lock, and so for the end of the process.
    exit_now()
}

/// Whether the process is about to end, whatever its threads do.
static IS_EXITING: AtomicBool = AtomicBool::new(false);

/// Stays here if the process is about to end: the session broke off by that, and there's nothing to be done about it.
pub(crate) fn park_if_exiting() {
    while IS_EXITING.load(Ordering::Acquire) {
        thread::park();
    }
}

/// Ends the connection and the process. A thread that waits for a device, which nothing can end, would keep the connection open with the
/// descriptors that all threads share, and its callers waiting; so these are closed before.
fn exit_now() -> ! {
    logging::finish();
    IS_EXITING.store(true, Ordering::Release);
    let _ = sys::process::abandon_files();
    std::process::exit(0)
}
