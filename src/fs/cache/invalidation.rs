//! What the kernel may cache, and when it's told to forget.
//!
//! The server watches each directory on the host that somebody looks into. While the watch exists, the kernel may
//! cache the directory's entries, attributes and listing. When the host's event of a change arrives that didn't come
//! through the view, the server invalidates them. A directory that can't be watched (inotify's limits) isn't cached.
//!
//! Two races are closed. A lookup in flight holds the directory's lock in the kernel, and the invalidation of an
//! entry waits for that lock. A listing in flight could be stored after its invalidation. So each change advances the
//! directory's modification time by a nanosecond, and the kernel drops the stored listing when it's next read from
//! its beginning (`fuse_readdir_cached`).

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::FileClass;
use crate::fs::cache::Invalidate;
use crate::fs::cache::dir_locks::LockingInvalidate;
use crate::fs::cache::own_changes::WatchedDirectory;
use crate::fs::entry::WATCHED_TTL;
use crate::fs::host::{EntryChange, HostEvent, Report};
use crate::fs::inode::{Node, NodeId, Object, ROOT_ID, Watch};
use crate::fs::{CgroupFs, EntryTtl, Host};
use crate::view::EntryPath;

impl<H: Host> CgroupFs<H> {
    /// Forbids the kernel to cache anything that the host can change, from now on.
    pub fn keep_nothing(&mut self) {
        self.coherent = true;
    }

    /// Whether the kernel may keep listings. The kernel compares the directory's modification time to see whether a
    /// listing is still valid.
    pub fn keeps_listings(&self) -> bool {
        !self.coherent
    }

    /// Returns how long the kernel may cache this node and its name.
    pub(in crate::fs) fn ttl_of(&self, node: &Node) -> EntryTtl {
        let by_parent =
            if node.parent().is_none_or(|parent| self.is_watched(parent)) { WATCHED_TTL } else { Duration::ZERO };
        let attributes = match node.object() {
            Object::Directory if !self.is_watched(node) => Duration::ZERO,
            _ => by_parent,
        };
        EntryTtl { entry: by_parent, attributes }
    }

    /// Whether changes of a node are seen. Objects that the view makes itself never change.
    fn is_watched(&self, node: &Node) -> bool {
        *node.object() != Object::Directory || (node.is_watched() && !self.coherent)
    }

    /// Watches a directory before its first lookup, so that the kernel may cache the answers.
    pub(in crate::fs) fn watch(&self, node: &Node) {
        self.watch_by(node, || self.host.watch(node));
    }

    /// Notes the watch of a directory, if it has none.
    pub(in crate::fs) fn watch_by(&self, node: &Node, watch: impl FnOnce() -> Option<Box<dyn Watch>>) {
        if *node.object() == Object::Directory {
            node.watch_once(|| {
                let (own, hierarchy) = (Arc::clone(&self.own), node.position().hierarchy?);
                Some(Box::new(WatchedDirectory { watch: watch()?, own, hierarchy, directory: node.inode() }) as _)
            });
        }
    }

    /// Waits for changes on the host, of which none may matter; `None` once [`CgroupFs::stop_waiting`] was called.
    pub fn wait_for_changes(&self) -> Option<Report> {
        self.host.wait_for_changes()
    }

    /// Deals with the changes that were reported together. Returns false if nobody has to be told of them, as
    /// [`invalidate`](Self::invalidate).
    pub fn deal_with(&self, report: &Report, kernel: &impl Invalidate) -> bool {
        let mut is_news = false;
        for (change, position) in &report.changes {
            self.own.begin_event(*position);
            self.replays.begin_event();
            is_news |= self.invalidate(change, kernel);
            self.finish_up_to(*position);
        }
        self.finish_up_to(report.end);
        is_news
    }

    /// Notes that the changes up to this position are dealt with, once those that wait to be replayed are.
    fn finish_up_to(&self, position: u64) {
        if !self.replays.finish_later(position) {
            self.finish_changes(position);
        }
    }

    /// Notes that the changes up to this position are dealt with, and replayed.
    pub(in crate::fs) fn finish_changes(&self, position: u64) {
        self.host.dealt_with(position);
        self.own.finish(position);
    }

