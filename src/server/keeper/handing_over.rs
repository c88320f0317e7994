//! A keeper hands its view over to another program, or back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::upgrade::Accepted;
use super::{Keeper, State, VERSION, use_capabilities};
use crate::records::{Number, descriptor};
use crate::server::control::Answer;
use crate::server::handover;
use crate::server::handover::document::{VERSIONS, Written};
use crate::server::handover::fallback::Fallback;
use crate::server::handover::stored::Stored;
use crate::server::handover::trial::Trial;
use crate::server::logging;
use crate::server::registry::status::ServerState;

/// The exit status of a main process that has left its view to the next one (`EX_TEMPFAIL` of sysexits.h).
const LEFT: i32 = 75;

impl Keeper {
    /// Takes the next steps of an upgrade. Returns whether the server has to make room for the other program's.
    pub(super) fn advance_upgrade(&self, state: &mut State) -> bool {
        if !state.takes_requests() {
            state.upgrade.break_off("the view is about to end");
            return false;
        }
        let mut upgrade = std::mem::take(&mut state.upgrade);
        let is_ready =
            upgrade.advance(self.control.as_ref(), &self.records, |version| self.write(version, None, state));
        state.upgrade = upgrade;
        is_ready
    }

    /// Lets a program that has proved itself keep the view.
    pub(super) fn judge_trial(&self, state: &mut State) {
        let is_passed = |trial: &mut Trial| {
            trial.is_passed(self.records.get(Number::Requests), self.records.requests_in_hand().len())
        };
        if let Some(trial) = state.trial.take_if(is_passed) {
            tracing::info!(version = VERSION, "another program has taken the view over");
            trial.succeed();
        }
    }

    /// Writes what another program needs.
    fn write(&self, version: u32, trial: Option<&Trial>, state: &State) -> io::Result<OwnedFd> {
        let (registered, control) = (self.registered.as_ref(), self.control.as_ref());
        let copy = |number| state.files.copy_of(number).unwrap_or(number);
        let stored = &self.stored;
        let written = Written::new(&self.served, copy, &self.records, state.before, registered, control, stored)?;
        Written { trial, ..written }.write(version)
    }

    /// Lets the service manager keep what the next main process needs, if this one ends with its server.
    pub(super) fn store(&mut self, state: &State) {
        if !self.manager.is_there() {
            return;
        }
        let copy = |number| state.files.copy_of(number).unwrap_or(number);
        // The next process makes a record of its own.
        let none = Stored::default();
        let written = Written::new(&self.served, copy, &self.records, state.before, None, None, &none);
        let version = VERSIONS.last().copied().unwrap_or_default();
        let kept = written.and_then(|written| {
            let named = descriptor::numbers(&serde_json::to_value(&written)?);
            Ok((written.write(version)?, named))
        });
        let kept = kept.and_then(|(document, named)| self.stored.replace(&self.manager, &document, &named));
        if let Err(error) = kept {
            tracing::warn!(%error, "the service manager doesn't keep the view");
            self.stored.clear(&self.manager);
        }
    }

    /// Leaves the view to the next main process, for which the service manager keeps it, and exits.
    pub(super) fn leave(mut self) -> ! {
        use_capabilities(true);
        self.manager.stopping();
        let kept = self.stored.add_open(&self.manager, &self.records.descriptors());
        if let Err(error) = kept {
            tracing::error!(%error, "the service manager doesn't keep all files that callers have open");
        }
        tracing::info!("the service manager starts another process, which takes the view over");
        self.leave_cleanup();
        drop(self.registered.take());
        logging::finish();
        std::process::exit(LEFT)
    }

    /// Executes the other program in this process. Returns only if that fails.
    pub(super) fn hand_over(&mut self, accepted: Accepted, state: &State) {
        use_capabilities(true);
        self.note(|status| status.state = ServerState::Starting);
        let Accepted { client, program, version } = accepted;
        let own = match handover::own_program() {
            Ok(own) => own,
            Err(error) => return client.answer(&Answer::Failed(format!("can't open the program before it: {error}"))),
        };
        let trial = Trial::new(own, version, client);
        let prepared = self.write(version, Some(&trial), state).and_then(|document| {
            let fallback = Fallback::start(trial.program(), document.as_fd(), &self.records)?;
            Ok((document, fallback))
        });
        let (document, fallback) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return drop(trial.fail(&format!("can't prepare the upgrade: {error}"))),
        };
        tracing::info!("executing another program, which takes the view over");
        logging::write_in_a_child(|| drop(state.files.restore()));
        let Err(errno) = handover::execute(program.as_fd(), document.as_fd(), &["--fallback", &fallback.word()]);
        fallback.release();
        tracing::error!(%errno, "can't execute the new program");
        drop(trial.fail(&format!("can't execute the new program: {errno}")));
    }

    /// Executes the program that was there before. Returns only if that fails.
    pub(super) fn go_back(&mut self, trial: Trial, reason: &str, state: &State) {
        use_capabilities(true);
        self.note(|status| status.state = ServerState::Starting);
        tracing::error!(reason, "the upgrade has failed: the program before this one goes on");
        let document = self.write(trial.version(), None, state);
        let program = trial.fail(reason);
        logging::write_in_a_child(|| drop(state.files.restore()));
        let gone = document.map(|document| {
            let Err(errno) = handover::execute(program.as_fd(), document.as_fd(), &[]);
            errno.into()
        });
        let error = gone.unwrap_or_else(|error: io::Error| error);
        tracing::error!(%error, "can't go back: this program goes on");
    }
}
