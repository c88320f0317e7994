//! What the kernel may keep, and when it's told to forget.
//!
//! Each directory that somebody looks into is watched on the host. While it's watched, the kernel may keep its entries, attributes and
//! listing; what changes there by another hand than through the view is invalidated as soon as the host's event arrives. A directory that
//! can't be watched (inotify's limits) isn't cached.
//!
//! Two races are closed. A lookup in flight holds the directory's lock in the kernel, for which the invalidation of an entry waits. A
//! listing in flight could be stored after its invalidation: so each change moves the directory's modification time on by a nanosecond,
//! which makes the kernel throw the stored listing away when it's next read from its beginning (`fuse_readdir_cached`).

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cgroup::FileClass;
use crate::fs::cache::dir_locks::LockingInvalidate;
use crate::fs::host::{EntryChange, HostEvent};
use crate::fs::inode::{Node, NodeId, Object, ROOT_ID, Watch};
use crate::fs::{CgroupFs, EntryTtl, Host};
use crate::view::EntryPath;

/// How long the kernel may keep what is watched. Changes are told at once; this only bounds what a lost event would cost.
pub(in crate::fs) const WATCHED_TTL: Duration = Duration::from_secs(60);

/// Changes that the view itself is making. The kernel knows of them when they come through the mount, so their events needn't be told to it
/// at that door: it would wait for the directory's lock each time.
#[derive(Debug, Default)]
pub(in crate::fs) struct OwnChanges(Mutex<HashMap<Own, VecDeque<Announced>>>);

/// Through which door a change comes, and since when.
pub(in crate::fs) type Announced = (NodeId, Instant);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Own {
    hierarchy: usize,
    directory: u64,
    name: OsString,
    kind: EntryChange,
}

impl OwnChanges {
    /// Takes note of a change that is about to be made in `directory`. Only what is watched has events.
    pub(in crate::fs) fn announce(&self, directory: &Node, name: &OsStr, kind: EntryChange) -> bool {
        let (true, Some(own)) = (directory.is_watched(), Own::new(directory, name, kind)) else {
            return false;
        };
        self.0.lock().entry(own).or_default().push_back((directory.id(), Instant::now()));
        true
    }

    /// It wasn't made after all. False if an event was taken for its own meanwhile: that was another's.
    pub(in crate::fs) fn forget(&self, directory: &Node, name: &OsStr, kind: EntryChange) -> bool {
        let Some(own) = Own::new(directory, name, kind) else { return true };
        let id = directory.id();
        let mut expected = self.0.lock();
        let Some(nodes_of) = expected.get_mut(&own) else { return false };
        let last_of_its = nodes_of.iter().rposition(|(entry_path, _)| *entry_path == id);
        match last_of_its {
            Some(at) => drop(nodes_of.remove(at)),
            // If another door expects one of the same kind, it was that one's, which won't have a second.
            None => drop(nodes_of.pop_front()),
        }
        if nodes_of.is_empty() {
            expected.remove(&own);
        }
        last_of_its.is_some()
    }

    fn take_one(
        &self,
        own: &Own,
        take: impl FnOnce(&mut VecDeque<Announced>) -> Option<Announced>,
    ) -> Option<Announced> {
        let mut expected = self.0.lock();
        let nodes_of = expected.get_mut(own)?;
        let entry_path = take(nodes_of);
        if nodes_of.is_empty() {
            expected.remove(own);
        }
        entry_path
    }

    /// The events of a directory won't come any more.
    fn forget_all(&self, hierarchy: usize, directory: u64) {
        self.0.lock().retain(|own, _| own.hierarchy != hierarchy || own.directory != directory);
    }

    /// The door through which the change was made, if it was the view's own. An event counts for one change.
    fn take(&self, hierarchy: usize, directory: u64, name: &OsStr, kind: EntryChange) -> Option<Announced> {
        self.take_one(&Own { hierarchy, directory, name: name.to_os_string(), kind }, VecDeque::pop_front)
    }

    fn clear(&self) {
        self.0.lock().clear();
    }
}

/// What is dropped when a directory is no longer watched.
#[derive(Debug)]
struct Watched {
    _watch: Box<dyn Watch>,
    own: Arc<OwnChanges>,
    hierarchy: usize,
    directory: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.own.forget_all(self.hierarchy, self.directory);
    }
}

impl Own {
    fn new(directory: &Node, name: &OsStr, kind: EntryChange) -> Option<Self> {
        let hierarchy = directory.position().hierarchy?;
        Some(Self { hierarchy, directory: directory.inode(), name: name.to_os_string(), kind })
    }
}

/// The way to tell the kernel. Must not be used by a thread that serves requests: the kernel may wait for their answers first.
pub trait Invalidate {
    /// A directory's listing and attributes, or a file's attributes.
    fn node(&self, node: NodeId, listing: bool);
    /// What a directory has under this name.
    fn entry(&self, directory: NodeId, name: &OsStr);
}

