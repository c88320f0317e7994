//! What the kernel may keep, and when it's told to forget.
//!
//! Each directory that somebody looks into is watched on the host. While it's watched, the kernel may keep its entries, attributes and
//! listing; what changes there by another hand than through the view is invalidated as soon as the host's event arrives. A directory that
//! can't be watched (inotify's limits) isn't cached.
//!
//! Two races are closed. A lookup in flight holds the directory's lock in the kernel, for which the invalidation of an entry waits. A
//! listing in flight could be stored after its invalidation: so each change moves the directory's modification time on by a nanosecond,
//! which makes the kernel throw the stored listing away when it's next read from its beginning (`fuse_readdir_cached`).

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::FileClass;
use crate::fs::cache::Invalidate;
use crate::fs::cache::dir_locks::LockingInvalidate;
use crate::fs::cache::own_changes::WatchedDirectory;
use crate::fs::entry::WATCHED_TTL;
use crate::fs::host::{EntryChange, HostEvent};
use crate::fs::inode::{Node, NodeId, Object, ROOT_ID};
use crate::fs::{CgroupFs, EntryTtl, Host};
use crate::view::EntryPath;

impl<H: Host> CgroupFs<H> {
    /// Forbids the kernel to keep what the host can change, from now on.
    pub fn keep_nothing(&mut self) {
        self.coherent = true;
    }

    /// Whether the kernel may keep listings. It decides for itself, by a directory's modification time, whether one is still good.
    pub fn keeps_listings(&self) -> bool {
        !self.coherent
    }

    /// How long the kernel may keep this node and its name.
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
                Some(Box::new(WatchedDirectory {
                    _watch: self.host.watch(node)?,
                    own,
                    hierarchy,
                    directory: node.inode(),
                }) as _)
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
        self.negative.invalidate(|_| true, kernel);
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

    /// Notes, on every node of the directory, that what it had under this name was removed. Returns the nodes by which the kernel knows it.
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
            self.negative.invalidate(|id| id == directory.id(), kernel);
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
