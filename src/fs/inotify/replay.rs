//! Events for who watches the view (inotify(7), fanotify(7)).
//!
//! FUSE has no message by which a server could make one. So each change that came by another hand is done once more, as an operation of the
//! server's own on its own mount ([`OwnMount`]): the kernel makes the event that such an operation makes, for all watchers of the view. The
//! server knows its own requests by their thread and answers them without touching the host (`crate::fs::inotify::injection`).
//!
//! What is replayed waits in a queue, for a thread of its own: an operation may have to wait for a directory that a caller holds. If the
//! queue grows too long, or the host's events were lost, the known directories are compared with the host instead.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};

use crate::cgroup::file::is_events;
use crate::fs::cache::dir_locks::DirLocks;
use crate::fs::cache::invalidation::{Invalidate, tell};
use crate::fs::host::EntryChange;
use crate::fs::inode::{Cgroups, Node, NodeId, Object};
use crate::fs::inotify::injection::PendingInjection;
use crate::fs::ops::readdir::cgroups;
use crate::fs::{Caller, CgroupFs, Host, SysResult};
use crate::view::{Child, Role};

/// How many events may wait.
const QUEUED_TASKS_MAX: usize = 8192;

/// How many shown events are remembered.
const SHOWN_EVENTS_MAX: usize = 256;

/// How often an operation is tried that meets what a caller has looked up meanwhile.
const ATTEMPTS_MAX: usize = 4;

/// For how long a write waits, at most, until the kernel has forgotten what it has changed: that may have to wait for a directory that a caller
/// holds.
const INVALIDATION_TIMEOUT: Duration = Duration::from_secs(5);

/// What the server does on its own mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Looks for a name that isn't there, to see whether the server knows its own requests.
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
pub struct Act {
    /// The names that lead to the directory from the view's root.
    pub directory: Vec<OsString>,
    /// A name in it.
    pub name: OsString,
    /// What is done to it.
    pub deed: Deed,
}

/// A user of the view that is the server itself. Its requests come to the server like everybody's, so it must never be asked by a thread
/// that serves requests.
pub trait OwnMount {
    /// Does it.
    ///
    /// # Errors
    /// The system call's; `ENXIO` once there is no way to the mount any more.
    fn act(&self, act: &Act) -> SysResult<()>;
}

/// One change, as it's shown at one door.
#[derive(Clone, Debug)]
pub(in crate::fs) struct Event {
    pub(in crate::fs) directory: Arc<Node>,
    pub(in crate::fs) name: OsString,
    pub(in crate::fs) deed: Deed,
}

#[derive(Debug)]
enum Task {
    Show(Event),
    /// A change that came through this door and the showing of an earlier one, of the same name, may have come in the wrong order.
    Settle(Arc<Node>, OsString),
    /// A change was taken for one that this door has made itself, and wasn't.
    Again(Arc<Node>, OsString, EntryChange),
    /// The view has removed a directory, by one of its doors. Its lock is the kernel's until the answer, so it's told of the names only then.
    Removed(Arc<Node>),
    /// Files may have come or gone, in the children of a cgroup or in itself, by a write through the view, which waits for this.
    Files {
        hierarchy: usize,
        directory: u64,
        of_children: bool,
        _done: SyncSender<()>,
    },
    /// Events were lost.
    Everything,
    /// A directory didn't come to rest while it was compared.
    Compare(Arc<Node>),
    Stop,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Somebody takes from it, or is about to.
    has_taker: bool,
    /// What has been taken out last, until it has been shown.
    taken: Option<Event>,
}

/// What waits to be replayed, and what is being replayed.
#[derive(Debug, Default)]
pub(in crate::fs) struct Replays {
    /// The thread that acts on the own mount; 0 if there's none.
    thread: Arc<AtomicI32>,
    /// Whether there's a way to the own mount.
    enabled: AtomicBool,
    /// Leaf lock.
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Leaf lock.
    pub(in crate::fs) pending: Mutex<Option<PendingInjection>>,
    pub(in crate::fs) way: DirLocks,
    ghosts: AtomicU64,
    /// The last events that were shown, and when. Leaf lock.
    shown: Mutex<VecDeque<(NodeId, OsString, Instant)>>,
    /// The boundaries that have been shown to be removed: what has their name later isn't shown.
    removed_boundaries: Mutex<Vec<usize>>,
}

