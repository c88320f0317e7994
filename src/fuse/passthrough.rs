//! FUSE passthrough (Linux 6.9): the kernel serves the reads of a file by itself, from the backing file.
//!
//! Of one inode, all files that are open at a time must be passed through by the same backing id (`fuse_inode_uncached_io_start`), or none
//! of them, else open fails with EIO. So a node keeps its id for as long as the kernel knows the node, and files that are opened for writing
//! carry it too, together with FOPEN_DIRECT_IO, which then wins: what is written goes to the server and its policy, always.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, ReplyOpen};
use parking_lot::Mutex;

use crate::fs::{CgroupFs, Host};
use crate::view::NodeId;

/// How many nodes have an id at most: each is an open file of the kernel's.
const LIMIT: usize = 8192;

/// The backing ids of a connection.
#[derive(Debug, Default)]
pub(super) struct Passthrough {
    enabled: AtomicBool,
    /// No system call is made while it's held.
    ids: Mutex<HashMap<NodeId, Arc<BackingId>>>,
}

impl Passthrough {
    /// The kernel can do it.
    pub(super) fn enable(&self) {
        self.enabled.store(true, Ordering::Release);
    }

    /// The id of a node of `fs` that is being opened, and which the kernel knows by `number`; `None` if its files aren't passed through.
    pub(super) fn id<H: Host>(
        &self,
        fs: &CgroupFs<H>,
        node: NodeId,
        number: NodeId,
        reply: &ReplyOpen,
    ) -> Option<Arc<BackingId>> {
        if let Some(id) = self.ids.lock().get(&number) {
            return Some(Arc::clone(id));
        }
        if !self.enabled.load(Ordering::Acquire) || self.ids.lock().len() >= LIMIT {
            return None;
        }
        let id = match reply.open_backing(fs.passthrough(node)?) {
            Ok(id) => Arc::new(id),
            Err(error) => {
                // It takes CAP_SYS_ADMIN in the initial user namespace, and a kernel that has it switched on.
                tracing::debug!(%error, "files can't be passed through");
                self.enabled.store(false, Ordering::Release);
                return None;
            }
        };
        // Another thread may have been quicker: its id then counts, and this one is dropped after the lock.
        let mut ids = self.ids.lock();
        let kept = Arc::clone(ids.entry(number).or_insert_with(|| Arc::clone(&id)));
        drop(ids);
        Some(kept)
    }

    /// The kernel has forgotten a node. It may have been told of it again meanwhile, and have opened files by the id that it had.
    pub(super) fn forget(&self, node: NodeId, is_known: impl FnOnce() -> bool) {
        let mut ids = self.ids.lock();
        let forgotten = if is_known() { None } else { ids.remove(&node) };
        drop(ids);
        drop(forgotten);
    }
}
