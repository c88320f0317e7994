//! poll(2): the backing file's own state, and waking whoever waits for it.
//!
//! Each open file has a backing file of its own, so the kernel keeps for it what it keeps for a native one: a read re-arms it, a PSI trigger
//! belongs to it. The host tells when a backing file becomes ready; whoever waits is then woken, and asks again.

use std::sync::atomic::{AtomicU16, Ordering};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::handles::OpenFile;
use super::{CgroupFs, Failure, HandleId, Host, Outcome};
use crate::cgroup::FileClass;
use crate::view::{Node, NodeId, Object};

/// What every file says (`DEFAULT_POLLMASK`).
const USABLE: u16 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM) as u16;

/// What a file says that was never read, or has changed since (`kernfs_generic_poll`).
const UNREAD: u16 = (libc::POLLPRI | libc::POLLERR) as u16;

/// Wakes those who wait for an open file.
pub trait Wake: Send {
    /// Wakes them, once.
    fn wake(self: Box<Self>);
}

/// Who waits for an open file.
#[derive(Default)]
pub(super) struct Waiting {
    /// Leaf lock; nobody is woken while it's held.
    waker: Mutex<Option<Box<dyn Wake>>>,
    /// Events that the host's poll has taken from a PSI trigger and nobody has been told of yet (`psi_trigger_poll` gives each out once).
    latch: AtomicU16,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("latch", &self.latch).finish_non_exhaustive()
    }
}

/// An event of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which file, by the number that it was armed with.
    pub handle: HandleId,
    /// What poll(2) would say, as its bits.
    pub events: u16,
}

impl<H: Host> CgroupFs<H> {
    /// What poll(2) says of an open file, as its bits. With a `waker`, whoever waits is woken when that changes.
    pub fn poll(&self, id: NodeId, handle: HandleId, waker: Option<Box<dyn Wake>>) -> Outcome<u16> {
        if handle == HandleId::NONE {
            // The kernel reads it by itself, so what is unread isn't known here. Nothing is ever notified on such a file.
            let is_there = self.host.attributes(&*self.node(id)?).is_ok();
            return Ok(if is_there { USABLE } else { USABLE | UNREAD });
        }
        let file = self.handles.get(handle).ok_or(Failure::Kernel(Errno::EBADF))?;
        if let Some(waker) = waker {
            *file.waiting.waker.lock() = Some(waker);
            // Armed before it's looked at: an event in between wakes the waiter, who asks again.
            self.host.wake_when_ready(&file.backing, handle)?;
        }
        Ok(self.host.poll(&file.backing)? | file.waiting.latch.swap(0, Ordering::AcqRel))
    }

    /// Waits until armed files are ready, and wakes who waits for them. False once [`CgroupFs::stop_waiting`] was called.
    pub fn wake_the_ready(&self) -> bool {
        let Some(ready) = self.host.wait_for_ready() else {
            return false;
        };
        for Ready { handle, events } in ready {
            if let Some(file) = self.handles.get(handle) {
                wake(&file, events);
            }
        }
        true
    }
}

fn wake<F>(file: &OpenFile<F>, events: u16) {
    if is_pressure(&file.node) {
        file.waiting.latch.fetch_or(events, Ordering::AcqRel);
    }
    let waker = file.waiting.waker.lock().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn is_pressure(node: &Node) -> bool {
    matches!(node.object(), Object::File(FileClass::Pressure))
}