impl Replays {
    /// Whether a request is the server's own.
    pub(in crate::fs) fn is_own(&self, caller: &Caller) -> bool {
        caller.tid > 0 && caller.tid == self.thread.load(Ordering::Acquire)
    }

    /// Whether a replay is under way that changes what this name is: the kernel mustn't keep it.
    pub(in crate::fs) fn is_about_to_change(&self, directory: NodeId, name: &OsStr) -> bool {
        self.pending.lock().as_ref().is_some_and(|pending| pending.changes(directory, name))
    }

    /// A number for something that is gone.
    pub(in crate::fs) fn ghost(&self) -> NodeId {
        NodeId::ghost(self.ghosts.fetch_add(1, Ordering::Relaxed))
    }

    /// A change that comes through this door failed, and the event that was taken for its own was another's.
    pub(in crate::fs) fn again(&self, directory: &Arc<Node>, name: &OsStr, kind: EntryChange) {
        self.push(Task::Again(Arc::clone(directory), name.to_os_string(), kind));
    }

    /// A directory was removed, through this view.
    pub(in crate::fs) fn removed(&self, nodes: Vec<Arc<Node>>) {
        for node in nodes.into_iter().filter(|node| node.has_children()) {
            self.push(Task::Removed(node));
        }
    }

    /// Waits until the kernel has been told that files may have come or gone. Never for a thread that serves requests.
    pub(in crate::fs) fn tell_of_files(&self, hierarchy: usize, directory: u64, of_children: bool) {
        let (done, told) = sync_channel(0);
        let mut queue = self.queue.lock();
        // Who waits no more leaves the task behind. Where the thread is held up for long, the kernel is told by the event.
        if !queue.has_taker || queue.tasks.len() >= QUEUED_TASKS_MAX {
            return;
        }
        queue.tasks.push_front(Task::Files { hierarchy, directory, of_children, _done: done });
        drop(queue);
        self.filled.notify_one();
        let _ = told.recv_timeout(INVALIDATION_TIMEOUT);
    }

    /// Whether a change of this name that was made before `since` is shown at this door only after it, if at all.
    fn is_late(&self, directory: NodeId, name: &OsStr, since: Instant) -> bool {
        let is_it = |event: &Event| event.directory.id() == directory && event.name == name;
        let queue = self.queue.lock();
        let waits = queue.tasks.iter().any(|task| matches!(task, Task::Show(event) if is_it(event)));
        let waits = waits || queue.taken.as_ref().is_some_and(is_it);
        drop(queue);
        if waits || self.is_about_to_change(directory, name) {
            return true;
        }
        let shown = self.shown.lock();
        // What was shown first since then may be forgotten already: rather one event too many than a wrong last one.
        let all_known = shown.len() < SHOWN_EVENTS_MAX || shown.back().is_some_and(|(_, _, when)| *when <= since);
        !all_known || shown.iter().any(|(id, of, when)| *id == directory && of == name && *when > since)
    }

    fn remember(&self, event: &Event) {
        let mut shown = self.shown.lock();
        shown.truncate(SHOWN_EVENTS_MAX - 1);
        shown.push_front((event.directory.id(), event.name.clone(), Instant::now()));
    }

    fn push(&self, task: Task) {
        let mut queue = self.queue.lock();
        if queue.tasks.len() >= QUEUED_TASKS_MAX {
            queue.tasks.retain(|task| matches!(task, Task::Again(..)));
            queue.tasks.push_back(Task::Everything);
        }
        queue.tasks.push_back(task);
        self.filled.notify_one();
    }

