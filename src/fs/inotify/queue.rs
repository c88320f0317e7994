//! The queue of changes to replay.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::pending::{InjectedOp, PendingInjection, ReplayedChange};
use crate::fs::cache::dir_locks::DirLocks;
use crate::fs::host::{Caller, EntryChange};
use crate::fs::inode::{Node, NodeId};

/// How many tasks may wait.
const QUEUED_TASKS_MAX: usize = 8192;

/// How many shown events are remembered.
const SHOWN_EVENTS_MAX: usize = 256;

/// How long a write waits until the kernel has forgotten what the write changed. The invalidation may have to wait
/// for a directory that a caller has locked.
const INVALIDATION_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum ReplayTask {
    Show(ReplayedChange),
    /// A change through this entry path and the event of an earlier one, of the same name, may have come in the wrong
    /// order.
    Settle(Arc<Node>, OsString),
    /// A change was taken for one of this entry path's own, and wasn't.
    Misattributed(Arc<Node>, OsString, EntryChange),
    /// The view has removed a directory. The kernel holds its lock until the answer, so its names are invalidated
    /// only then.
    Removed(Arc<Node>),
    /// Files may have come or gone by a write through the view, which waits for this: in the children of a cgroup, or
    /// in itself.
    Files {
        hierarchy: usize,
        directory: u64,
        of_children: bool,
        _done: SyncSender<()>,
    },
    /// Events were lost.
    Everything,
    /// A directory kept changing while it was compared.
    Compare(Arc<Node>),
    /// The changes up to this position are dealt with.
    Finish(u64),
    Stop,
}

#[derive(Debug, Default)]
pub(super) struct ReplayQueue {
    pub(super) tasks: VecDeque<ReplayTask>,
    /// Whether a thread takes tasks from it, or is about to.
    pub(super) has_taker: bool,
    /// The last change that was taken, until it was shown.
    pub(super) taken: Option<ReplayedChange>,
    /// Whether the last task that was taken may not be done yet.
    pub(super) is_busy: bool,
    /// The changes of an event that is being dealt with: they are taken only together with the note of its end, which
    /// has to be there when the last of them is shown.
    pub(super) of_event: Option<Vec<ReplayTask>>,
}

impl ReplayQueue {
    fn push(&mut self, task: ReplayTask) {
        if self.tasks.len() >= QUEUED_TASKS_MAX {
            self.tasks.retain(|task| matches!(task, ReplayTask::Misattributed(..)));
            self.tasks.push_back(ReplayTask::Everything);
        }
        self.tasks.push_back(task);
    }
}

/// The changes that wait to be replayed, and the one that is being replayed.
#[derive(Debug, Default)]
pub(in crate::fs) struct Replays {
    /// The thread that injects operations; 0 if there's none.
    pub(super) thread: Arc<AtomicI32>,
    /// Whether the own mount can be reached.
    pub(super) enabled: AtomicBool,
    /// Held while nodes are dropped, which takes `OwnChanges` and `Watches::known`.
    pub(super) queue: Mutex<ReplayQueue>,
    pub(super) filled: Condvar,
    /// Held while nodes are dropped, as `queue`.
    pub(in crate::fs) pending: Mutex<Option<PendingInjection>>,
    pub(in crate::fs) dir_locks: DirLocks,
    pub(super) placeholders: AtomicU64,
    /// The last events that were shown, and when. Leaf lock.
    pub(super) shown: Mutex<VecDeque<(NodeId, OsString, Instant)>>,
    /// The boundaries whose removal was shown: cgroups that later have their names aren't shown. Leaf lock.
    pub(super) removed_boundaries: Mutex<Vec<usize>>,
}

impl Replays {
    /// Whether a request is the server's own.
    pub(in crate::fs) fn is_injected(&self, caller: &Caller) -> bool {
        caller.tid > 0 && caller.tid == self.thread.load(Ordering::Acquire)
    }

    /// Whether a replay is under way that changes the meaning of this name: the kernel mustn't cache it.
    pub(in crate::fs) fn is_about_to_change(&self, directory: NodeId, name: &OsStr) -> bool {
        self.pending.lock().as_ref().is_some_and(|pending| pending.changes(directory, name))
    }

    /// Returns an id for a removed object.
    pub(in crate::fs) fn placeholder(&self) -> NodeId {
        NodeId::placeholder(self.placeholders.fetch_add(1, Ordering::Relaxed))
    }

    /// Replays the event that was taken for a change through this entry path, after that change failed.
    pub(in crate::fs) fn replay_misattributed(&self, directory: &Arc<Node>, name: &OsStr, kind: EntryChange) {
        self.push(ReplayTask::Misattributed(Arc::clone(directory), name.to_os_string(), kind));
    }

    /// Notes that a directory was removed through this view.
    pub(in crate::fs) fn removed(&self, nodes: Vec<Arc<Node>>) {
        for node in nodes.into_iter().filter(|node| node.has_children()) {
            self.push(ReplayTask::Removed(node));
        }
    }

