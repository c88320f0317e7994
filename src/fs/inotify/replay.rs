//! Events for the view's watchers (inotify(7), fanotify(7)).
//!
//! FUSE has no message with which a server could make an event. So the server repeats each change that didn't come
//! through the view, as an operation on its own mount ([`Injector`]). The kernel then makes the event of that
//! operation for all watchers of the view. The server recognises its own requests by their thread and answers them
//! without touching the host (`crate::fs::inotify::injection`).
//!
//! Changes wait in a queue for a thread of their own: an operation may have to wait for a directory that a caller has
//! locked. If the queue grows too long, or events of the host were lost, the server compares the known directories
//! with the host instead.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use nix::errno::Errno;

use super::pending::{InjectedOp, Injection, Injector, PendingInjection, ReplayedChange};
use super::queue::ReplayTask;
use crate::cgroup::file::is_events;
use crate::fs::cache::Invalidate;
use crate::fs::cache::told::{cgroups, note_told};
use crate::fs::host::EntryChange;
use crate::fs::inode::{Cgroups, Node, Object};
use crate::fs::{CgroupFs, Host, SysResult};
use crate::view::{Child, Role};

/// How often an operation is tried that fails because a caller has just looked the name up.
const ATTEMPTS_MAX: usize = 4;

impl<H: Host> CgroupFs<H> {
    /// Returns the place for the id of the thread that injects operations: the thread sets it before it begins, and
    /// resets it to 0 before it ends.
    pub fn own_thread(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.replays.thread)
    }

    /// Announces that [`CgroupFs::replay`] is about to be called. `has_mount` says whether the own mount can be
    /// reached, so that changes are replayed from now on.
    pub fn start_replaying(&self, has_mount: bool) {
        self.replays.queue.lock().has_taker = true;
        self.replays.enabled.store(has_mount, Ordering::Release);
    }

    pub(in crate::fs) fn replay_entry(&self, directory: &Arc<Node>, name: &OsStr, kind: EntryChange) {
        let operation = match kind {
            EntryChange::Made => InjectedOp::Make,
            EntryChange::Removed => InjectedOp::Remove,
            EntryChange::Renamed | EntryChange::Other => return,
        };
        if self.view.lists(directory.position(), name, true) && self.replays.enabled.load(Ordering::Acquire) {
            self.look_once(directory);
            self.replays.show(directory, name, operation);
        }
    }

    /// Called when the kernel has reported a change through this entry path, made at `since`. An earlier change of
    /// the same name may be shown only now. The last event that is shown has to be the true one.
    pub(in crate::fs) fn settle_if_late(&self, directory: &Arc<Node>, name: &OsStr, since: Instant) {
        if self.replays.is_late(directory.id(), name, since)
            && self.view.lists(directory.position(), name, true)
            && self.replays.enabled.load(Ordering::Acquire)
        {
            self.look_once(directory);
            self.replays.settle(directory, name);
        }
    }

    fn settle(&self, directory: &Arc<Node>, name: &OsStr, kernel: &impl Invalidate, mount: &impl Injector) {
        let is_there = self.find(directory, name).is_ok();
        if directory.was_told_of(name) != Some(is_there) {
            let operation = if is_there { InjectedOp::Make } else { InjectedOp::Remove };
            self.show(
                &ReplayedChange { directory: Arc::clone(directory), name: name.to_os_string(), operation },
                kernel,
                mount,
            );
        }
    }

    pub(in crate::fs) fn replay_rename(&self, directory: &Arc<Node>, from: &OsStr, to: &OsStr) {
        let is_plain =
            |name: &OsStr| self.view.lists(directory.position(), name, true) && !self.is_boundary(directory, name);
        if is_plain(from) && is_plain(to) {
            self.replays.show(directory, from, InjectedOp::Rename(to.to_os_string()));
        } else {
            self.replay_entry(directory, from, EntryChange::Removed);
            self.replay_entry(directory, to, EntryChange::Made);
        }
    }

    pub(in crate::fs) fn replay_modification(&self, directory: &Arc<Node>, name: &OsStr) {
        if self.view.lists(directory.position(), name, false) {
            self.replays.show(directory, name, InjectedOp::Touch);
        }
    }

    pub(in crate::fs) fn replay_everything(&self) {
        if self.replays.enabled.load(Ordering::Acquire) {
            self.replays.push(ReplayTask::Everything);
        }
    }

    /// Replays the changes that [`CgroupFs::invalidate`] has queued, until [`CgroupFs::stop_replaying`]. If the own
    /// mount can't be reached, nothing is queued.
    pub fn replay(&self, kernel: &impl Invalidate, mount: Option<&impl Injector>) {
        if let Some(mount) = mount
            && let Err(errno) = self.try_out(mount)
        {
            // ENXIO: the mount is closed already, because the view has ended.
            if errno != Errno::ENXIO {
                tracing::warn!(%errno, "no way to the view's own mount: inotify reports only what is done through the view");
            }
            self.replays.enabled.store(false, Ordering::Release);
        }
        let mount = mount.filter(|_| self.replays.enabled.load(Ordering::Acquire));
        loop {
            match (self.replays.next(), mount) {
                (ReplayTask::Show(event), Some(mount)) => self.show(&event, kernel, mount),
                (ReplayTask::Settle(directory, name), Some(mount)) => self.settle(&directory, &name, kernel, mount),
                (ReplayTask::Misattributed(directory, name, kind), _) => {
                    // If the state differs, the event of the later change comes, or came.
                    if self.find(&directory, &name).is_ok() == (kind == EntryChange::Made) {
                        self.invalidate_entry(&directory, &name, kernel);
                        self.replay_entry(&directory, &name, kind);
                    }
                }
                (ReplayTask::Removed(directory), _) => self.invalidate_names(&directory, kernel),
                (ReplayTask::Everything, Some(mount)) => {
                    let directories = self.nodes.directories().into_iter();
                    for node in directories.filter(|node| *node.object() == Object::Directory) {
                        self.touch_events(&node, kernel, mount);
                        self.compare(&node, kernel, mount);
                    }
                }
                (ReplayTask::Compare(directory), Some(mount)) => self.compare(&directory, kernel, mount),
                (ReplayTask::Files { hierarchy, directory, of_children, _done }, _) => {
                    self.invalidate_files(hierarchy, directory, of_children, kernel);
                }
                (ReplayTask::Finish(position), _) => self.finish_changes(position),
                (ReplayTask::Stop, _) => return,
                (
                    ReplayTask::Show(_) | ReplayTask::Settle(..) | ReplayTask::Everything | ReplayTask::Compare(_),
                    None,
                ) => {}
            }
        }
    }

    /// Makes [`CgroupFs::replay`] return.
    pub fn stop_replaying(&self) {
        self.replays.enabled.store(false, Ordering::Release);
        let mut queue = self.replays.queue.lock();
        queue.has_taker = false;
        queue.tasks.clear();
        queue.tasks.push_back(ReplayTask::Stop);
        self.replays.filled.notify_one();
    }

    /// Checks that the server recognises its own requests: it would carry out one that it took for a container's.
    fn try_out(&self, mount: &impl Injector) -> SysResult<()> {
        // Another name for each server: the kernel may keep that there is none, if an earlier one was killed with this request.
        let name = OsString::from(format!("vcgroupfs-{}", self.own_thread().load(Ordering::Acquire)));
        *self.replays.pending.lock() = Some(PendingInjection::new(ReplayedChange {
            directory: Arc::clone(self.nodes.root()),
            name: name.clone(),
            operation: InjectedOp::Look,
        }));
        let injection = Injection { directory: Vec::new(), name, operation: InjectedOp::Look };
        let looked = self.replays.dir_locks.while_walking(self.nodes.root(), || mount.inject(&injection));
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

    /// Whether the event is about the boundary itself, and not about another cgroup with its name.
    fn is_shown(&self, event: &ReplayedChange) -> bool {
        let Some(hierarchy) = event.directory.position().hierarchy else { return false };
        if !self.is_boundary(&event.directory, &event.name) {
            return true;
        }
        match event.operation {
            InjectedOp::Make => self.find(&event.directory, &event.name).is_ok(),
            InjectedOp::Remove => {
                let mut removed = self.replays.removed_boundaries.lock();
                let is_first = !removed.contains(&hierarchy);
                removed.push(hierarchy);
                removed.dedup();
                is_first
            }
            InjectedOp::Look | InjectedOp::Touch | InjectedOp::Rename(_) => true,
        }
    }

    fn show(&self, event: &ReplayedChange, kernel: &impl Invalidate, mount: &impl Injector) {
        if !self.is_shown(event) {
            return;
        }
        let directory = event.directory.view_components();
        let injection = Injection { directory, name: event.name.clone(), operation: event.operation.clone() };
        let mut done = Err(Errno::EAGAIN);
        for _ in 0..ATTEMPTS_MAX {
            *self.replays.pending.lock() = Some(PendingInjection::new(event.clone()));
            done = self.replays.dir_locks.while_walking(&event.directory, || mount.inject(&injection));
            if !matches!(done, Err(Errno::EEXIST | Errno::EAGAIN)) {
                break;
            }
            // A caller's lookup is in the kernel's cache. Invalidate it, so that the kernel asks again.
            kernel.entry(event.directory.id(), &event.name);
            if let InjectedOp::Rename(to) = &event.operation {
                kernel.entry(event.directory.id(), to);
            }
        }
        self.replays.remember(event);
        *self.replays.pending.lock() = None;
        match done {
            Ok(()) => {}
            // Callers keep using the name. A comparison afterwards finds what they were told.
            Err(Errno::EEXIST | Errno::EAGAIN) => self.replays.push(ReplayTask::Compare(Arc::clone(&event.directory))),
            Err(errno) => {
                tracing::debug!(%errno, ?injection, "not replayed");
                // Count it as told: it would fail again.
                match &event.operation {
                    InjectedOp::Make => note_told(&event.directory, &event.name, EntryChange::Made),
                    InjectedOp::Remove => note_told(&event.directory, &event.name, EntryChange::Removed),
                    InjectedOp::Rename(to) => {
                        note_told(&event.directory, &event.name, EntryChange::Removed);
                        note_told(&event.directory, to, EntryChange::Made);
                    }
                    InjectedOp::Look | InjectedOp::Touch => {}
                }
            }
        }
    }

    /// Reports each file that counts events as changed: one event too many is better than one too few.
    fn touch_events(&self, directory: &Arc<Node>, kernel: &impl Invalidate, mount: &impl Injector) {
        for file in self.shown(directory).unwrap_or_default() {
            if !file.is_directory && file.name.to_str().is_some_and(is_events) {
                self.show(
                    &ReplayedChange { directory: Arc::clone(directory), name: file.name, operation: InjectedOp::Touch },
                    kernel,
                    mount,
                );
            }
        }
    }

    /// Replays the differences between what watchers know of a directory and its state.
    fn compare(&self, directory: &Arc<Node>, kernel: &impl Invalidate, mount: &impl Injector) {
        for _ in 0..ATTEMPTS_MAX {
            let Ok(shown) = self.shown(directory) else { return };
            let differences = self.differences(directory, &cgroups(&shown));
            if differences.is_empty() {
                return;
            }
            for (name, operation) in differences {
                self.show(&ReplayedChange { directory: Arc::clone(directory), name, operation }, kernel, mount);
            }
            // Watchers may have been told of a change through this entry path before the event that was shown now.
            // Then it differs again.
        }
        self.replays.push(ReplayTask::Compare(Arc::clone(directory)));
    }

    fn differences(&self, directory: &Arc<Node>, now: &Cgroups) -> Vec<(OsString, InjectedOp)> {
        let told = directory.told_cgroups();
        // If nobody ever looked, no entry counts as new.
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
        let removed = gone.map(|(name, _)| (name.clone(), InjectedOp::Remove));
        removed.chain(new.map(|(name, _)| (name.clone(), InjectedOp::Make))).collect()
    }
}
