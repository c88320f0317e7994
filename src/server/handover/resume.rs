//! The program that takes a view over: it becomes the view's keeper, in the process of the program before it.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::error::Error;
use crate::records::Records;
use crate::server::before::Before;
use crate::server::cleanup::run_cleanup;
use crate::server::handover::document::{self, Served};
use crate::server::handover::fallback::Fallback;
use crate::server::handover::point;
use crate::server::handover::state::State;
use crate::server::keeper::Keeper;
use crate::server::logging;
use crate::server::serve::MountTarget;
use crate::server::signals::ServerSignals;
use crate::server::status::StatusPipe;
use crate::sys;
use crate::sys::descriptors::{all_open, close_all, duplicate, inherited, set_inherited};

/// What the program before has said.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// The descriptor of the state.
    pub(crate) state: RawFd,
    /// The descriptor on which to report whether this program can read the state. It does nothing else then.
    pub(crate) check: Option<RawFd>,
    /// The fallback, if this program has to prove itself.
    pub(crate) fallback: Option<String>,
    /// Whether the view was told to end.
    pub(crate) is_ending: bool,
    /// Why this program, which was there before, takes over again in a new process.
    pub(crate) back: Option<String>,
}

/// Takes the view over, and returns when it ends.
///
/// # Errors
/// If this program can't read the state; those of serving.
pub(crate) fn resume(arguments: &Arguments, log: &logging::Options) -> Result<(), Error> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error| Error::system(what, error)
    };
    let cant = failed("can't take over the descriptors of the view");
    set_inherited(false).map_err(cant)?;
    // Copies of them are made, and then they are closed.
    let handed_over = all_open().map_err(failed("can't see the descriptors of the view"))?;
    let file = duplicate(arguments.state)
        .map_err(|errno| Error::usage("'resume' isn't for users").because(format!("it's given no state: {errno}")))?;
    if let Some(report) = arguments.check {
        let report = inherited(report).ok_or_else(|| Error::usage("'resume' is given no pipe for its report"))?;
        check(file.as_fd(), report);
    }
    point::reach("keeper");
    let state: State = document::read(file.as_fd())?;
    drop(file);
    let State { served, records, mut registered, control, log: server_log, before, trial } = state;
    let records = Records::open(records).map_err(failed("can't take over the records of the view"))?;
    let fallback = arguments.fallback.as_deref().and_then(Fallback::from_word);
    // What callers have open stays.
    let kept: HashSet<RawFd> = records.descriptors().into_iter().collect();
    close_all(handed_over.into_iter().filter(|number| !kept.contains(number)));
    server_log.resume(log);
    let trial = match (trial, &arguments.back) {
        (Some(mut trial), None) => {
            fallback.into_iter().for_each(|fallback| trial.secure(fallback));
            Some(trial)
        }
        (trial, back) => {
            if let Some(reason) = back {
                tracing::error!(%reason, "the upgrade has failed: the program before it goes on");
                trial.into_iter().for_each(|trial| drop(trial.fail(reason)));
            }
            None
        }
    };
    registered.iter_mut().for_each(|registered| registered.move_here());
    let Served { server, own_mount, abort_guard } = served;
    let before = Before { is_ending: before.is_ending || arguments.is_ending, ..before };
    let signals = ServerSignals::install()?;
    let cleanup = Arc::clone(&server.cleanup);
    if let Some(cleanup) = cleanup.lock().as_mut() {
        cleanup.adopt();
        if let Some(attached) = &mut cleanup.attached {
            let program = server.image.share_program();
            attached.use_program(program.map_err(failed("can't share the mount-helper"))?);
        }
    }
    let cgroups = match &server.target {
        MountTarget::Namespace(supervisor) => Some(Arc::clone(&supervisor.cgroups)),
        _ => None,
    };
    server.confine();
    let kept = server.keeper(own_mount.as_ref(), abort_guard.as_ref(), records, registered, control)?;
    let served = server.serve_kept(Keeper { before, trial, ..kept }, signals, own_mount, abort_guard, || ());
    crate::server::shutdown::start_exit_deadline();
    run_cleanup(&cleanup);
    // Those of `run`: its supervisor removes them as well.
    cgroups.iter().for_each(|cgroups| cgroups.remove());
    served
}

/// Looks at the state as the program that is asked, reports, and ends.
fn check(state: BorrowedFd<'_>, report: OwnedFd) -> ! {
    let report = StatusPipe::from(report);
    point::reach("check");
    let found = document::read::<State>(state).and_then(|state| {
        let records = state.records.try_clone().and_then(Records::open);
        records.map_err(|error| Error::system("can't take over the records of the view", error))?;
        // This process has changed nothing, and undoes nothing.
        std::mem::forget(state);
        Ok(())
    });
    match &found {
        Ok(()) => report.ok(),
        Err(error) => report.failed(error),
    }
    sys::process::exit_now(i32::from(found.is_err()))
}
