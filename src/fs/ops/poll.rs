//! poll(2): the backing file's state, and waking the processes that wait for it.
//!
//! Each open file has a backing file of its own, so the kernel's state for it is that of a native file: a read
//! re-arms it, and it owns its PSI trigger. The host reports when a backing file becomes ready. The server then wakes
//! the waiters, and they poll again.

use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::poll_state::Wake;
use crate::cgroup::FileClass;
use crate::fs::host::Ready;
use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::ops::handles::OpenFile;
use crate::fs::{CgroupFs, FsError, FsResult, HandleId, Host};

/// The events of every file (`DEFAULT_POLLMASK`).
const USABLE: u16 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM) as u16;

/// The events of a file that was never read, or has changed since (`kernfs_generic_poll`).
const UNREAD: u16 = (libc::POLLPRI | libc::POLLERR) as u16;

const ERROR: u16 = libc::POLLERR as u16;

impl<H: Host> CgroupFs<H> {
    /// Returns the poll(2) bits of an open file. With a `waker`, waiters are woken when the bits change.
    pub fn poll(&self, id: NodeId, handle: HandleId, waker: Option<Box<dyn Wake>>) -> FsResult<u16> {
        if handle == HandleId::NONE {
            // The kernel reads the file itself, so the server doesn't know what is unread. The kernel never notifies
            // such a file.
            let is_there = self.host.attributes(&*self.node(id)?).is_ok();
            return Ok(if is_there { USABLE } else { USABLE | UNREAD });
        }
        let file = self.handles.get(handle).ok_or(FsError::Kernel(Errno::EBADF))?;
        if let Some(waker) = waker {
            if let Some(record) = &file.record {
                record.set_poll(waker.number());
            }
            *file.waiting.waker.lock() = Some(waker);
            // Arm first: an event before the check then wakes the waiter, which polls again.
            self.arm(&file, handle)?;
        }
        let latched = file.waiting.latch.swap(0, Ordering::AcqRel);
        if latched != 0 {
            file.record_latch();
        }
        Ok(self.host.poll(&file.backing)? | latched)
    }

    /// Waits until armed files are ready, and wakes their waiters. Returns false once [`CgroupFs::stop_waiting`] was
    /// called.
    pub fn wake_the_ready(&self) -> bool {
        let Some(ready) = self.host.wait_for_ready() else {
            return false;
        };
        for ready in ready {
            self.wake(ready);
        }
        true
    }

    /// Wakes the waiters of an open file, if the report is news.
    pub(in crate::fs) fn wake(&self, Ready { handle, events }: Ready) {
        if let Some(file) = self.handles.get(handle)
            && self.is_news(&file, events)
        {
            file.waiting.wake();
        }
    }

    /// Makes the host report each event once, so that an edge-triggered epoll on the view gets each once (`EPOLLET`).
    fn arm(&self, file: &OpenFile<H>, handle: HandleId) -> FsResult<()> {
        let waiting = &file.waiting;
        if waiting.armed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        waiting.reads_before.store(waiting.reads_done.load(Ordering::Acquire), Ordering::Release);
        let armed = self.host.poll(&file.backing).and_then(|now| {
            file.latch(trigger_event(file, now));
            waiting.told_already.store(now & ERROR != 0, Ordering::Release);
            self.host.wake_when_ready(&file.backing, handle)
        });
        Ok(armed.inspect_err(|_| waiting.armed.store(false, Ordering::Release))?)
    }

    /// Whether the host reports a state that the waiters weren't told when they began to wait.
    fn is_news(&self, file: &OpenFile<H>, events: u16) -> bool {
        let waiting = &file.waiting;
        file.latch(trigger_event(file, events));
        if !waiting.told_already.swap(false, Ordering::AcqRel) {
            return true;
        }
        // The file may have changed in between. The event counts if the file was read before it. Otherwise the
        // waiters still have to read the change that they were told of.
        waiting.was_read()
            && self.host.poll(&file.backing).map_or(true, |now| {
                file.latch(trigger_event(file, now));
                now & UNREAD != 0
            })
    }

    /// Notes a new trigger. Its wait queue is another than the file had before.
    pub(in crate::fs) fn note_trigger(&self, file: &OpenFile<H>) {
        if is_pressure(&file.node) {
            self.host.stop_waking(&file.backing);
            file.waiting.latch.store(0, Ordering::Release);
            file.record_latch();
            file.waiting.armed.store(false, Ordering::Release);
        }
    }
}

impl<H: Host> OpenFile<H> {
    /// Notes events that the host reports only once.
    fn latch(&self, events: u16) {
        if events != 0 {
            self.waiting.latch.fetch_or(events, Ordering::AcqRel);
            self.record_latch();
        }
    }

    fn record_latch(&self) {
        if let Some(record) = &self.record {
            record.set_latch(self.waiting.latch.load(Ordering::Acquire));
        }
    }
}

/// Returns the event of a PSI trigger, which poll reports once. Without a trigger poll reports an error too, each
/// time.
fn trigger_event<H: Host>(file: &OpenFile<H>, events: u16) -> u16 {
    if is_pressure(&file.node) && events & ERROR == 0 { events & UNREAD } else { 0 }
}

pub(in crate::fs) fn is_pressure(node: &Node) -> bool {
    matches!(node.object(), Object::File(FileClass::Pressure))
}