    /// Once is enough, by whatever number of changes: it's decided when it comes to it. (Were each of them shown, what is made and removed
    /// over and over would go on to be late for ever.)
    fn settle(&self, directory: &Arc<Node>, name: &OsStr) {
        let is_it = |task: &Task| matches!(task, Task::Settle(at, of) if at.id() == directory.id() && of == name);
        if !self.queue.lock().tasks.iter().any(is_it) {
            self.push(Task::Settle(Arc::clone(directory), name.to_os_string()));
        }
    }

    fn show(&self, directory: &Arc<Node>, name: &OsStr, deed: Deed) {
        if self.enabled.load(Ordering::Acquire) {
            self.push(Task::Show(Event { directory: Arc::clone(directory), name: name.to_os_string(), deed }));
        }
    }

    fn next(&self) -> Task {
        let mut queue = self.queue.lock();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                queue.taken = match &task {
                    Task::Show(event) => Some(event.clone()),
                    _ => None,
                };
                return task;
            }
            queue.taken = None;
            self.filled.wait(&mut queue);
        }
    }
}

impl<H: Host> CgroupFs<H> {
    /// Where the thread that acts on the own mount has to leave its id before it does, and 0 before it ends.
    pub fn own_thread(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.replays.thread)
    }

    /// [`CgroupFs::replay`] is about to be called. Whether there's a way to the own mount, so that changes are to be replayed from now on.
    pub fn start_replaying(&self, has_mount: bool) {
        self.replays.queue.lock().has_taker = true;
        self.replays.enabled.store(has_mount, Ordering::Release);
    }

    pub(in crate::fs) fn replay_entry(&self, directory: &Arc<Node>, name: &OsStr, kind: EntryChange) {
        let deed = match kind {
            EntryChange::Made => Deed::Make,
            EntryChange::Removed => Deed::Remove,
            EntryChange::Renamed | EntryChange::Other => return,
        };
        if self.view.lists(directory.position(), name, true) && self.replays.enabled.load(Ordering::Acquire) {
            self.look_once(directory);
            self.replays.show(directory, name, deed);
        }
    }

    /// The kernel has told of a change that came through this door at `since`; a change before it, of the same name, may be shown only now. The
    /// last that is shown has to be what is true.
    pub(in crate::fs) fn settle_if_late(&self, directory: &Arc<Node>, name: &OsStr, since: Instant) {
        if self.replays.is_late(directory.id(), name, since)
            && self.view.lists(directory.position(), name, true)
            && self.replays.enabled.load(Ordering::Acquire)
        {
            self.look_once(directory);
            self.replays.settle(directory, name);
        }
    }

    fn settle(&self, directory: &Arc<Node>, name: &OsStr, kernel: &impl Invalidate, mount: &impl OwnMount) {
        let is_there = self.find(directory, name).is_ok();
        if directory.was_told_of(name) != Some(is_there) {
            let deed = if is_there { Deed::Make } else { Deed::Remove };
            self.show(&Event { directory: Arc::clone(directory), name: name.to_os_string(), deed }, kernel, mount);
        }
    }

    pub(in crate::fs) fn replay_rename(&self, directory: &Arc<Node>, from: &OsStr, to: &OsStr) {
        let is_plain =
            |name: &OsStr| self.view.lists(directory.position(), name, true) && !self.is_boundary(directory, name);
        if is_plain(from) && is_plain(to) {
            self.replays.show(directory, from, Deed::Rename(to.to_os_string()));
        } else {
            self.replay_entry(directory, from, EntryChange::Removed);
            self.replay_entry(directory, to, EntryChange::Made);
        }
    }

    pub(in crate::fs) fn replay_modification(&self, directory: &Arc<Node>, name: &OsStr) {
        if self.view.lists(directory.position(), name, false) {
            self.replays.show(directory, name, Deed::Touch);
        }
    }

    pub(in crate::fs) fn replay_everything(&self) {
        if self.replays.enabled.load(Ordering::Acquire) {
            self.replays.push(Task::Everything);
        }
    }

    /// Replays what [`CgroupFs::invalidate`] has left to be replayed, until [`CgroupFs::stop_replaying`]. Without a way to the own mount
    /// nothing is left.
    pub fn replay(&self, kernel: &impl Invalidate, mount: Option<&impl OwnMount>) {
        if let Some(mount) = mount
            && let Err(errno) = self.try_out(mount)
        {
            // ENXIO: it's closed already, because the view has ended.
            if errno != Errno::ENXIO {
                tracing::warn!(%errno, "no way to the view's own mount: inotify reports only what is done through the view");
            }
            self.replays.enabled.store(false, Ordering::Release);
        }
        let mount = mount.filter(|_| self.replays.enabled.load(Ordering::Acquire));
        loop {
            match (self.replays.next(), mount) {
                (Task::Show(event), Some(mount)) => self.show(&event, kernel, mount),
                (Task::Settle(directory, name), Some(mount)) => self.settle(&directory, &name, kernel, mount),
                (Task::Again(directory, name, kind), _) => {
                    // If that isn't how it is, the event that undid it comes, or came.
                    if self.find(&directory, &name).is_ok() == (kind == EntryChange::Made) {
                        self.invalidate_entry(&directory, &name, kernel);
                        self.replay_entry(&directory, &name, kind);
                    }
                }
                (Task::Removed(directory), _) => self.invalidate_names(&directory, kernel),
                (Task::Everything, Some(mount)) => {
                    let directories = self.nodes.directories().into_iter();
                    for node in directories.filter(|node| *node.object() == Object::Directory) {
                        self.touch_events(&node, kernel, mount);
                        self.compare(&node, kernel, mount);
                    }
                }
                (Task::Compare(directory), Some(mount)) => self.compare(&directory, kernel, mount),
                (Task::Files { hierarchy, directory, of_children, _done }, _) => {
                    self.invalidate_files(hierarchy, directory, of_children, kernel);
                }
                (Task::Stop, _) => return,
                (Task::Show(_) | Task::Settle(..) | Task::Everything | Task::Compare(_), None) => {}
            }
        }
    }

    /// Lets [`CgroupFs::replay`] return.
    pub fn stop_replaying(&self) {
        self.replays.enabled.store(false, Ordering::Release);
        let mut queue = self.replays.queue.lock();
        queue.has_taker = false;
        queue.tasks.clear();
        queue.tasks.push_back(Task::Stop);
        self.replays.filled.notify_one();
    }

    /// Whether the server knows its own requests: one that it took for a container's would be carried out.
    fn try_out(&self, mount: &impl OwnMount) -> SysResult<()> {
        let name = OsString::from("vcgroupfs");
        *self.replays.pending.lock() = Some(PendingInjection::new(Event {
            directory: Arc::clone(self.nodes.root()),
            name: name.clone(),
            deed: Deed::Look,
        }));
        let act = Act { directory: Vec::new(), name, deed: Deed::Look };
        let looked = self.replays.way.walk(self.nodes.root(), || mount.act(&act));
        let pending = self.replays.pending.lock().take();
        match (looked, pending) {
            (Err(Errno::ENOENT), Some(pending)) if pending.was_entered() => Ok(()),
            (Err(errno), _) if errno != Errno::ENOENT => Err(errno),
            _ => Err(Errno::ESRCH),
        }
    }

    fn is_boundary(&self, directory: &Node, name: &OsStr) -> bool {
        let child = self.view.child(directory.position(), name);
        matches!(child, Child::Backing { directory: Some(position), .. } if position.role == Role::Boundary)
    }

    /// Whether what came or went by the boundary's name is the boundary.
    fn is_shown(&self, event: &Event) -> bool {
        let Some(hierarchy) = event.directory.position().hierarchy else { return false };
        if !self.is_boundary(&event.directory, &event.name) {
            return true;
        }
        match event.deed {
            Deed::Make => self.find(&event.directory, &event.name).is_ok(),
            Deed::Remove => {
                let mut removed = self.replays.removed_boundaries.lock();
                let is_first = !removed.contains(&hierarchy);
                removed.push(hierarchy);
                removed.dedup();
                is_first
            }
            Deed::Look | Deed::Touch | Deed::Rename(_) => true,
        }
    }

    fn show(&self, event: &Event, kernel: &impl Invalidate, mount: &impl OwnMount) {
        if !self.is_shown(event) {
            return;
        }
        let directory = event.directory.view_components();
        let act = Act { directory, name: event.name.clone(), deed: event.deed.clone() };
        let mut done = Err(Errno::EAGAIN);
        for _ in 0..ATTEMPTS_MAX {
            *self.replays.pending.lock() = Some(PendingInjection::new(event.clone()));
            done = self.replays.way.walk(&event.directory, || mount.act(&act));
            if !matches!(done, Err(Errno::EEXIST | Errno::EAGAIN)) {
                break;
            }
            // The kernel answers by what a caller has looked up. From now on it asks again.
            kernel.entry(event.directory.id(), &event.name);
            if let Deed::Rename(to) = &event.deed {
                kernel.entry(event.directory.id(), to);
            }
        }
        self.replays.remember(event);
        *self.replays.pending.lock() = None;
        match done {
            Ok(()) => {}
            // Callers use the name all the time. What they were told can be compared afterwards.
            Err(Errno::EEXIST | Errno::EAGAIN) => self.replays.push(Task::Compare(Arc::clone(&event.directory))),
            Err(errno) => {
                tracing::debug!(%errno, ?act, "not replayed");
                // It's as good as told: it would fail again.
                match &event.deed {
                    Deed::Make => tell(&event.directory, &event.name, EntryChange::Made),
                    Deed::Remove => tell(&event.directory, &event.name, EntryChange::Removed),
                    Deed::Rename(to) => {
                        tell(&event.directory, &event.name, EntryChange::Removed);
                        tell(&event.directory, to, EntryChange::Made);
                    }
                    Deed::Look | Deed::Touch => {}
                }
            }
        }
    }

    /// Says of each file that counts events that it has changed: rather once too often than never.
    fn touch_events(&self, directory: &Arc<Node>, kernel: &impl Invalidate, mount: &impl OwnMount) {
        for file in self.shown(directory).unwrap_or_default() {
            if !file.is_directory && file.name.to_str().is_some_and(is_events) {
                self.show(
                    &Event { directory: Arc::clone(directory), name: file.name, deed: Deed::Touch },
                    kernel,
                    mount,
                );
            }
        }
    }

    /// Replays what must have happened in a directory.
    fn compare(&self, directory: &Arc<Node>, kernel: &impl Invalidate, mount: &impl OwnMount) {
        for _ in 0..ATTEMPTS_MAX {
            let Ok(shown) = self.shown(directory) else { return };
            let differences = self.differences(directory, &cgroups(&shown));
            if differences.is_empty() {
                return;
            }
            for (name, deed) in differences {
                self.show(&Event { directory: Arc::clone(directory), name, deed }, kernel, mount);
            }
            // What was changed through this door meanwhile may have been told before what was shown now: then it differs again.
        }
        self.replays.push(Task::Compare(Arc::clone(directory)));
    }

    fn differences(&self, directory: &Arc<Node>, now: &Cgroups) -> Vec<(OsString, Deed)> {
        let told = directory.told();
        // Where nobody ever looked, nobody can tell what is new.
        let anything_is_new = told.is_some();
        let before = told.unwrap_or_else(|| {
            let known = self.nodes.children(directory).into_iter();
            known
                .filter(|node| *node.object() == Object::Directory)
                .map(|node| (node.name().to_os_string(), node.inode()))
                .collect()
        });
        let is_other = |was: u64, now: u64| was != 0 && was != now;
        let gone = before.iter().filter(|(name, was)| now.get(*name).is_none_or(|now| is_other(**was, *now)));
        let new =
            now.iter().filter(|(name, now)| before.get(*name).map_or(anything_is_new, |was| is_other(*was, **now)));
        let removed = gone.map(|(name, _)| (name.clone(), Deed::Remove));
        removed.chain(new.map(|(name, _)| (name.clone(), Deed::Make))).collect()
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
