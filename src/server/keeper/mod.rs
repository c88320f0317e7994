//! The keeper: the process that starts a view's server, and starts another one when that is killed.
//!
//! It has a single thread, and forks the servers. It shares its descriptor table with them ([`files`]), so while it
//! lives, the connection to the kernel stays open, and callers wait instead of getting an error. What a server has to
//! remember is in memory that they share, too ([`crate::records`]). Nothing is sent or copied while a server works.

mod children;
mod ending;
mod failures;
mod files;
mod handing_over;
mod life;
pub(crate) mod link;
mod upgrade;
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
use nix::unistd::Pid;

use self::children::{Ended, has_exited, reap, reap_others};
use self::failures::{Failures, Verdict};
pub(crate) use self::files::KEEPERS_DESCRIPTORS;
use self::files::StartFiles;
use self::life::Life;
use self::link::{KeeperEnd, News};
use self::upgrade::Upgrade;
use self::watchdog::{Crashes, Watchdog};
use crate::error::Error;
use crate::records::{Number, Records};
use crate::server::before::Before;
use crate::server::cleanup::SharedCleanup;
use crate::server::control::ControlSocket;
use crate::server::handover;
use crate::server::handover::document::ServedText;
use crate::server::handover::point;
use crate::server::handover::stored::Stored;
use crate::server::handover::trial::Trial;
use crate::server::logging;
use crate::server::registry::Registered;
use crate::server::registry::status::{ServerState, Status, now};
use crate::server::service_manager::ServiceManager;
use crate::sys;
use crate::sys::capability::{capabilities, set_capabilities};

/// The version of this program, as `--version` prints it.
const VERSION: &str = env!("VCGROUPFS_VERSION");

/// The signals that the keeper passes on to its server.
const PASSED_ON: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The signal with which a service manager ends the main process that starts another one at once (`RestartKillSignal=`).
const RESTART: Signal = Signal::SIGUSR2;

/// How long a killed server's threads may take to end. One that waits for a device may take for ever.
const REAP_TIMEOUT: Duration = Duration::from_millis(50);

/// How long to wait before a server is started again whose program has still to prove itself.
const TRIAL_PAUSE: Duration = Duration::from_millis(10);

