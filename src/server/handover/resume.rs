//! The program that takes a view over: it becomes the view's keeper, in the process of the program before it.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::error::Error;
use crate::records::{Number, Records};
use crate::server::before::Before;
use crate::server::cleanup::run_cleanup;
use crate::server::handover::document::{self, Served};
use crate::server::handover::fallback::Fallback;
use crate::server::handover::point;
use crate::server::handover::state::State;
use crate::server::handover::store::Kept;
use crate::server::keeper::Keeper;
use crate::server::logging;
use crate::server::serve::{MountTarget, prepare_process};
use crate::server::service_manager::ServiceManager;
use crate::server::shutdown::start_exit_deadline;
use crate::server::signals::ServerSignals;
use crate::server::status::StatusPipe;
use crate::sys;
use crate::sys::descriptors::{NO_DESCRIPTOR, all_open, close_all, duplicate, inherited, set_inherited};

/// What the program before has said.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// The descriptor of the state.
    pub(crate) state: RawFd,
    /// The descriptor on which to report whether this program can read the state. It does nothing else then.
    pub(crate) check: Option<RawFd>,
    /// The fallback, if this program has to prove itself.
    pub(crate) fallback: Option<String>,
    /// Why this program, which was there before, takes over again in a new process.
    pub(crate) back: Option<String>,
}

/// Takes the view over from the program before, in its process, and returns when the view ends.
///
/// # Errors
/// If this program can't read the state; those of serving.
pub(crate) fn resume(arguments: &Arguments, log: &logging::Options) -> Result<(), Error> {
    set_inherited(false).map_err(|error| Error::system("can't take over the descriptors of the view", error))?;
    // Copies of them are made, and then they are closed.
    let handed_over = all_open().map_err(|error| Error::system("can't see the descriptors of the view", error))?;
    let file = duplicate(arguments.state)
        .map_err(|errno| Error::usage("'resume' isn't for users").because(format!("it's given no state: {errno}")))?;
    if let Some(report) = arguments.check {
        let report = inherited(report).ok_or_else(|| Error::usage("'resume' is given no pipe for its report"))?;
        check(file.as_fd(), report);
    }
    crate::sys::process::leave_no_dump();
    point::reach("keeper");
    let state: State = document::read(file.as_fd())?;
    drop(file);
    let records = open_records(&state)?;
    let fallback = arguments.fallback.as_deref().and_then(Fallback::from_word);
    close_all_but(handed_over, &records);
    state.log.resume(log);
    let State { trial, before, mut registered, .. } = state;
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
    let before = Before { is_ending: before.is_ending || records.get(Number::Ending) != 0, ..before };
    take_over(State { trial, before, registered, ..state }, records, || ())
}

/// Takes over a view that the service manager has kept, in its new main process, and returns when the view ends.
///
/// # Errors
/// As [`resume`].
pub(crate) fn resume_kept(kept: Kept, log: &logging::Options) -> Result<(), Error> {
    let Kept { state: file, start, open, stored } = kept;
    let state: State = document::read(file.as_fd())?;
    drop(file);
    let records = open_records(&state)?;
    // First those that were closed with the former process, since the numbers of the others may be theirs.
    let (there, lost): (Vec<RawFd>, Vec<RawFd>) =
        records.descriptors().into_iter().partition(|number| open.contains_key(number));
    lost.into_iter().for_each(|number| records.move_descriptor(number, NO_DESCRIPTOR));
    for number in there {
        records.move_descriptor(number, open.get(&number).copied().unwrap_or(NO_DESCRIPTOR));
    }
    close_all_but(start, &records);
    log.continue_as_server();
    let (registered, control) = state.served.server.register();
    let manager = ServiceManager::of_process(state.served.server.is_foreground);
    prepare_process();
    // This process is a new one, which nobody has confined.
    take_over(State { registered, control, stored, filter: 0, ..state }, records, move || manager.ready())
}

fn open_records(state: &State) -> Result<Arc<Records>, Error> {
    let open = || {
        let activity = state.activity.as_ref().map(OwnedFd::try_clone).transpose()?;
        Records::open(state.records.try_clone()?, activity)
    };
    let records = open();
    records.map_err(|error| Error::system("can't take over the records of the view", error))
}

/// Closes what was handed over and copied, but for what callers have open.
fn close_all_but(handed_over: Vec<RawFd>, records: &Records) {
    let kept: HashSet<RawFd> = records.descriptors().into_iter().collect();
    close_all(handed_over.into_iter().filter(|number| !kept.contains(number)));
}

/// Becomes the keeper of the view. `live` is called once a server answers.
fn take_over(state: State, records: Arc<Records>, live: impl FnOnce() + 'static) -> Result<(), Error> {
    let State { served, registered, control, before, trial, filter, stored, .. } = state;
    let Served { server, own_mount, abort_guard } = served;
    let signals = ServerSignals::install()?;
    let cleanup = Arc::clone(&server.cleanup);
    if let Some(attached) = cleanup.lock().as_mut().and_then(|cleanup| cleanup.attached.as_mut()) {
        let program = server.image.share_program();
        attached.use_program(program.map_err(|error| Error::system("can't share the mount-helper", error))?);
    }
    let cgroups = match &server.target {
        MountTarget::Namespace(supervisor) => Some(Arc::clone(&supervisor.cgroups)),
        _ => None,
    };
    server.confine(filter);
    let keeper = server.keeper(own_mount.as_ref(), abort_guard.as_ref(), records, registered, control)?;
    let keeper = Keeper { before, trial, stored, ..keeper };
    let served = server.serve_kept(keeper, signals, own_mount, abort_guard, live);
    start_exit_deadline();
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
        open_records(&state)?;
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
