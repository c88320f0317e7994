//! Nodes that the kernel has forgotten, and a killed server hasn't.
//!
//! A FORGET has no answer, so the kernel doesn't send it again. A server that had read it and was killed leaves its node
//! to the next one, and so on for ever. So some time after its start, each server asks the kernel about the nodes that
//! it was left.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::notification::notification;
use crate::fs::NodeId;
use crate::fs::dispatch::Dispatch;
use crate::fs::inode::HeldNode;

/// `FUSE_NOTIFY_STORE` of linux/fuse.h.
const STORE: i32 = 4;

/// How long a server waits before it asks, and then before it forgets. The kernel may still have to make a node for an
/// answer that the killed server gave, and a FORGET may be on its way.
const DELAY: Duration = Duration::from_secs(10);

/// Forgets, in a while, the nodes that an earlier server has left and the kernel doesn't hold. To be called before the
/// first request is served.
pub(in crate::fuse) fn forget_later<R: Dispatch>(dispatch: &Arc<R>, channel: OwnedFd) {
    let left = dispatch.held_nodes();
    if left.is_empty() {
        return;
    }
    let dispatch = Arc::downgrade(dispatch);
    let thread = thread::Builder::new().name("forgets".to_owned()).stack_size(128 * 1024).spawn(move || {
        thread::sleep(DELAY);
        let lost: Vec<HeldNode> = left.into_iter().filter(|left| !is_held(&channel, left.id)).collect();
        if !lost.is_empty() {
            thread::sleep(DELAY);
        }
        for lost in lost.iter().filter(|lost| !is_held(&channel, lost.id)) {
            if let Some(dispatch) = dispatch.upgrade() {
                dispatch.forget_unchanged(lost);
            }
        }
    });
    if let Err(error) = thread {
        tracing::debug!(%error, "nodes that the kernel has forgotten stay");
    }
}

/// Whether the kernel holds a node: whether it would store nothing at its beginning.
fn is_held(channel: &OwnedFd, node: NodeId) -> bool {
    nix::unistd::write(channel, &store_nothing(node.as_u64())) != Err(Errno::ENOENT)
}

/// Makes a `fuse_notify_store_out`: node, offset, size, padding.
fn store_nothing(node: u64) -> Vec<u8> {
    notification(STORE, &[&node.to_ne_bytes(), &0_u64.to_ne_bytes(), &0_u64.to_ne_bytes()])
}