/// How long a server may take to exit that has said that it ends.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server may take to end after a signal: longer than its own limit.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// What a keeper is made of.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// What the servers start with, for another program.
    pub(crate) served: ServedText,
    pub(crate) records: Arc<Records>,
    pub(crate) registered: Option<Registered>,
    /// Where it's asked to do something.
    pub(crate) control: Option<ControlSocket>,
    /// The descriptors of the server's own mount, which keep the view from ending.
    pub(crate) self_mount: Option<[RawFd; 2]>,
    /// The connection's `/dev/fuse`.
    pub(crate) device: OwnedFd,
    /// The abort guard, and the descriptors whose end it waits for.
    pub(crate) abort_guard: Option<(Pid, [RawFd; 3])>,
    /// What undoes the server's changes. Each server has a copy, and one that ends deliberately runs it.
    pub(crate) cleanup: SharedCleanup,
    pub(crate) manager: ServiceManager,
    /// What an earlier program's servers have left.
    pub(crate) before: Before,
    /// Whether the first server has to prove that this program can serve the view.
    pub(crate) trial: Option<Trial>,
    /// What the service manager keeps.
    pub(crate) stored: Stored,
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
        let _ = prctl::set_name(c"keeper");
        // What an earlier program has left.
        children::reap_all();
        let (mut state, own, link) = match self.begin(Box::new(live)) {
            Ok(begun) => begun,
            Err(error) => return Err(self.break_off(error, None)),
        };
        // Only the servers use what it has taken over. This process has their descriptors, but they close them.
        match self.serve_on(&mut state, &own, link, ManuallyDrop::new(serve)) {
            Ok(Finish::Ended(result, is_gone)) => {
                self.end(state, is_gone, &own);
                result
            }
            Ok(Finish::GaveUp(reason)) => Err(self.give_up(reason, &mut state, &own)),
            Ok(Finish::Left) => self.leave(),
            Err(error) => Err(self.break_off(error, Some(state))),
        }
    }

    /// Takes over signals and descriptors. Returns the servers' end of their connection to this process, too.
    fn begin(&mut self, live: Box<dyn FnOnce()>) -> Result<(State, Own, OwnedFd), Error> {
        let cant = |what: &'static str| move |errno: Errno| Error::system(what, errno.into());
        let signals = own_signals(self.manager.is_there()).map_err(cant("can't take over signals"))?;
        let (news, link) = KeeperEnd::pair().map_err(cant("can't make a socket"))?;
        let own = Own { signals, news };
        point::reach("begin");
        // An earlier program's servers have opened some of them.
        let mut others = self.own(&own);
        others.extend(self.records.descriptors());
        others.extend(self.trial.iter().flat_map(Trial::descriptors));
        let files = StartFiles::of_now_but(&others).map_err(in_disorder)?;
        let self_mount_copies = self.self_mount.and_then(|numbers| files.copies_of(numbers));
        let before = Before { self_mount_copies, ..self.before };
        if before.is_live {
            self.disown_cleanup();
        }
        let (live, upgrade, trial) = (Some(live), Upgrade::default(), self.trial.take());
        Ok((State { before, files, live, upgrade, is_stored: false, is_leaving: false, trial }, own, link))
    }

    /// Starts one server after the other.
    fn serve_on(
        &mut self,
        state: &mut State,
        own: &Own,
        link: OwnedFd,
        serve: ManuallyDrop<impl FnOnce(Before) -> Result<(), Error>>,
    ) -> Result<Finish, Error> {
        let cant = |what: &'static str| move |errno: Errno| Error::system(what, errno.into());
        let (mut failures, mut crashes) = (Failures::new(), Crashes::default());
        loop {
            let kept = [self.own(own), state.descriptors()].concat();
            state.files.put_back(&self.records, &kept).map_err(in_disorder)?;
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
                status.version = Some(VERSION.to_owned());
            });
            if state.before.is_ending {
                let _ = kill(pid, Signal::SIGTERM);
            }
            self.wait_for_end(&mut running, state, own);
            let Running { life, said, mut killed_for, .. } = running;
            // Before the table is put in order: only these two numbers have an owner in this process.
            drop(life);
            let how = reap(pid, if said.is_some() { EXIT_TIMEOUT } else { REAP_TIMEOUT });
            match said {
                Some(Ok(())) => return Ok(Finish::Ended(Ok(()), how.is_some())),
                Some(Err(error)) if !state.before.is_live => return Ok(Finish::Ended(Err(error), how.is_some())),
                Some(Err(error)) => {
                    tracing::error!(%error, "the server has failed");
                    killed_for.get_or_insert(error.to_string());
                }
                None => {}
            }
            let is_crash = how.as_ref().is_some_and(Ended::is_crash);
            if is_crash {
                crashes.note(&self.records, self.device.as_fd());
            }
            let reason = killed_for.unwrap_or_else(|| how.map_or("killed".to_owned(), Ended::into_words));
            if state.is_leaving {
                return Ok(Finish::Left);
            }
            if let Some(accepted) = state.upgrade.take_ready() {
                self.hand_over(accepted, state);
                continue;
            }
            if let Some(mut trial) = state.trial.take() {
                if is_crash || trial.left().is_zero() {
                    self.go_back(trial, &reason, state);
                } else {
                    trial.note_end();
                    state.trial = Some(trial);
                    std::thread::sleep(TRIAL_PAUSE);
                }
                continue;
            }
            match failures.next(Instant::now()) {
                Verdict::GiveUp(count) => {
                    return Ok(Finish::GaveUp(format!(
                        "the server has ended {count} times within a minute, at last: {reason}"
                    )));
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
    fn wait_for_end(&mut self, running: &mut Running, state: &mut State, own: &Own) {
        let Own { signals, news } = own;
        let mut last_look = Instant::now();
        loop {
            let left = running.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            self.judge_trial(state);
            if state.before.is_live && state.trial.is_none() && !state.is_stored {
                state.is_stored = true;
                self.store(state);
            }
            let trial = state.trial.as_ref().map_or(Duration::MAX, Trial::pause);
            let limit = left.unwrap_or(watchdog::INTERVAL).min(watchdog::INTERVAL).min(trial).min(state.upgrade.left());
            let control = self.control.as_ref().filter(|_| state.takes_requests());
            let mut waited = vec![
                PollFd::new(running.life.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(news.as_fd(), PollFlags::POLLIN),
            ];
            waited.extend(state.upgrade.awaited(control).map(|file| PollFd::new(file, PollFlags::POLLIN)));
            let ready = poll(&mut waited, u16::try_from(limit.as_millis()).unwrap_or(u16::MAX));
            let is_late = ready == Ok(0) && running.deadline.is_some_and(|deadline| deadline <= Instant::now());
            let has_moved = waited.first().is_some_and(|life| life.any().unwrap_or(true));
            // What it has said before its end counts.
            let has_ended = has_moved && running.life.has_ended();
            let mut is_child_gone = false;
            while let Ok(Some(info)) = signals.read_signal() {
                match Signal::try_from(info.ssi_signo.cast_signed()) {
                    Ok(Signal::SIGCHLD) => {
                        is_child_gone |= has_exited(running.pid);
                        reap_others(&[Some(running.pid), state.upgrade.process()]);
                    }
                    Ok(RESTART) if state.takes_requests() => {
                        state.is_leaving = true;
                        let _ = kill(running.pid, Signal::SIGKILL);
                    }
                    Ok(signal) => {
                        let signal = if signal == RESTART { Signal::SIGTERM } else { signal };
                        let _ = kill(running.pid, signal);
                        if signal != Signal::SIGHUP {
                            self.records.set(Number::Ending, 1);
                            state.before.is_ending = true;
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
            if self.advance_upgrade(state) {
                let _ = kill(running.pid, Signal::SIGKILL);
            }
            if state.trial.as_ref().is_some_and(|trial| trial.left().is_zero()) {
                running.killed_for =
                    Some(format!("the new program didn't come up in {} s", handover::TRIAL_LIMIT.as_secs()));
                let _ = kill(running.pid, Signal::SIGKILL);
            }
            if state.before.is_live {
                logging::write_in_a_child(|| drop(state.files.restore()));
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
                self.disown_cleanup();
                let requests = self.records.get(Number::Requests);
                state.trial.iter_mut().for_each(|trial| trial.note_live(requests));
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
                self.records.set(Number::Ending, 1);
                state.before.is_ending = true;
                running.deadline.get_or_insert(Instant::now() + END_TIMEOUT);
            }
            News::Ended => running.said = Some(Ok(())),
            News::Failed(error) => running.said = Some(Err(error)),
        }
    }

    fn note(&mut self, change: impl FnOnce(&mut Status)) {
        if let Some(registered) = &mut self.registered {
            registered.update(change);
        }
    }

    /// The descriptors that the keeper alone uses.
    fn own(&self, own: &Own) -> Vec<RawFd> {
        let registered = self.registered.iter().flat_map(Registered::descriptors);
        let control = self.control.as_ref().map(ControlSocket::number);
        registered.chain(control).chain([own.signals.as_fd().as_raw_fd(), own.news.number()]).collect()
    }
}

/// What the keeper itself has open from its beginning.
#[derive(Debug)]
struct Own {
    signals: SignalFd,
    news: KeeperEnd,
}

/// How a keeper's work ends.
enum Finish {
    /// A server has ended deliberately, or with an error before the view was live. Whether it's gone.
    Ended(Result<(), Error>, bool),
    /// For this reason.
    GaveUp(String),
    /// The service manager starts another main process for the view.
    Left,
}

fn in_disorder(error: std::io::Error) -> Error {
    Error::system("can't keep the server's descriptors", error)
}

/// What the keeper remembers from server to server.
struct State {
    before: Before,
    files: StartFiles,
    /// To be called when the view is live.
    live: Option<Box<dyn FnOnce()>>,
    upgrade: Upgrade,
    /// Whether the service manager was told what to keep.
    is_stored: bool,
    /// Whether the service manager is about to start another process for the view.
    is_leaving: bool,
    /// Whether this program has to prove itself.
    trial: Option<Trial>,
}

impl State {
    /// The descriptors that an upgrade needs.
    fn descriptors(&self) -> Vec<RawFd> {
        self.trial.iter().flat_map(Trial::descriptors).chain(self.upgrade.descriptors()).collect()
    }

    /// Ends an upgrade, since the view ends.
    fn settle(&mut self, reason: &str) {
        self.trial.take().into_iter().for_each(|trial| drop(trial.fail(reason)));
        self.upgrade.break_off(reason);
    }

    /// Whether an upgrade can begin.
    fn takes_requests(&self) -> bool {
        self.before.is_live && !self.before.is_ending && self.trial.is_none()
    }
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
fn own_signals(has_manager: bool) -> Result<SignalFd, Errno> {
    // The end of a child is reported only with the default action.
    sys::process::set_disposition(Signal::SIGCHLD, false).map_err(|_| Errno::EINVAL)?;
    let set: SigSet = PASSED_ON.into_iter().chain([Signal::SIGCHLD]).chain(has_manager.then_some(RESTART)).collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
