//! The session that serves a mounted connection: its workers, and the threads beside them.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::adapter::Adapter;
use super::connection::Connection;
use super::notify::abort_guard::AbortGuard;
use super::notify::invalidation::InvalidationSender;
use super::notify::lost_forgets::forget_later;
use super::notify::self_mount::SelfMount;
use super::passthrough::Passthrough;
use super::reply::run_catching_panics;
use super::workers::Workers;
use crate::fs::dispatch::Dispatch;
use crate::fs::dispatch::per_caller::{Containers, PerCaller};
use crate::fs::host::HostCredentials;
use crate::fs::{CgroupFs, Host};
use crate::records::Records;
use fuser::{Config, PollHandle, Session, SessionACL};

/// How many requests are served at once.
const WORKER_THREADS: usize = 4;

/// How long the server pauses its search for changes on the host after changes that were made through the view. More
/// of these mostly follow, and waking a thread for each takes longer than the change itself. Changes by others are
/// reported with this delay.
const OWN_CHANGES_BACKOFF: Duration = Duration::from_millis(1);

/// How long a thread waits after a panic, which may recur at once.
const PANIC_BACKOFF: Duration = Duration::from_millis(100);

/// Repeats a round until it returns false. It goes on after a panic: without one of its threads a view would show an
/// old state.
fn run_until_done(name: &str, round: impl Fn() -> bool) {
    loop {
        let mut goes_on = true;
        if !run_catching_panics(name, || goes_on = round()) {
            thread::sleep(PANIC_BACKOFF);
        }
        if !goes_on {
            return;
        }
    }
}

/// Makes a session of a connection, and negotiates the protocol with the kernel.
fn start<R: Dispatch>(connection: Connection, dispatch: Arc<R>) -> io::Result<Session<Adapter<R>>> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(WORKER_THREADS);
    let on_idle = <R::Host as HostCredentials>::forget_last_caller;
    let workers = Workers::new(connection.as_fd(), on_idle, R::HAS_ONE_TENANT, dispatch.records())?;
    let passthrough = Passthrough::new(connection.as_fd().try_clone_to_owned()?, &*dispatch);
    forget_later(&dispatch, connection.as_fd().try_clone_to_owned()?);
    let records = Arc::clone(dispatch.records());
    connection.resume(Adapter::new(dispatch, workers, passthrough), config, &records)
}

/// Wakes who polled open files when an earlier server was killed. They poll again, and so are known to this server.
fn wake_polls<F: fuser::Filesystem>(session: &Session<F>, records: &Records) {
    for poll in records.files().into_iter().filter_map(|file| file.poll) {
        let _ = session.notifier().poll(PollHandle(poll));
    }
}

/// Serves the callers of all containers until the connection is unmounted everywhere. Calls `live` once the kernel's
/// first request has been answered. The kernel caches nothing of such a mount, so the server watches and invalidates
/// nothing.
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
        .spawn(move || run_until_done("waker", || polled.wake_the_ready()))?;
    let reaper = thread::Builder::new()
        .name("containers".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || run_until_done("containers", || ended.containers().forget_the_ended()))?;
    wake_polls(&session, all.records());
    live();
    let served = session.run();
    all.stop_waiting();
    let _ = waker.join();
    let _ = reaper.join();
    served
}

/// Serves a mounted connection until it is unmounted. Calls `live` once the kernel's first request has been answered.
/// Through its own mount the server makes events for programs that watch the view. Without it they only get events of
/// changes that are made through the view. Without an abort guard, callers of a server that is killed may have to
/// wait until somebody aborts the connection.
///
/// # Errors
/// When the kernel's protocol is too old, or reading requests fails.
pub fn serve<H: Host>(
    connection: Connection,
    fs: Arc<CgroupFs<H>>,
    own_mount: Option<SelfMount>,
    abort_guard: Option<AbortGuard>,
    live: impl FnOnce(),
) -> io::Result<()> {
    let session = start(connection, Arc::clone(&fs))?;
    let kernel = abort_guard.as_ref().map(InvalidationSender::dedicated).transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "no thread of its own for what the kernel has to forget");
        None
    });
    let kernel = kernel.unwrap_or_else(|| InvalidationSender::Session(session.notifier()));
    let injector = own_mount.map(|own| own.start(fs.own_thread())).transpose();
    let injector = injector.unwrap_or_else(|error| {
        tracing::warn!(%error, "no thread for the view's own mount: inotify reports only what is done through the view");
        None
    });
    // This has to come before the first lookup in the view.
    fs.note_own_thread();
    fs.start_replaying(injector.is_some());
    let (shown, notifier) = (Arc::clone(&fs), kernel.clone());
    let replayer = thread::Builder::new().name("replayer".to_owned()).stack_size(256 * 1024).spawn(move || {
        run_until_done("replayer", || {
            shown.replay(&notifier, injector.as_ref());
            false
        });
    })?;
    let left = fs.changes_left();
    wake_polls(&session, fs.records());
    let watched = Arc::clone(&fs);
    let invalidator =
        thread::Builder::new().name("invalidator".to_owned()).stack_size(256 * 1024).spawn(move || {
            run_catching_panics("invalidator", || {
                watched.deal_with(&left, &kernel);
            });
            run_until_done("invalidator", || {
                let Some(report) = watched.wait_for_changes() else { return false };
                if !watched.deal_with(&report, &kernel) {
                    thread::sleep(OWN_CHANGES_BACKOFF);
                }
                true
            });
        })?;
    let polled = Arc::clone(&fs);
    let waker = thread::Builder::new()
        .name("waker".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || run_until_done("waker", || polled.wake_the_ready()))?;
    live();
    let served = session.run();
    fs.stop_waiting();
    fs.stop_replaying();
    let _ = replayer.join();
    let _ = invalidator.join();
    let _ = waker.join();
    served
}
