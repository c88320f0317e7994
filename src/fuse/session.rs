//! Mounting, and the session that serves a mount.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use nix::mount::{MsFlags, mount};

use super::adapter::Adapter;
use super::notify::abort_guard::Successor;
use super::notify::invalidation::Kernel;
use super::notify::self_mount::OwnMount;
use super::reply::survives;
use super::workers::Workers;
use crate::fs::dispatch::Dispatch;
use crate::fs::dispatch::{Containers, PerCaller};
use crate::fs::{CgroupFs, Host};
use crate::sys;

/// The filesystem type, as mountinfo shows it.
pub const FSTYPE: &str = crate::cgroup::VIEW_FSTYPE;

/// How many requests are served at once.
const WORKERS: usize = 4;

/// For how long nobody waits for the host's changes after some that the view has made itself. More of them are on their way then, and to wake a
/// thread for each, on a processor that sleeps, takes longer than to make the change. Another's is told so much later.
const NAP: Duration = Duration::from_millis(1);

/// A connection to the kernel's FUSE: mounted once, then served.
#[derive(Debug)]
pub struct Connection {
    device: OwnedFd,
}

/// Why a view couldn't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No FUSE.
    #[error("can't open /dev/fuse: {0}")]
    Device(#[source] io::Error),
    /// mount(2) failed.
    #[error("can't mount on {directory}: {source}")]
    Mount {
        /// Where.
        directory: String,
        /// Why.
        source: io::Error,
    },
}

impl Connection {
    /// Opens `/dev/fuse`.
    ///
    /// # Errors
    /// `ENOENT`, `ENODEV` or `ENXIO` where there's no FUSE, `EACCES` or `EPERM` without the right.
    pub fn open() -> Result<Self, MountError> {
        let device = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse");
        Ok(Self { device: device.map_err(MountError::Device)?.into() })
    }

    /// The same connection once more, for the process that mounts it where another one serves it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn share(&self) -> Result<Self, MountError> {
        Ok(Self { device: self.device.try_clone().map_err(MountError::Device)? })
    }

    /// Another channel of the connection, which has to be mounted. Nobody waits for requests there.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 4.2; those of opening `/dev/fuse`.
    pub(super) fn another_channel(&self) -> io::Result<OwnedFd> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let channel = File::options().read(true).write(true).custom_flags(flags).open("/dev/fuse")?;
        sys::fuse::join(channel.as_fd(), self.as_fd())?;
        Ok(channel.into())
    }

    /// Mounts it on a directory of the calling process' mount namespace.
    ///
    /// It has to be done in the initial user namespace, so that callers of all user namespaces may come in (`allow_other`), and in the
    /// server's pid namespace, in which the kernel then numbers the callers.
    ///
    /// # Errors
    /// What mount(2) says; `EPERM` without CAP_SYS_ADMIN.
    pub fn mount(&self, directory: &Path) -> Result<(), MountError> {
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            self.device.as_raw_fd()
        );
        // As a cgroupfs: SB_I_NOEXEC and SB_I_NODEV.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("vcgroupfs"), directory, Some(FSTYPE), flags, Some(options.as_str()))
            .map_err(|errno| MountError::Mount { directory: directory.display().to_string(), source: errno.into() })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// How long a thread rests after a panic, which may come again at once.
const REST_AFTER_PANIC: Duration = Duration::from_millis(100);

/// Does this again and again, until it returns false. A view without one of its threads would show what isn't so any more.
fn lasting(name: &str, round: impl Fn() -> bool) {
    loop {
        let mut goes_on = true;
        if !survives(name, || goes_on = round()) {
            thread::sleep(REST_AFTER_PANIC);
        }
        if !goes_on {
            return;
        }
    }
}

/// Shakes hands with the kernel.
fn start<R: Dispatch>(connection: Connection, route: Arc<R>) -> io::Result<Session<Adapter<R>>> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(WORKERS);
    let workers = Workers::of(connection.as_fd())?;
    Session::from_fd(Adapter::new(route, workers), connection.device, SessionACL::All, config)
}

/// Serves the callers of all containers until the connection is unmounted everywhere. `live` is called once the kernel's first request has been
/// answered. The kernel keeps nothing, so nothing is watched, and it's told nothing.
///
/// # Errors
/// As [`serve`].
pub fn serve_callers<C: Containers>(
    connection: Connection,
    all: Arc<PerCaller<C>>,
    live: impl FnOnce(),
) -> io::Result<()> {
    let session = start(connection, Arc::clone(&all))?;
    let (polled, ended) = (Arc::clone(&all), Arc::clone(&all));
    let waker = thread::Builder::new()
        .name("waker".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || lasting("waker", || polled.wake_the_ready()))?;
    let reaper = thread::Builder::new()
        .name("containers".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || lasting("containers", || ended.containers().forget_the_ended()))?;
    live();
    let served = session.run();
    all.stop_waiting();
    let _ = waker.join();
    let _ = reaper.join();
    served
}

/// Serves a mounted connection until it is unmounted. `live` is called once the kernel's first request has been answered. By its own mount
/// the server makes events for those who watch the view; without, they get those of what is done through the view. Without a successor, users
/// of a server that is killed may have to wait until somebody aborts the connection.
///
/// # Errors
/// When the kernel's protocol is too old, or reading requests fails.
pub fn serve<H: Host>(
    connection: Connection,
    fs: Arc<CgroupFs<H>>,
    own_mount: Option<OwnMount>,
    successor: Option<Successor>,
    live: impl FnOnce(),
) -> io::Result<()> {
    let session = start(connection, Arc::clone(&fs))?;
    let kernel = successor.as_ref().map(Kernel::apart).transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "no thread of its own for what the kernel has to forget");
        None
    });
    let kernel = kernel.unwrap_or_else(|| Kernel::Session(session.notifier()));
    let hands = own_mount.map(|own| own.start(fs.own_thread())).transpose();
    let hands = hands.unwrap_or_else(|error| {
        tracing::warn!(%error, "no thread for the view's own mount: inotify reports only what is done through the view");
        None
    });
    // Before anybody can look into the view.
    fs.start_replaying(hands.is_some());
    let (shown, notifier) = (Arc::clone(&fs), kernel.clone());
    let replayer = thread::Builder::new().name("replayer".to_owned()).stack_size(256 * 1024).spawn(move || {
        lasting("replayer", || {
            shown.replay(&notifier, hands.as_ref());
            false
        });
    })?;
    let watched = Arc::clone(&fs);
    let invalidator =
        thread::Builder::new().name("invalidator".to_owned()).stack_size(256 * 1024).spawn(move || {
            lasting("invalidator", || {
                let Some(changes) = watched.wait_for_changes() else { return false };
                // Every one of them is told, whatever the one before was.
                let is_news =
                    changes.iter().fold(false, |is_news, change| watched.invalidate(change, &kernel) | is_news);
                if !is_news {
                    thread::sleep(NAP);
                }
                true
            });
        })?;
    let polled = Arc::clone(&fs);
    let waker = thread::Builder::new()
        .name("waker".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || lasting("waker", || polled.wake_the_ready()))?;
    live();
    let served = session.run();
    fs.stop_waiting();
    fs.stop_replaying();
    let _ = replayer.join();
    let _ = invalidator.join();
    let _ = waker.join();
    served
}
