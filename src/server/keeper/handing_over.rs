//! A keeper hands its view over to another program, or back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::upgrade::{Accepted, Upgrade};
use super::{Keeper, State, use_capabilities};
use crate::server::handover;
use crate::server::handover::document::Written;
use crate::server::handover::fallback::Fallback;
use crate::server::handover::trial::Trial;
use crate::server::logging;
use crate::server::registry::status::ServerState;

impl Keeper {
    /// Takes the next steps of an upgrade. Returns whether the server has to make room for the other program's.
    pub(super) fn advance_upgrade(&self, state: &mut State) -> bool {
        if matches!(state.upgrade, Upgrade::Idle) && !state.takes_requests() {
            return false;
        }
        let mut upgrade = std::mem::take(&mut state.upgrade);
        let is_ready = upgrade.advance(self.control.as_ref(), |version| self.write(version, None, state));
        state.upgrade = upgrade;
        is_ready
    }

    /// Writes what another program needs.
    fn write(&self, version: u32, trial: Option<&Trial>, state: &State) -> io::Result<OwnedFd> {
        let (registered, control) = (self.registered.as_ref(), self.control.as_ref());
        let copy = |number| state.files.copy_of(number).unwrap_or(number);
        let written = Written::new(&self.served, copy, &self.records, state.before, registered, control)?;
        Written { trial, ..written }.write(version)
    }

    /// Executes the other program in this process. Returns only if that fails.
    pub(super) fn hand_over(&mut self, accepted: Accepted, state: &State) {
        use_capabilities(true);
        self.note(|status| status.state = ServerState::Starting);
        let Accepted { client, program, version } = accepted;
        let prepared = handover::own_program().and_then(|own| {
            let trial = Trial::new(own, version, client);
            let document = self.write(version, Some(&trial), state)?;
            let guard = self.abort_guard.as_ref().map(|(guard, _)| *guard);
            let fallback = Fallback::start(trial.program(), document.as_fd(), guard)?;
            Ok((trial, document, fallback))
        });
        let (trial, document, fallback) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return tracing::error!(%error, "no upgrade"),
        };
        tracing::info!("executing another program, which takes the view over");
        logging::write_in_a_child(|| drop(state.files.restore()));
        let Err(errno) = handover::execute(program.as_fd(), document.as_fd(), &["--fallback", &fallback.word()]);
        drop(fallback);
        tracing::error!(%errno, "can't execute the new program");
        drop(trial.fail(&format!("can't execute the new program: {errno}")));
    }

    /// Executes the program that was there before. Returns only if that fails.
    pub(super) fn go_back(&mut self, trial: Trial, reason: &str, state: &State) {
        use_capabilities(true);
        self.note(|status| status.state = ServerState::Starting);
        tracing::error!(reason, "the upgrade has failed: the program before this one goes on");
        let version = trial.version();
        let program = trial.fail(reason);
        logging::write_in_a_child(|| drop(state.files.restore()));
        let gone = self.write(version, None, state).map(|document| {
            let Err(errno) = handover::execute(program.as_fd(), document.as_fd(), &[]);
            errno.into()
        });
        let error = gone.unwrap_or_else(|error: io::Error| error);
        tracing::error!(%error, "can't go back: this program goes on");
    }
}
