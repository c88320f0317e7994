//! What a server undoes before it ends, whichever way it got there.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::container::rollback::Rollback;
use crate::provision::prepared::PreparedContainer;
use crate::server::registry::Registered;

/// What is undone, in this order, when a server ends: once, by whichever thread comes first, while the others wait.
#[derive(Debug, Default)]
pub(crate) struct Cleanup {
    pub(crate) attached: Option<Rollback>,
    prepared: Option<PreparedContainer>,
    pub(crate) registered: Option<Registered>,
}

pub(crate) type SharedCleanup = Arc<Mutex<Option<Cleanup>>>;

impl Cleanup {
    /// Of a server that nothing was done for beforehand.
    pub(crate) fn empty() -> SharedCleanup {
        Self::default().shared()
    }

    /// Of one whose view ends by itself, for which something was prepared.
    pub(crate) fn of_prepared(prepared: PreparedContainer) -> SharedCleanup {
        Self { prepared: Some(prepared), ..Self::default() }.shared()
    }

    /// Of one whose view is for a container, for which something was prepared.
    pub(crate) fn of_attached(attached: Rollback, prepared: PreparedContainer) -> SharedCleanup {
        Self { attached: Some(attached), prepared: Some(prepared), registered: None }.shared()
    }

    fn shared(self) -> SharedCleanup {
        Arc::new(Mutex::new(Some(self)))
    }

    /// It's for the calling process to undo, which was just forked.
    pub(crate) fn adopt(&self) {
        self.attached.iter().for_each(Rollback::adopt);
        self.prepared.iter().for_each(PreparedContainer::adopt);
    }

    /// It's for the process that this one has just forked to undo.
    pub(crate) fn disown(&self) {
        self.prepared.iter().for_each(PreparedContainer::disown);
    }
}

/// The last thing that a server does, whichever way it got there. Whoever waits for it has to be told before: they may hold what this waits
/// for.
pub(crate) fn run_cleanup(cleanup: &SharedCleanup) {
    drop(cleanup.lock().take());
}
