//! Directories whose lock the kernel may hold.
//!
//! An invalidation waits for the directory's lock inside the kernel, even if the server is killed. Before Linux 4.2
//! it waits on the server's own channel, which stays open meanwhile. An injected operation
//! ([`crate::fs::inotify::replay`]) waits for the server's answer. If an invalidation waited for an injected
//! operation, a server that is killed then would hang for ever. So the two never run in the same directory at once.

use std::ffi::OsStr;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::fs::cache::Invalidate;
use crate::fs::inode::{Node, NodeId};

/// The directories of injected operations and of invalidations that are under way.
#[derive(Debug, Default)]
pub(in crate::fs) struct DirLocks {
    /// Leaf lock.
    taken: Mutex<Taken>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    /// The directory of the injected operation, and all its ancestors.
    walked: Vec<NodeId>,
    /// The directory whose invalidation is under way, or comes next.
    invalidated: Option<NodeId>,
}

impl DirLocks {
    /// Invalidates an entry while no injected operation is under way in its directory. Only one thread at a time may
    /// call this, and never one that injects operations.
    pub(in crate::fs) fn while_invalidating(&self, directory: NodeId, invalidate: impl FnOnce()) {
        let mut taken = self.taken.lock();
        taken.invalidated = Some(directory);
        while taken.walked.contains(&directory) {
            self.freed.wait(&mut taken);
        }
        drop(taken);
        invalidate();
        self.taken.lock().invalidated = None;
        self.freed.notify_all();
    }

    /// Runs an injected operation in a directory while nothing along its path is being invalidated.
    pub(in crate::fs) fn while_walking<T>(&self, directory: &Arc<Node>, operation: impl FnOnce() -> T) -> T {
        let chain = std::iter::successors(Some(directory), |node| node.parent());
        let walked: Vec<NodeId> = chain.map(|node| node.id()).collect();
        let mut taken = self.taken.lock();
        while taken.invalidated.is_some_and(|id| walked.contains(&id)) {
            self.freed.wait(&mut taken);
        }
        taken.walked = walked;
        drop(taken);
        let done = operation();
        self.taken.lock().walked.clear();
        self.freed.notify_all();
        done
    }
}

/// The kernel, for a thread that doesn't inject operations.
pub(in crate::fs) struct LockingInvalidate<'a, K> {
    pub(in crate::fs) dir_locks: &'a DirLocks,
    pub(in crate::fs) kernel: &'a K,
}

impl<K: Invalidate> Invalidate for LockingInvalidate<'_, K> {
    fn node(&self, node: NodeId, listing: bool) {
        self.kernel.node(node, listing);
    }

    fn entry(&self, directory: NodeId, name: &OsStr) {
        self.dir_locks.while_invalidating(directory, || self.kernel.entry(directory, name));
    }
}
