//! The end of a server.
//!
//! A signal always ends it. The server unmounts its view if it can. After a grace period it closes the connection
//! even if the view is still in use. Callers then get ENOTCONN instead of waiting.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use serde::{Deserialize, Serialize};

use crate::cgroup::{MountEntry, parse_mountinfo};
use crate::container::handle::ContainerHandle;
use crate::fuse::FSTYPE;
use crate::host::mount_id;
use crate::provision::cgroups::CreatedCgroups;
use crate::records::descriptor;
use crate::server::cleanup::SharedCleanup;
use crate::server::keeper::link::{self, News};
use crate::server::logging;
use crate::server::signals::ServerSignals;
use crate::server::status::StatusPipe;
use crate::sys;

/// How long the session may take to end by itself after the unmount.
const SESSION_END_GRACE: Duration = Duration::from_secs(1);

/// How long the whole cleanup may take. A helper in a container has 30 s to answer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(45);

/// The container of a server's view.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AttachedContainer {
    pub(crate) container: Arc<ContainerHandle>,
    /// The command reports here that all mounts are in place.
    pub(crate) committed: StatusPipe,
    /// Shut down when the view is no longer mounted there, which ends the thread that makes events for its watchers
    /// (`fuse::SelfMount`).
    #[serde(with = "descriptor")]
    pub(crate) own_mount: OwnedFd,
    /// Whether an earlier server was told that all mounts are in place.
    pub(crate) is_committed: bool,
}

/// A mount of this process' mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ViewMount {
    id: u32,
    device: (u32, u32),
}

impl ViewMount {
    /// Finds the view that was just mounted on a directory.
    pub(crate) fn on(directory: &Path) -> Option<Self> {
        let mounts = own_mounts();
        let mut here = mounts.iter().rev().filter(|mount| Path::new(&mount.mount_point) == directory);
        let mount = here.find(|mount| mount.fstype == FSTYPE)?;
        Some(Self { id: mount.id, device: mount.device })
    }

    /// Unmounts it, wherever it was moved to. Mounts of others on top of it stay.
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

/// Whether a lookup of `place` reaches the mount with this id. Before Linux 3.15 the kernel doesn't tell, and this
/// returns true.
fn is_found(place: &Path, id: u32) -> bool {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let opened = File::options().read(true).custom_flags(flags).open(place);
    opened.is_ok_and(|file| match mount_id(&file) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => true,
        found => found.is_ok_and(|found| found == id),
    })
}

/// Starts the thread that ends the server when a signal tells it to. `unmount` unmounts the view.
pub(crate) fn shut_down_on_signal(
    signals: ServerSignals,
    cleanup: SharedCleanup,
    unmount: impl Fn() + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("signals".to_owned()).stack_size(256 * 1024).spawn(move || {
        let signal = signals.wait_for_end();
        link::tell(&News::Ending);
        tracing::info!(%signal, "told to end: unmounting");
        start_exit_deadline();
        unmount_under_lock(&cleanup, unmount);
        exit_after_grace(&cleanup);
    })?;
    Ok(())
}

/// Makes the process end in bounded time, whatever its cleanup waits for. If no thread can be started, there's no
/// limit.
pub(crate) fn start_exit_deadline() {
    let _ = thread::Builder::new().name("end".to_owned()).stack_size(64 * 1024).spawn(|| {
        thread::sleep(SHUTDOWN_TIMEOUT);
        exit_now()
    });
}

/// Ends the server of a view on a directory of this mount namespace when a signal tells it to.
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

/// Ends the server of a view in a container, when a signal tells it to, and when the container ends.
pub(crate) fn shut_down_with_container(
    signals: ServerSignals,
    cleanup: &SharedCleanup,
    attachment: AttachedContainer,
    program: OwnedFd,
) -> io::Result<()> {
    let AttachedContainer { container, committed, own_mount, is_committed } = attachment;
    let watched = Arc::clone(&container);
    let cleanup_there = Arc::clone(cleanup);
    thread::Builder::new().name("container".to_owned()).stack_size(256 * 1024).spawn(move || {
        // The command that attaches may be killed before it has finished.
        match if is_committed { Ok(()) } else { committed.wait() } {
            Ok(()) => {
                link::tell(&News::Committed);
                watched.wait_for_end();
                tracing::info!(process = watched.pid(), "the container's process has ended, or its view is unmounted");
            }
            Err(_) => tracing::info!("attaching was broken off"),
        }
        // The keeper has a copy, so closing it isn't enough.
        let _ = shutdown(own_mount.as_raw_fd(), Shutdown::Both);
        // Other processes may still be in the namespace.
        if let Some(cleanup) = cleanup_there.lock().as_mut() {
            drop(cleanup.attached.take());
        }
        exit_after_grace(&cleanup_there);
    })?;
    shut_down_on_signal(signals, Arc::clone(cleanup), move || {
        // A mount that the container has moved or covered, or that can't be unmounted, ends with the connection.
        container.detach_if_attached(program.as_fd());
    })
}

/// The supervisor of a command, as the command's server knows it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SupervisorHandle {
    /// A pipe that ends when the supervisor does.
    #[serde(with = "descriptor")]
    pub(crate) ends: OwnedFd,
    pub(crate) cgroups: Arc<CreatedCgroups>,
}

/// Ends the server of a view of `run` when a signal tells it to. When the supervisor ends, it ends the command's processes: a killed
/// supervisor can't thaw them any more.
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
        // A supervisor that lives continues with its command, and removes the cgroups itself.
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

/// Unmounts the view. The lock keeps the server from ending meanwhile: its session may end with the first of several
/// mounts, while the others remain.
fn unmount_under_lock(cleanup: &SharedCleanup, unmount: impl FnOnce()) {
    let _held = cleanup.lock();
    unmount();
}

/// Ends the process after a grace period. A session ends by itself once its view is unmounted, unless somebody still
/// has a file open there. Those users then get ENOTCONN.
fn exit_after_grace(cleanup: &SharedCleanup) -> ! {
    thread::sleep(SESSION_END_GRACE);
    let mut cleanup = cleanup.lock();
    drop(cleanup.take());
    tracing::info!("the view is still in use: ending nevertheless");
    // A thread whose session ends meanwhile waits for the lock, and so for the end of the process.
    exit_now()
}

/// Whether the process is about to exit, whatever its threads do.
static IS_EXITING: AtomicBool = AtomicBool::new(false);

/// Never returns if the process is about to exit. The session then broke off because its connection was closed, which
/// isn't an error.
pub(crate) fn park_if_exiting() {
    while IS_EXITING.load(Ordering::Acquire) {
        thread::park();
    }
}

/// Closes the connection and exits. A thread that waits for a device can't be ended. It would keep the shared
/// descriptors open, and with them the connection, so this closes them first, or the keeper does.
fn exit_now() -> ! {
    logging::finish();
    IS_EXITING.store(true, Ordering::Release);
    if !link::tell(&News::Ended) {
        let _ = sys::descriptors::abandon_files();
    }
    std::process::exit(0)
}