/// Takes note of what watchers of a directory are told by the kernel, once it gets the answer. It holds the directory's lock until they are,
/// so what is noted before the answer is noted in their order.
pub(in crate::fs) fn tell(directory: &Node, name: &OsStr, kind: EntryChange) {
    directory.tell_change(|cgroups| match kind {
        EntryChange::Made => drop(cgroups.insert(name.to_os_string(), 0)),
        EntryChange::Removed => drop(cgroups.remove(name)),
        EntryChange::Renamed | EntryChange::Other => {}
    });
}

impl<H: Host> CgroupFs<H> {
    /// From now on, the kernel may keep nothing that the host can change.
    pub fn keep_nothing(&mut self) {
        self.coherent = true;
    }

    /// Whether the kernel may keep listings. It decides for itself, by a directory's modification time, whether one is still good.
    pub fn keeps_listings(&self) -> bool {
        !self.coherent
    }

    /// For how long the kernel may keep this node and its name.
    pub(in crate::fs) fn ttl_of(&self, node: &Node) -> EntryTtl {
        let by_parent =
            if node.parent().is_none_or(|parent| self.is_watched(parent)) { WATCHED_TTL } else { Duration::ZERO };
        let attributes = match node.object() {
            Object::Directory if !self.is_watched(node) => Duration::ZERO,
            _ => by_parent,
        };
        EntryTtl { entry: by_parent, attributes }
    }

    /// What the view makes itself never changes.
    fn is_watched(&self, node: &Node) -> bool {
        *node.object() != Object::Directory || (node.is_watched() && !self.coherent)
    }

    /// Watches a directory before it's first looked into: what the kernel is then told, it may keep.
    pub(in crate::fs) fn watch(&self, node: &Node) {
        if *node.object() == Object::Directory {
            node.watch_once(|| {
                let (own, hierarchy) = (Arc::clone(&self.own), node.position().hierarchy?);
                Some(Box::new(Watched { _watch: self.host.watch(node)?, own, hierarchy, directory: node.inode() }) as _)
            });
        }
    }

    /// Waits for changes on the host; `None` once [`CgroupFs::stop_waiting`] was called. There may be none that matter.
    pub fn wait_for_changes(&self) -> Option<Vec<HostEvent>> {
        self.host.wait_for_changes()
    }

    /// Lets [`CgroupFs::wait_for_changes`] and [`CgroupFs::wake_the_ready`] return.
    pub fn stop_waiting(&self) {
        self.host.stop_waiting_for_ready();
        self.host.stop_watching();
    }

    /// Tells the kernel what it must no longer keep, and has its watchers told ([`CgroupFs::replay`]). False if they know already: the view has
    /// made the change itself.
    pub fn invalidate(&self, change: &HostEvent, kernel: &impl Invalidate) -> bool {
        let kernel = &LockingInvalidate { way: &self.replays.way, kernel };
        match change {
            HostEvent::Entry { hierarchy, directory, name: None, .. } => {
                for node in self.nodes_of(*hierarchy, *directory) {
                    kernel.node(node.id(), false);
                    // See `invalidate_entry`.
                    if let Some(parent) = node.parent() {
                        kernel.entry(parent.id(), &node.name());
                    }
                }
            }
            HostEvent::Entry { hierarchy, directory, name: Some(name), kind } => {
                let removed = match kind {
                    EntryChange::Removed => self.note_removal(*hierarchy, *directory, name),
                    EntryChange::Made | EntryChange::Renamed | EntryChange::Other => Vec::new(),
                };
                let by = self.own.take(*hierarchy, *directory, name, *kind);
                let mut is_news = false;
                for node in self.nodes_of(*hierarchy, *directory) {
                    match by {
                        Some((entry_path, since)) if entry_path == node.id() => {
                            self.settle_if_late(&node, name, since);
                        }
                        _ => {
                            is_news = true;
                            self.invalidate_entry(&node, name, kernel);
                            self.replay_entry(&node, name, *kind);
                        }
                    }
                }
                for directory in &removed {
                    self.invalidate_names(directory, kernel);
                }
                return is_news;
            }
            HostEvent::Renamed { hierarchy, directory, from, to } => {
                let by = self.own.take(*hierarchy, *directory, from, EntryChange::Renamed);
                for node in self.nodes_of(*hierarchy, *directory) {
                    if by.is_none_or(|(entry_path, _)| entry_path != node.id()) {
                        self.invalidate_entry(&node, from, kernel);
                        self.invalidate_entry(&node, to, kernel);
                        self.replay_rename(&node, from, to);
                    }
                }
            }
            HostEvent::Modified { hierarchy, directory, name } => {
                if self.own_writes.take(*hierarchy, *directory, name) {
                    return false;
                }
                for node in self.nodes_of(*hierarchy, *directory) {
                    self.replay_modification(&node, name);
                }
            }
            HostEvent::Files { hierarchy, directory, of_children } => {
                self.invalidate_files(*hierarchy, *directory, *of_children, kernel);
            }
            HostEvent::Anything => {
                self.own.clear();
                self.own_writes.clear();
                self.invalidate_everything(kernel);
                self.replay_everything();
            }
        }
        true
    }

