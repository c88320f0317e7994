//! A change that is being replayed, and the server's requests for it.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use crate::fs::SysResult;
use crate::fs::inode::{Node, NodeId};

/// An operation of the server on its own mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectedOp {
    /// Looks up a name that doesn't exist, to see whether the server recognises its own requests.
    Look,
    /// Sets a file's modification time.
    Touch,
    /// Makes a directory.
    Make,
    /// Removes a directory.
    Remove,
    /// Gives a directory this name.
    Rename(OsString),
}

/// An operation on the server's own mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The names that lead to the directory from the view's root.
    pub directory: Vec<OsString>,
    /// A name in that directory.
    pub name: OsString,
    /// The operation on that name.
    pub operation: InjectedOp,
}

/// A client of the view that is the server itself. Its requests reach the server like all others, so a thread that
/// serves requests must never call it.
pub trait Injector {
    /// Does an operation on the mount.
    ///
    /// # Errors
    /// The system call's; `ENXIO` once the mount can't be reached any more.
    fn inject(&self, injection: &Injection) -> SysResult<()>;
}

/// One change, as one entry path shows it.
#[derive(Clone, Debug)]
pub(in crate::fs) struct ReplayedChange {
    pub(in crate::fs) directory: Arc<Node>,
    pub(in crate::fs) name: OsString,
    pub(in crate::fs) operation: InjectedOp,
}

/// A replay that is under way.
#[derive(Debug)]
pub(in crate::fs) struct PendingInjection {
    pub(super) event: ReplayedChange,
    /// Whether the name was looked up.
    pub(super) looked_up: bool,
    /// Whether a rename's new name was looked up.
    pub(super) looked_up_new: bool,
    /// The placeholder for a removed object.
    pub(super) placeholder: Option<NodeId>,
}

impl PendingInjection {
    pub(in crate::fs) fn new(event: ReplayedChange) -> Self {
        Self { event, looked_up: false, looked_up_new: false, placeholder: None }
    }

    /// Whether its first request has come.
    pub(in crate::fs) fn was_entered(&self) -> bool {
        self.looked_up
    }

    /// Whether it changes the meaning of this name.
    pub(in crate::fs) fn changes(&self, directory: NodeId, name: &OsStr) -> bool {
        let ReplayedChange { directory: at, name: of, operation } = &self.event;
        let is_new = matches!(operation, InjectedOp::Rename(to) if to == name);
        *operation != InjectedOp::Touch && at.id() == directory && (of == name || is_new)
    }

    pub(super) fn is(&self, directory: NodeId, name: &OsStr, operation: &InjectedOp) -> bool {
        self.event.directory.id() == directory && self.event.name == name && self.event.operation == *operation
    }

    /// Returns the directory that this name has to lead to, along the path of the operation.
    pub(super) fn step(&self, parent: NodeId, name: &OsStr) -> Option<Arc<Node>> {
        let mut at = &self.event.directory;
        while let Some(above) = at.parent() {
            if above.id() == parent {
                return (*at.name() == *name).then(|| Arc::clone(at));
            }
            at = above;
        }
        None
    }
}
