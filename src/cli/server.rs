//! The process that serves a view.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::error::{FAILED, Failed};
use super::options::ServeOptions;
use super::registry::{Registered, Registration};
use super::{Outcome, logging};
use crate::fs::CgroupFs;
use crate::fuse::{self, Connection, OwnMount};
use crate::helper::{AgentPool, HelperImage};
use crate::host::{HostCgroups, RealHost, refuge};
use crate::sys;
use crate::view::View;

/// All that a server needs, gathered while failures can still be told to whoever waits.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) host: HostCgroups,
    pub(super) view: Arc<View>,
    pub(super) connection: Connection,
    pub(super) image: HelperImage,
    pub(super) options: ServeOptions,
    pub(super) registration: Registration,
    /// What to unmount when it's told to end; `None` where the mount ends with its namespace.
    pub(super) mount_point: Option<PathBuf>,
}

impl Server {
    /// The image that agents run from.
    pub(super) fn image() -> Result<HelperImage, Failed> {
        HelperImage::new().map_err(|error| Failed::system("can't prepare the mount-helper", error))
    }

    /// Serves until the view is unmounted. The connection has to be mounted already; `live` is called once the view answers.
    pub(super) fn serve(self, own_mount: Option<OwnMount>, live: impl FnOnce()) -> Result<(), Failed> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error| Failed::system(what, error)
        };
        // Before any thread starts: they all inherit it, so that only the thread that waits for a signal gets one.
        let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect::<SigSet>();
        signals.thread_block().map_err(io::Error::from).map_err(failed("can't block signals"))?;
        sys::process::ignore_children().map_err(failed("can't ignore SIGCHLD"))?;
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        raise_descriptor_limit();
        // A server that is killed for want of memory leaves its container without cgroups.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
        let agents = AgentPool::new(self.image);
        let host = RealHost::new(Arc::clone(&self.view), self.host, Some(agents))
            .map_err(failed("can't read own namespaces"))?;
        let mut fs = CgroupFs::new(self.view, host)
            .map_err(|errno| Failed::system("can't find the root of the view", errno.into()))?;
        if self.options.coherent {
            fs.keep_nothing();
        }
        if self.options.no_passthrough {
            fs.read_everything();
        }
        let registered = Arc::new(parking_lot::Mutex::new(self.registration.enter()));
        if let Some(mount_point) = self.mount_point {
            unmount_on(signals, mount_point, Arc::clone(&registered))
                .map_err(failed("can't start the signal thread"))?;
        }
        let served = fuse::serve(self.connection, Arc::new(fs), own_mount, live);
        drop(registered.lock().take());
        served.map_err(failed("the session broke off"))
    }
}

/// A container may hold as many files open as the host lets us.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How long the session may take to end by itself once it's unmounted.
const GRACE: Duration = Duration::from_secs(1);

/// Unmounts when a signal asks to end; the session then ends by itself. Unless somebody still holds something open there: whoever asks a
/// server to end doesn't wait for its users, who get ENOTCONN from then on.
fn unmount_on(
    signals: SigSet,
    mount_point: PathBuf,
    registered: Arc<parking_lot::Mutex<Option<Registered>>>,
) -> io::Result<()> {
    std::thread::Builder::new().name("signals".to_owned()).stack_size(64 * 1024).spawn(move || {
        while let Ok(signal) = signals.wait() {
            tracing::info!(?signal, "told to end: unmounting");
            // Whoever may write to a directory above could have put another mount in the place.
            if !super::mount::is_view_at(&mount_point) {
                tracing::warn!(directory = %mount_point.display(), "not unmounted: another mount is there, or none");
                continue;
            }
            let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
            match nix::mount::umount2(&mount_point, flags) {
                Ok(()) => {
                    std::thread::sleep(GRACE);
                    drop(registered.lock().take());
                    tracing::info!("the view is still in use: ending nevertheless");
                    std::process::exit(0);
                }
                Err(errno) => tracing::warn!(%errno, directory = %mount_point.display(), "can't unmount"),
            }
        }
    })?;
    Ok(())
}

/// The two ends by which a server tells whoever started it how it went.
#[derive(Debug)]
pub(super) struct Status {
    pipe: OwnedFd,
}

impl Status {
    pub(super) fn pair() -> Result<(Status, Status), Failed> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|errno| Failed::system("can't make a pipe", errno.into()))?;
        Ok((Status { pipe: read }, Status { pipe: write }))
    }

    /// Tells that it went well.
    pub(super) fn ok(self) {
        let _ = File::from(self.pipe).write_all(&[0]);
    }

    /// Tells what went wrong.
    pub(super) fn failed(self, failed: &Failed) {
        let _ = File::from(self.pipe).write_all(&[&[failed.code()], failed.to_string().as_bytes()].concat());
    }

    /// Waits for what the other end tells.
    pub(super) fn wait(self) -> Result<(), Failed> {
        let mut told = Vec::new();
        let read = File::from(self.pipe).read_to_end(&mut told);
        match (read, told.split_first()) {
            (Ok(_), Some((0, _))) => Ok(()),
            (Ok(_), Some((code, message))) => Err(Failed::new(*code, String::from_utf8_lossy(message))),
            _ => Err(Failed::new(FAILED, "the server ended before the view was live")),
        }
    }
}

/// Starts a process in the background that runs `serve`, and waits until it says how it went. `serve` is given the way to say that all
/// is well.
pub(super) fn in_background(
    log: &logging::Options,
    serve: impl FnOnce(Box<dyn FnOnce()>) -> Result<(), Failed>,
) -> Outcome {
    let log_file = log.open()?;
    let (waiting, telling) = Status::pair()?;
    match sys::process::fork().map_err(|error| Failed::system("can't start the server", error))? {
        ForkResult::Parent { .. } => {
            drop(telling);
            waiting.wait()?;
            Ok(ExitCode::SUCCESS)
        }
        ForkResult::Child => {
            drop(waiting);
            // Whoever started it waits for an answer by this pipe, and gets it once.
            let telling = Arc::new(parking_lot::Mutex::new(Some(telling)));
            let live = Arc::clone(&telling);
            let served = daemonize().and_then(|()| log.start(log_file)).and_then(|()| {
                serve(Box::new(move || {
                    if let Some(status) = live.lock().take() {
                        status.ok();
                    }
                }))
            });
            match served {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(failed) => {
                    if let Some(status) = telling.lock().take() {
                        status.failed(&failed);
                    } else {
                        tracing::error!("{failed}");
                    }
                    Ok(ExitCode::from(failed.code()))
                }
            }
        }
    }
}

/// Leaves the terminal, the directory and the output of whoever started it.
pub(super) fn daemonize() -> Result<(), Failed> {
    setsid().map_err(|errno| Failed::system("can't make a session", errno.into()))?;
    std::env::set_current_dir("/").map_err(|error| Failed::system("can't change to /", error))?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Failed::system("can't open /dev/null", error))?;
    let redirect = || {
        dup2_stdin(null.as_fd())?;
        dup2_stdout(null.as_fd())?;
        dup2_stderr(null.as_fd())
    };
    redirect().map_err(|errno| Failed::system("can't redirect output", errno.into()))
}

impl From<refuge::NoRefuge> for Failed {
    fn from(error: refuge::NoRefuge) -> Self {
        Self::new(FAILED, error.to_string())
    }
}