    pub(in crate::fs) fn invalidate_everything(&self, kernel: &impl Invalidate) {
        let nodes = self.nodes.all();
        self.drop_listing(self.nodes.root(), kernel);
        for node in &nodes {
            self.drop_listing(node, kernel);
        }
        for node in &nodes {
            if let Some(parent) = node.parent() {
                kernel.entry(parent.id(), &node.name());
            }
        }
        self.invalidate_all_absences(kernel);
    }

    /// The nodes by which the kernel knows this directory.
    fn nodes_of(&self, hierarchy: usize, inode: u64) -> Vec<Arc<Node>> {
        let by_door = |entry_path| NodeId::backing(hierarchy, entry_path, inode);
        let ids = [by_door(EntryPath::Main), by_door(EntryPath::HostPathAlias), NodeId::top(hierarchy), Some(ROOT_ID)];
        let is_it = |node: &Arc<Node>| {
            node.position().hierarchy == Some(hierarchy) && node.inode() == inode && *node.object() == Object::Directory
        };
        let nodes_of: Vec<_> = ids.into_iter().flatten().filter_map(|id| self.nodes.get(id)).filter(is_it).collect();
        if nodes_of.is_empty() { self.nodes.forgotten_parents(hierarchy, inode) } else { nodes_of }
    }

    /// Takes note, at every door, that what a directory had under this name was removed. Returns by which nodes the kernel knows it.
    pub(in crate::fs) fn note_removal(&self, hierarchy: usize, directory: u64, name: &OsStr) -> Vec<Arc<Node>> {
        let nodes_of = self.nodes_of(hierarchy, directory);
        let removed: Vec<_> = nodes_of.iter().filter_map(|node| self.nodes.child(node, name)).collect();
        for node in &removed {
            node.set_gone(true);
            self.host.forget(node);
        }
        removed
    }

    /// What is open in a directory that was removed keeps its name there, in the kernel: whoever holds the directory would find it.
    pub(in crate::fs) fn invalidate_names(&self, removed: &Arc<Node>, kernel: &impl Invalidate) {
        for child in self.nodes.children(removed) {
            kernel.entry(removed.id(), &child.name());
        }
    }

    pub(in crate::fs) fn invalidate_entry(&self, directory: &Arc<Node>, name: &OsStr, kernel: &impl Invalidate) {
        self.drop_listing(directory, kernel);
        self.negative.forget(directory.id(), name);
        // Whoever holds it open asks for its attributes by number, not by name.
        if let Some(node) = self.nodes.child(directory, name) {
            kernel.node(node.id(), node.is_directory());
        }
        // The name at last: what a lookup in flight brings is thrown away when the node's attributes are invalidated, and chmod(2) doesn't ask
        // for them: the owner would be the old one for as long as the name is kept.
        kernel.entry(directory.id(), name);
    }

    pub(in crate::fs) fn invalidate_files(
        &self,
        hierarchy: usize,
        directory: u64,
        of_children: bool,
        kernel: &impl Invalidate,
    ) {
        for node in self.nodes_of(hierarchy, directory) {
            self.invalidate_files_at(&node, of_children, kernel);
        }
    }

    fn invalidate_files_at(&self, directory: &Arc<Node>, of_children: bool, kernel: &impl Invalidate) {
        let changed = if of_children {
            let is_directory = |node: &Arc<Node>| *node.object() == Object::Directory;
            self.nodes.children(directory).into_iter().filter(is_directory).collect()
        } else {
            vec![Arc::clone(directory)]
        };
        for directory in changed {
            self.drop_listing(&directory, kernel);
            self.invalidate_absences(directory.id(), kernel);
            for file in self.nodes.children(&directory) {
                // The files that every cgroup has don't come and go.
                let comes_and_goes = matches!(file.object(), Object::File(class) if !matches!(class, FileClass::Core | FileClass::Membership(_)));
                if comes_and_goes {
                    kernel.entry(directory.id(), &file.name());
                }
            }
        }
    }

    fn drop_listing(&self, node: &Node, kernel: &impl Invalidate) {
        if *node.object() == Object::Directory {
            node.move_on();
            kernel.node(node.id(), true);
        } else {
            kernel.node(node.id(), false);
        }
    }
}
