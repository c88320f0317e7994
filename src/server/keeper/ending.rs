//! The end of a keeper.

use std::os::fd::AsFd;

use super::children::reap;
use super::{EXIT_TIMEOUT, Keeper, Own, State, use_capabilities};
use crate::error::Error;
use crate::records::Records;
use crate::server::cleanup::Cleanup;
use crate::server::logging;
use crate::server::registry::Registered;
use crate::server::registry::status::ServerState;
use crate::sys;

impl Keeper {
    /// Ends the keeper after its server.
    pub(super) fn end(mut self, mut state: State, is_gone: bool, own: &Own) {
        use_capabilities(true);
        state.settle("the view has ended");
        // Otherwise the connection would live on there, and callers would wait.
        self.stored.clear(&self.manager);
        self.leave_cleanup();
        self.registered = None;
        let mut files = state.files;
        if is_gone {
            // The connection ends now, whatever the caller still has to do.
            files.drop_device(self.device.as_fd());
            files.drop(self.self_mount.as_slice().as_flattened());
            if let Some((_, descriptors)) = &self.abort_guard {
                files.drop(descriptors);
            }
            let own = self.own(own);
            drop(self.device);
            // The caller uses some that the server has closed.
            let _ = files.put_back(&Records::none(), &own);
            if let Some((guard, _)) = self.abort_guard {
                reap(guard, EXIT_TIMEOUT);
            }
        } else {
            // A thread that waits for a device keeps the table of descriptors, and with it the connection.
            let _ = files.restore();
            logging::finish();
            let _ = sys::descriptors::abandon_files();
        }
    }

    /// Ends the connection, so that callers get an error instead of waiting. A view that was live stays mounted: without
    /// it, its container would see the host's tree.
    pub(super) fn give_up(mut self, reason: String, state: &mut State, own: &Own) -> Error {
        state.settle(&reason);
        if !state.before.is_live {
            // The caller undoes its changes.
            let _ = state.files.put_back(&self.records, &self.own(own));
        }
        self.stored.clear(&self.manager);
        use_capabilities(true);
        tracing::error!(%reason, "giving up: callers get errors from now on");
        if state.before.is_live {
            self.leave_failed(&reason);
            let _ = state.files.restore();
            logging::finish();
            let _ = sys::descriptors::abandon_files();
        }
        Error::failed(reason)
    }

    /// Ends because of a fault of this process' own. If it has still to prove itself, the fallback goes on with the view.
    pub(super) fn break_off(mut self, error: Error, state: Option<State>) -> Error {
        use_capabilities(true);
        let is_tried = self.trial.is_some() || state.as_ref().is_some_and(|state| state.trial.is_some());
        if !self.before.is_live && state.as_ref().is_none_or(|state| !state.before.is_live) {
            return error;
        }
        tracing::error!("{error}");
        if is_tried {
            self.leave_cleanup();
            self.registered.take().into_iter().for_each(Registered::leave);
        } else {
            self.stored.clear(&self.manager);
            self.leave_failed(&error.to_string());
        }
        logging::finish();
        // The connection ends now, but for what a fallback has of it.
        let _ = sys::descriptors::abandon_files();
        sys::process::exit_now(1)
    }

    /// Leaves the view mounted, as one that has failed.
    fn leave_failed(&mut self, reason: &str) {
        self.leave_cleanup();
        if let Some(mut registered) = self.registered.take() {
            registered.update(|status| {
                status.state = ServerState::Failed;
                status.reason = Some(reason.to_owned());
            });
            registered.leave();
        }
    }

    /// Leaves the changes to the servers: whatever happens to this process, a view that is live stays.
    pub(super) fn disown_cleanup(&self) {
        self.cleanup.lock().iter().for_each(Cleanup::disown);
    }

    /// Leaves the changes to a server that has undone them, or as they are.
    pub(super) fn leave_cleanup(&self) {
        std::mem::forget(self.cleanup.lock().take());
    }
}
