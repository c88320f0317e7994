//! What a server undoes before it ends, whichever way it got there.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::container::rollback::Undo;
use crate::provision::prepared::Prepared;
use crate::server::registry::Registered;

/// What is undone, in this order, when a server ends: once, by whichever thread comes first, while the others wait.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    pub(crate) attached: Option<Undo>,
    prepared: Option<Prepared>,
    pub(crate) registered: Option<Registered>,
}

pub(crate) type SharedLeaving = Arc<Mutex<Option<Leaving>>>;

impl Leaving {
    /// Of a server that nothing was done for beforehand.
    pub(crate) fn nothing() -> SharedLeaving {
        Self::default().shared()
    }

    /// Of one whose view ends by itself, for which something was prepared.
    pub(crate) fn prepared(prepared: Prepared) -> SharedLeaving {
        Self { prepared: Some(prepared), ..Self::default() }.shared()
    }

    /// Of one whose view is for a container, for which something was prepared.
    pub(crate) fn of(attached: Undo, prepared: Prepared) -> SharedLeaving {
        Self { attached: Some(attached), prepared: Some(prepared), registered: None }.shared()
    }

    fn shared(self) -> SharedLeaving {
        Arc::new(Mutex::new(Some(self)))
    }

    /// It's for the calling process to undo, which was just forked.
    pub(crate) fn take(&self) {
        self.attached.iter().for_each(Undo::take);
        self.prepared.iter().for_each(Prepared::take);
    }

    /// It's for the process that this one has just forked to undo.
    pub(crate) fn let_go(&self) {
        self.prepared.iter().for_each(Prepared::let_go);
    }
}

/// The last thing that a server does, whichever way it got there. Whoever waits for it has to be told before: they may hold what this waits
/// for.
pub(crate) fn leave(leaving: &SharedLeaving) {
    drop(leaving.lock().take());
}
