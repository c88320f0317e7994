//! The keeper: the process that starts a view's server, and starts another one when that is killed.
//!
//! It has a single thread, and forks the servers. It shares its descriptor table with them ([`files`]), so while it
//! lives, the connection to the kernel stays open, and callers wait instead of getting an error. What a server has to
//! remember is in memory that they share, too ([`crate::records`]). Nothing is sent or copied while a server works.

mod failures;
mod files;
mod life;
pub(crate) mod link;
mod watchdog;

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use self::failures::{Failures, Verdict};
pub(crate) use self::files::KEEPERS_DESCRIPTORS;
use self::files::StartFiles;
use self::life::Life;
use self::link::{KeeperEnd, News};
use self::watchdog::{Crashes, Watchdog};
use crate::error::Error;
use crate::records::Records;
use crate::server::cleanup::SharedCleanup;
use crate::server::logging;
use crate::server::registry::Registered;
use crate::server::registry::status::{ServerState, Status, now};
use crate::server::service_manager::ServiceManager;
use crate::sys;
use crate::sys::capability::{capabilities, set_capabilities};

/// The signals that the keeper passes on to its server.
const PASSED_ON: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// How long a killed server's threads may take to end. One that waits for a device may take for ever.
const REAP_TIMEOUT: Duration = Duration::from_millis(50);

/// How long a server may take to exit that has said that it ends.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server may take to end after a signal: longer than its own limit.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// What a server has to know of those before it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    /// Whether the view was live.
    pub(crate) is_live: bool,
    /// Whether the command that attaches had finished.
    pub(crate) is_committed: bool,
    /// The keeper's copies of the descriptors of the view's own mount. `None` if that was no longer needed.
    pub(crate) self_mount_copies: Option<[RawFd; 2]>,
}

/// What a keeper is made of.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) records: Arc<Records>,
    pub(crate) registered: Option<Registered>,
    /// The descriptors of the server's own mount, which keep the view from ending.
    pub(crate) self_mount: Option<[RawFd; 2]>,
    /// The connection's `/dev/fuse`.
    pub(crate) device: OwnedFd,
    /// The abort guard, and the descriptors whose end it waits for.
    pub(crate) abort_guard: Option<(Pid, [RawFd; 3])>,
    /// What undoes the server's changes. Each server has a copy, and one that ends deliberately runs it.
    pub(crate) cleanup: SharedCleanup,
    pub(crate) manager: ServiceManager,
}

/// A running server.
#[derive(Debug)]
struct Running {
    pid: Pid,
    life: Life,
    /// What it said at its end.
    said: Option<Result<(), Error>>,
    /// When it has to have ended: a signal told it to.
    deadline: Option<Instant>,
    watchdog: Watchdog,
    /// Why the keeper has killed it.
    killed_for: Option<String>,
}

impl Keeper {
    /// Keeps a server running: `serve` is called in a process of its own. Returns when a server has ended deliberately,
    /// or after too many failures. `live` is called here, once the view is live and `list` says so.
    ///
    /// # Errors
    /// The server's error before the view was live; an error that says why the keeper gave up.
    pub(crate) fn keep(
        mut self,
        live: impl FnOnce() + 'static,
        serve: impl FnOnce(Before) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let cant = |what: &'static str| move |errno: Errno| Error::system(what, errno.into());
        let _ = prctl::set_name(c"keeper");
        let signals = own_signals().map_err(cant("can't take over signals"))?;
        let (news, link) = KeeperEnd::pair().map_err(cant("can't make a socket"))?;
        let in_disorder = |error| Error::system("can't keep the server's descriptors", error);
        let mut files = StartFiles::of_now().map_err(in_disorder)?;
        files.drop(&self.own(&signals, &news));
        let before = Before {
            self_mount_copies: self.self_mount.and_then(|numbers| files.copies_of(numbers)),
            ..Before::default()
        };
        let mut state = State { before, is_ending: false, files, live: Some(Box::new(live)) };
        let (mut failures, mut crashes) = (Failures::new(), Crashes::default());
        // Only the servers use what it has taken over. This process has their descriptors, but they close them.
        let serve = ManuallyDrop::new(serve);
        loop {
            state.files.put_back(&self.records, &self.own(&signals, &news)).map_err(in_disorder)?;
            let life = Life::new().map_err(cant("can't make a pipe"))?;
            use_capabilities(true);
            let pid = sys::process::fork_sharing_files().map_err(cant("can't start the server"))?;
            let Some(pid) = pid else {
                let before = state.before;
                life::serve(life, link, move || ManuallyDrop::into_inner(serve)(before))
            };
            use_capabilities(false);
            // The new server has the records that wait to be written.
            logging::forget_queued();
            let mut running =
                Running { pid, life, said: None, deadline: None, watchdog: Watchdog::default(), killed_for: None };
            self.note(|status| {
                status.server = pid.as_raw().unsigned_abs();
                status.keeper = Some(std::process::id());
            });
            if state.is_ending {
                let _ = kill(pid, Signal::SIGTERM);
            }
            self.wait_for_end(&mut running, &mut state, &signals, &news);
            let Running { life, said, .. } = running;
            // Before the table is put in order: only these two numbers have an owner in this process.
            drop(life);
            let how = reap(pid, if said.is_some() { EXIT_TIMEOUT } else { REAP_TIMEOUT });
            match said {
                Some(Ok(())) => {
                    self.end(state.files, how.is_some(), &signals, &news);
                    return Ok(());
                }
                Some(Err(error)) if !state.before.is_live => {
                    self.end(state.files, how.is_some(), &signals, &news);
                    return Err(error);
                }
                Some(Err(error)) => tracing::error!(%error, "the server has failed"),
                None => {}
            }
            if how.as_ref().is_some_and(Ended::is_crash) {
                crashes.note(&self.records, self.device.as_fd());
            }
            let reason = running.killed_for.unwrap_or_else(|| how.map_or("killed".to_owned(), Ended::into_words));
            match failures.next(Instant::now()) {
                Verdict::GiveUp(count) => {
                    if !state.before.is_live {
                        // The caller undoes its changes.
                        let _ = state.files.put_back(&self.records, &self.own(&signals, &news));
                    }
                    return Err(self.give_up(&reason, count, state.before.is_live));
                }
                Verdict::StartAfter(pause) => {
                    tracing::warn!(%reason, server = pid.as_raw(), "the server has ended: starting it again");
                    self.manager.status(&format!("the server was started again: {reason}"));
                    self.note(|status| {
                        status.state = ServerState::Starting;
                        status.restarts += 1;
                        status.last_restart = Some(now());
                        status.reason = Some(reason);
                    });
                    std::thread::sleep(pause);
                }
            }
        }
    }

