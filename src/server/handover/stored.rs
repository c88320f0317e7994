//! The names of what a service manager keeps of a view, as [`super::store`] has it.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use crate::server::service_manager::ServiceManager;
use crate::sys::descriptors::duplicate;

/// The name of the state. The others are `start-NUMBER` and `open-NUMBER`.
pub(super) const STATE: &str = "state";
pub(super) const START: &str = "start-";
pub(super) const OPEN: &str = "open-";

/// The names under which the manager keeps descriptors.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Stored(pub(super) Vec<String>);

impl Stored {
    /// Stores a state, and the descriptors that are `named` in it, instead of what was stored.
    ///
    /// # Errors
    /// If the manager can't be told of all of them.
    pub(crate) fn replace(&mut self, manager: &ServiceManager, state: &OwnedFd, named: &[RawFd]) -> io::Result<()> {
        self.clear(manager);
        self.put(manager, STATE.to_owned(), state)?;
        named.iter().try_for_each(|number| self.put(manager, format!("{START}{number}"), &duplicate(*number)?))
    }

    /// Stores the descriptors that callers have open. One that is closed already is left out.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub(crate) fn add_open(&mut self, manager: &ServiceManager, numbers: &[RawFd]) -> io::Result<()> {
        numbers
            .iter()
            .filter_map(|number| Some((number, duplicate(*number).ok()?)))
            .try_for_each(|(number, file)| self.put(manager, format!("{OPEN}{number}"), &file))
    }

    /// Has the manager close everything.
    pub(crate) fn clear(&mut self, manager: &ServiceManager) {
        // A manager that doesn't read isn't told of the others.
        let _ = self.0.drain(..).try_for_each(|name| manager.remove(&name));
    }

    fn put(&mut self, manager: &ServiceManager, name: String, file: &OwnedFd) -> io::Result<()> {
        manager.store(&name, file.as_fd())?;
        self.0.push(name);
        Ok(())
    }
}