    /// Waits until the kernel has been told that files may have come or gone. Never for a thread that serves
    /// requests.
    pub(in crate::fs) fn await_file_invalidation(&self, hierarchy: usize, directory: u64, of_children: bool) {
        let (done, told) = sync_channel(0);
        let mut queue = self.queue.lock();
        // A writer that times out leaves its task in the queue. If the thread is held up for long, the event
        // invalidates instead.
        if !queue.has_taker || queue.tasks.len() >= QUEUED_TASKS_MAX {
            return;
        }
        queue.tasks.push_front(ReplayTask::Files { hierarchy, directory, of_children, _done: done });
        drop(queue);
        self.filled.notify_one();
        let _ = told.recv_timeout(INVALIDATION_TIMEOUT);
    }

    /// Whether an event for this name, of a change made before `since`, was shown at this entry path only afterwards,
    /// if at all.
    pub(super) fn is_late(&self, directory: NodeId, name: &OsStr, since: Instant) -> bool {
        let is_it = |event: &ReplayedChange| event.directory.id() == directory && event.name == name;
        let queue = self.queue.lock();
        let waits = queue.tasks.iter().any(|task| matches!(task, ReplayTask::Show(event) if is_it(event)));
        let waits = waits || queue.taken.as_ref().is_some_and(is_it);
        drop(queue);
        if waits || self.is_about_to_change(directory, name) {
            return true;
        }
        let shown = self.shown.lock();
        // An event that was shown since then may already be forgotten. One event too many is better than a wrong last
        // one.
        let all_known = shown.len() < SHOWN_EVENTS_MAX || shown.back().is_some_and(|(_, _, when)| *when <= since);
        !all_known || shown.iter().any(|(id, of, when)| *id == directory && of == name && *when > since)
    }

    pub(super) fn remember(&self, event: &ReplayedChange) {
        let mut shown = self.shown.lock();
        shown.truncate(SHOWN_EVENTS_MAX - 1);
        shown.push_front((event.directory.id(), event.name.clone(), Instant::now()));
    }

    pub(super) fn push(&self, task: ReplayTask) {
        self.queue.lock().push(task);
        self.filled.notify_one();
    }

    /// Keeps the changes to show together from now on, until [`Self::finish_later`].
    pub(in crate::fs) fn begin_event(&self) {
        self.queue.lock().of_event = Some(Vec::new());
    }

    /// Notes that the changes up to this position are dealt with once all tasks are done. Returns false if there are none.
    pub(in crate::fs) fn finish_later(&self, position: u64) -> bool {
        let mut queue = self.queue.lock();
        for task in queue.of_event.take().into_iter().flatten() {
            queue.push(task);
        }
        if !queue.has_taker || queue.tasks.is_empty() && !queue.is_busy {
            return false;
        }
        if let Some(ReplayTask::Finish(last)) = queue.tasks.back_mut() {
            *last = position;
        } else {
            queue.tasks.push_back(ReplayTask::Finish(position));
            self.filled.notify_one();
        }
        true
    }

    /// The position up to which changes are dealt with once the change is shown that was taken last.
    pub(super) fn finishes_next(&self) -> Option<u64> {
        let queue = self.queue.lock();
        match queue.tasks.front() {
            // A comparison may show several changes.
            Some(ReplayTask::Finish(position)) if queue.taken.is_some() => Some(*position),
            _ => None,
        }
    }

    /// One task is enough for any number of changes: the state is compared when the task runs. With a task for each,
    /// a name that is made and removed over and over would stay late for ever.
    pub(super) fn settle(&self, directory: &Arc<Node>, name: &OsStr) {
        let is_it =
            |task: &ReplayTask| matches!(task, ReplayTask::Settle(at, of) if at.id() == directory.id() && of == name);
        if !self.queue.lock().tasks.iter().any(is_it) {
            self.push(ReplayTask::Settle(Arc::clone(directory), name.to_os_string()));
        }
    }

    pub(super) fn show(&self, directory: &Arc<Node>, name: &OsStr, operation: InjectedOp) {
        if !self.enabled.load(Ordering::Acquire) {
            return;
        }
        let name = name.to_os_string();
        let task = ReplayTask::Show(ReplayedChange { directory: Arc::clone(directory), name, operation });
        let mut queue = self.queue.lock();
        match &mut queue.of_event {
            Some(together) => together.push(task),
            None => queue.push(task),
        }
        drop(queue);
        self.filled.notify_one();
    }

    pub(super) fn next(&self) -> ReplayTask {
        let mut queue = self.queue.lock();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                queue.taken = match &task {
                    ReplayTask::Show(event) => Some(event.clone()),
                    _ => None,
                };
                queue.is_busy = true;
                return task;
            }
            queue.taken = None;
            queue.is_busy = false;
            self.filled.wait(&mut queue);
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