    /// Waits until a server has ended.
    fn wait_for_end(&mut self, running: &mut Running, state: &mut State, signals: &SignalFd, news: &KeeperEnd) {
        let mut last_look = Instant::now();
        loop {
            let left = running.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let limit = left.unwrap_or(watchdog::INTERVAL).min(watchdog::INTERVAL);
            let mut waited = [
                PollFd::new(running.life.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(news.as_fd(), PollFlags::POLLIN),
            ];
            let ready = poll(&mut waited, u16::try_from(limit.as_millis()).unwrap_or(u16::MAX));
            let is_late = ready == Ok(0) && running.deadline.is_some_and(|deadline| deadline <= Instant::now());
            let has_moved = waited.first().is_some_and(|life| life.any().unwrap_or(true));
            // What it has said before its end counts.
            let has_ended = has_moved && running.life.has_ended();
            let mut is_child_gone = false;
            while let Ok(Some(info)) = signals.read_signal() {
                match Signal::try_from(info.ssi_signo.cast_signed()) {
                    Ok(Signal::SIGCHLD) => is_child_gone |= has_exited(running.pid),
                    Ok(signal) => {
                        let _ = kill(running.pid, signal);
                        if signal != Signal::SIGHUP {
                            state.is_ending = true;
                            running.deadline.get_or_insert(Instant::now() + END_TIMEOUT);
                        }
                    }
                    Err(_) => {}
                }
            }
            while let Some(told) = news.next() {
                self.hear(told, running, state);
            }
            if has_ended || is_child_gone {
                return;
            }
            if last_look.elapsed() >= watchdog::INTERVAL {
                last_look = Instant::now();
                self.manager.alive();
                if let Some(reason) = running.watchdog.look(&self.records, self.device.as_fd()) {
                    tracing::error!(%reason, "the server hangs: killing it");
                    running.killed_for = Some(reason);
                    let _ = kill(running.pid, Signal::SIGKILL);
                }
            }
            if is_late {
                tracing::warn!("the server doesn't end: killing it");
                let _ = kill(running.pid, Signal::SIGKILL);
                running.deadline = None;
            }
        }
    }

    fn hear(&mut self, news: News, running: &mut Running, state: &mut State) {
        match news {
            News::Live => {
                state.before.is_live = true;
                self.note(|status| status.state = ServerState::Live);
                if let Some(live) = state.live.take() {
                    live();
                }
            }
            News::Committed => state.before.is_committed = true,
            News::SelfMountEnded => {
                state.before.self_mount_copies = None;
                // The server closes the copies: its view ends even if its keeper was killed.
                state.files.forget(self.self_mount.as_slice().as_flattened());
            }
            News::Ending => {
                self.manager.stopping();
                state.is_ending = true;
                running.deadline.get_or_insert(Instant::now() + END_TIMEOUT);
            }
            News::Ended => running.said = Some(Ok(())),
            News::Failed(error) => running.said = Some(Err(error)),
        }
    }

    /// Ends the keeper after its server.
    fn end(mut self, mut files: StartFiles, is_gone: bool, signals: &SignalFd, news: &KeeperEnd) {
        use_capabilities(true);
        self.leave_cleanup();
        self.registered = None;
        if is_gone {
            // The connection ends now, whatever the caller still has to do.
            files.drop_device(self.device.as_fd());
            files.drop(self.self_mount.as_slice().as_flattened());
            if let Some((_, descriptors)) = &self.abort_guard {
                files.drop(descriptors);
            }
            let own = self.own(signals, news);
            drop(self.device);
            // The caller uses some that the server has closed.
            let _ = files.put_back(&Records::none(), &own);
            if let Some((guard, _)) = self.abort_guard {
                reap(guard, EXIT_TIMEOUT);
            }
        } else {
            // A thread that waits for a device keeps the table of descriptors, and with it the connection.
            logging::finish();
            let _ = sys::descriptors::abandon_files();
        }
    }

    /// Ends the connection, so that callers get an error instead of waiting. A view that was live stays mounted: without
    /// it, its container would see the host's tree.
    fn give_up(self, reason: &str, failures: usize, was_live: bool) -> Error {
        let reason = format!("the server has ended {failures} times within a minute, at last: {reason}");
        use_capabilities(true);
        tracing::error!(%reason, "giving up: callers get errors from now on");
        if was_live {
            self.leave_cleanup();
            if let Some(mut registered) = self.registered {
                registered.update(|status| {
                    status.state = ServerState::Failed;
                    status.reason = Some(reason.clone());
                });
                registered.leave();
            }
            logging::finish();
            let _ = sys::descriptors::abandon_files();
        }
        Error::failed(reason)
    }

    /// Leaves the changes to a server that has undone them, or as they are.
    fn leave_cleanup(&self) {
        std::mem::forget(self.cleanup.lock().take());
    }

    fn note(&mut self, change: impl FnOnce(&mut Status)) {
        if let Some(registered) = &mut self.registered {
            registered.update(change);
        }
    }

    /// The descriptors that the keeper alone uses.
    fn own(&self, signals: &SignalFd, news: &KeeperEnd) -> Vec<RawFd> {
        let registered = self.registered.iter().flat_map(Registered::descriptors);
        registered.chain([signals.as_fd().as_raw_fd(), news.number()]).collect()
    }
}

/// What the keeper remembers from server to server.
struct State {
    before: Before,
    /// Whether a signal has told the view to end.
    is_ending: bool,
    files: StartFiles,
    /// To be called when the view is live.
    live: Option<Box<dyn FnOnce()>>,
}

/// Makes the permitted capabilities effective, or none. The keeper has them for its servers, and needs none while it
/// waits.
fn use_capabilities(uses: bool) {
    let set = capabilities().and_then(|own| set_capabilities(own.permitted, if uses { own.permitted } else { 0 }));
    if let Err(errno) = set {
        tracing::debug!(%errno, "the keeper can't change its capabilities");
    }
}

/// Blocks the signals that the keeper acts on.
fn own_signals() -> Result<SignalFd, Errno> {
    // The end of a child is reported only with the default action.
    sys::process::set_disposition(Signal::SIGCHLD, false).map_err(|_| Errno::EINVAL)?;
    let set: SigSet = PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Whether a child has exited, with all of its threads. It's left to be reaped.
fn has_exited(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)))
}

/// How a process ended.
#[derive(Debug)]
enum Ended {
    Exited(i32),
    Killed(Signal),
    Unknown(Errno),
}

impl Ended {
    /// Whether it did so itself, by a fault of the program.
    fn is_crash(&self) -> bool {
        matches!(
            self,
            Self::Exited(1..)
                | Self::Killed(
                    Signal::SIGSEGV
                        | Signal::SIGBUS
                        | Signal::SIGABRT
                        | Signal::SIGILL
                        | Signal::SIGFPE
                        | Signal::SIGTRAP
                        | Signal::SIGSYS
                )
        )
    }

    /// The words for it.
    fn into_words(self) -> String {
        match self {
            Self::Exited(0) => "it has ended by itself".to_owned(),
            Self::Exited(status) => format!("it has ended with status {status}"),
            Self::Killed(signal) => format!("killed by {signal}"),
            Self::Unknown(errno) => errno.to_string(),
        }
    }
}

/// Waits until a child has ended with all of its threads, and says how. `None` if it hasn't within the limit.
fn reap(pid: Pid, limit: Duration) -> Option<Ended> {
    let end = Instant::now() + limit;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => return Some(Ended::Exited(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(Ended::Killed(signal)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Some(Ended::Unknown(errno)),
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
