//! The actions that undo a server's changes before it ends, for whatever reason.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::container::rollback::Rollback;
use crate::provision::prepared::PreparedContainer;
use crate::server::registry::Registered;

/// The actions that undo a server's changes when it ends, in this order. The first thread that comes here runs them,
/// and the others wait.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cleanup {
    pub(crate) attached: Option<Rollback>,
    prepared: Option<PreparedContainer>,
    #[serde(skip)]
    pub(crate) registered: Option<Registered>,
}

pub(crate) type SharedCleanup = Arc<Mutex<Option<Cleanup>>>;

impl Cleanup {
    /// The cleanup of a server for which nothing was prepared.
    pub(crate) fn empty() -> SharedCleanup {
        Self::default().shared()
    }

    /// Makes the cleanup of a server whose view ends by itself, with the changes that were prepared for it.
    pub(crate) fn of_prepared(prepared: PreparedContainer) -> SharedCleanup {
        Self { prepared: Some(prepared), ..Self::default() }.shared()
    }

    /// Makes the cleanup of a server whose view is attached to a container, with the changes that were prepared for
    /// it.
    pub(crate) fn of_attached(attached: Rollback, prepared: PreparedContainer) -> SharedCleanup {
        Self { attached: Some(attached), prepared: Some(prepared), registered: None }.shared()
    }

    fn shared(self) -> SharedCleanup {
        Arc::new(Mutex::new(Some(self)))
    }

    /// Makes the calling process, which was just forked, the owner of the cleanup.
    pub(crate) fn adopt(&self) {
        self.attached.iter().for_each(Rollback::adopt);
        self.prepared.iter().for_each(PreparedContainer::adopt);
    }

    /// Leaves the cleanup to processes that this one forks.
    pub(crate) fn disown(&self) {
        self.attached.iter().for_each(Rollback::disown);
        self.prepared.iter().for_each(PreparedContainer::disown);
    }
}

/// Undoes the server's changes, as its last step. Report to a waiting command before: it may hold a lock for which
/// this waits.
pub(crate) fn run_cleanup(cleanup: &SharedCleanup) {
    drop(cleanup.lock().take());
}