    /// Makes [`CgroupFs::wait_for_changes`] and [`CgroupFs::wake_the_ready`] return.
    pub fn stop_waiting(&self) {
        self.host.stop_waiting_for_ready();
        self.host.stop_watching();
    }

    /// Tells the kernel which data is no longer valid, and queues the event for the view's watchers
    /// ([`CgroupFs::replay`]). Returns false if they know already, because the view made the change itself.
    pub fn invalidate(&self, change: &HostEvent, kernel: &impl Invalidate) -> bool {
        let kernel = &LockingInvalidate { dir_locks: &self.replays.dir_locks, kernel };
        match change {
            HostEvent::Entry { hierarchy, directory, name: None, .. } => {
                for node in self.nodes_of(*hierarchy, *directory) {
                    // The watch of the directory above it has an event of the same change.
                    let is_told = node.parent().is_some_and(|parent| parent.is_watched());
                    if is_told || self.is_own_change_of_attributes(&node) {
                        continue;
                    }
                    kernel.node(node.id(), false);
                    // The name first; `invalidate_entry` says why the attributes aren't enough.
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
                        None if *kind == EntryChange::Other && self.is_own_change_of_entry(&node, name) => {}
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
        self.negative.invalidate(|_| true, kernel);
    }

    /// The nodes that the kernel has for this directory, one for each entry path.
    fn nodes_of(&self, hierarchy: usize, inode: u64) -> Vec<Arc<Node>> {
        let by_door = |entry_path| NodeId::backing(hierarchy, entry_path, inode);
        let ids = [by_door(EntryPath::Main), by_door(EntryPath::HostPathAlias), NodeId::top(hierarchy), Some(ROOT_ID)];
        let is_it = |node: &Arc<Node>| {
            node.position().hierarchy == Some(hierarchy) && node.inode() == inode && *node.object() == Object::Directory
        };
        let nodes_of: Vec<_> = ids.into_iter().flatten().filter_map(|id| self.nodes.get(id)).filter(is_it).collect();
        if nodes_of.is_empty() { self.nodes.forgotten_parents(hierarchy, inode) } else { nodes_of }
    }

    /// Notes on every node of the directory that the entry with this name was removed. Returns the nodes that the
    /// kernel has for it.
    pub(in crate::fs) fn note_removal(&self, hierarchy: usize, directory: u64, name: &OsStr) -> Vec<Arc<Node>> {
        let nodes_of = self.nodes_of(hierarchy, directory);
        let removed: Vec<_> = nodes_of.iter().filter_map(|node| self.nodes.child(node, name)).collect();
        for node in &removed {
            node.set_gone(true);
            self.host.forget(node);
        }
        removed
    }

    /// Invalidates the names of open files in a removed directory: the kernel keeps them, and whoever holds the
    /// directory would find them.
    pub(in crate::fs) fn invalidate_names(&self, removed: &Arc<Node>, kernel: &impl Invalidate) {
        for child in self.nodes.children(removed) {
            kernel.entry(removed.id(), &child.name());
        }
    }

    pub(in crate::fs) fn invalidate_entry(&self, directory: &Arc<Node>, name: &OsStr, kernel: &impl Invalidate) {
        self.drop_listing(directory, kernel);
        self.negative.forget(directory.id(), name);
        // A process that holds the object open asks for its attributes by node id, not by name.
        if let Some(node) = self.nodes.child(directory, name) {
            kernel.node(node.id(), node.is_directory());
        }
        // The name goes last. The kernel discards the answer of a lookup in flight when the node's attributes are
        // invalidated, but chmod(2) doesn't ask for attributes: it would see the old owner for as long as the name is
        // cached.
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
            self.negative.invalidate(|id| id == directory.id(), kernel);
            for file in self.nodes.children(&directory) {
                // Core and membership files exist in every cgroup and never come or go.
                let comes_and_goes = matches!(file.object(), Object::File(class) if !matches!(class, FileClass::Core | FileClass::Membership(_)));
                if comes_and_goes {
                    kernel.entry(directory.id(), &file.name());
                }
            }
        }
    }

    fn drop_listing(&self, node: &Node, kernel: &impl Invalidate) {
        if *node.object() == Object::Directory {
            node.count_change();
            kernel.node(node.id(), true);
        } else {
            kernel.node(node.id(), false);
        }
    }
}
