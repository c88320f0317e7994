//! A node that the kernel holds.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Attributes, NodeId, ShownSize};
use crate::cgroup::FileClass;
use crate::records::NodeRecord;
use crate::view::Position;

/// The kind of object that a node stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A directory that the view makes itself: its root, or a component of the alias.
    Synthetic,
    /// A symlink in the view's root, and its target.
    Link(OsString),
    /// A cgroup.
    Directory,
    /// An interface file.
    File(FileClass),
}

/// A guard that keeps a directory watched until it's dropped.
pub trait Watch: Debug + Send + Sync {
    /// The number by which the next server finds the watch; `None` if it can't.
    fn number(&self) -> Option<i32> {
        None
    }
}

/// The cgroups of a directory, by name, with their inode numbers (0: not known).
pub type Cgroups = BTreeMap<OsString, u64>;

/// An object of the view. Only its name can change, by a rename.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    position: Position,
    object: Object,
    inode: u64,
    parent: Option<Arc<Node>>,
    /// The watch for changes of this directory. Its entries keep it alive, too: the kernel may forget a directory and
    /// still hold a file in it that somebody watches.
    watched: OnceLock<Option<Box<dyn Watch>>>,
    /// How many changes of this directory were seen.
    changes: AtomicU64,
    /// The number of the newest complete listing.
    listed: AtomicU64,
    /// Whether the kernel has dropped it.
    forgotten: AtomicBool,
    /// Whether it, or the cgroup that it lies in, was seen to be removed.
    gone: AtomicBool,
    /// Whether the kernel was made to look its name up again.
    doubted: AtomicBool,
    /// The size that the kernel is shown.
    size: ShownSize,
    /// The nodes that the kernel holds of this directory's entries. Leaf lock: nothing else is locked while it's held.
    children: Mutex<HashMap<Arc<OsStr>, NodeId>>,
    /// Leaf lock, too.
    name: Mutex<Arc<OsStr>>,
    /// The attributes that were last seen. Leaf lock, too.
    last_seen: Mutex<Option<Attributes>>,
    /// How many changes of its attributes by the view itself may still have an event.
    own_changes: AtomicU32,
    /// The cgroups that watchers know of, if anybody ever looked. Leaf lock, too.
    told: Mutex<Option<Cgroups>>,
    /// What the next server needs to know of it.
    record: OnceLock<NodeRecord>,
}

impl Node {
    /// The root of a view.
    pub fn root(id: NodeId, position: Position, object: Object, inode: u64) -> Self {
        Self::new(None, OsStr::new(""), id, position, object, inode)
    }

    /// Makes the node of the entry `name` in `parent`.
    pub fn child(parent: &Arc<Self>, name: &OsStr, id: NodeId, position: Position, object: Object, inode: u64) -> Self {
        Self::new(Some(Arc::clone(parent)), name, id, position, object, inode)
    }

    fn new(
        parent: Option<Arc<Self>>,
        name: &OsStr,
        id: NodeId,
        position: Position,
        object: Object,
        inode: u64,
    ) -> Self {
        Self {
            id,
            position,
            object,
            inode,
            parent,
            watched: OnceLock::new(),
            changes: AtomicU64::default(),
            listed: AtomicU64::default(),
            forgotten: AtomicBool::default(),
            gone: AtomicBool::default(),
            doubted: AtomicBool::default(),
            size: ShownSize::default(),
            children: Mutex::default(),
            name: Mutex::new(name.into()),
            last_seen: Mutex::default(),
            own_changes: AtomicU32::default(),
            told: Mutex::default(),
            record: OnceLock::new(),
        }
    }

    /// Notes its record.
    pub(super) fn set_record(&self, record: NodeRecord) {
        let _ = self.record.set(record);
    }

    /// Its record, if it has one.
    pub fn record(&self) -> Option<&NodeRecord> {
        self.record.get()
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its position in the view; a file has its directory's.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The object that the node stands for.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The inode number of the backing object; one of the view's own numbers if there is none.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The directory in which it was found; `None` for the root.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Its name now; empty for the root.
    pub fn name(&self) -> Arc<OsStr> {
        Arc::clone(&self.name.lock())
    }

    /// Notes its new name. Only for a node that the kernel holds.
    pub(super) fn rename(&self, name: &Arc<OsStr>) {
        let before = std::mem::replace(&mut *self.name.lock(), Arc::clone(name));
        if let Some(parent) = &self.parent {
            parent.remove_child(&before, self.id);
            parent.children.lock().insert(Arc::clone(name), self.id);
        }
        if let Some(record) = self.record() {
            record.rename(name.as_bytes());
        }
    }

    /// Notes that the kernel holds it, under its current name.
    pub(super) fn note_held(&self) {
        if let Some(parent) = &self.parent {
            parent.children.lock().insert(self.name(), self.id);
        }
    }

    /// Notes that the kernel no longer holds it.
    pub(super) fn note_dropped(&self) {
        self.forgotten.store(true, Ordering::Release);
        if let Some(record) = self.record() {
            record.set_lookups(0);
        }
        if let Some(parent) = &self.parent {
            parent.remove_child(&self.name(), self.id);
        }
    }

    /// Whether the kernel held it once and no longer does.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Removes an entry, unless another node has taken the name since.
    fn remove_child(&self, name: &OsStr, id: NodeId) {
        let mut children = self.children.lock();
        if children.get(name) == Some(&id) {
            children.remove(name);
        }
    }

    /// Returns the id of the node that the kernel holds for this entry of the directory.
    pub(super) fn child_id(&self, name: &OsStr) -> Option<NodeId> {
        self.children.lock().get(name).copied()
    }

    /// Returns the ids of the nodes that the kernel holds for the directory's entries.
    pub(super) fn child_ids(&self) -> Vec<NodeId> {
        self.children.lock().values().copied().collect()
    }

    /// Whether the kernel holds any of this directory's entries.
    pub fn has_children(&self) -> bool {
        !self.children.lock().is_empty()
    }

    /// Whether it, or its directory, was seen to be removed. It may exist again.
    pub fn may_be_gone(&self) -> bool {
        let is_gone = |node: &Self| node.gone.load(Ordering::Acquire);
        is_gone(self) || self.parent.as_deref().is_some_and(is_gone)
    }

    /// Notes whether it was removed.
    pub fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::Release);
        if !gone {
            self.doubted.store(false, Ordering::Release);
        }
    }

    /// Notes that the kernel is made to look its name up again. Returns false if it was before.
    pub fn note_doubted(&self) -> bool {
        !self.doubted.swap(true, Ordering::AcqRel)
    }

    /// The size that the kernel is shown.
    pub fn size(&self) -> &ShownSize {
        &self.size
    }

    /// The attributes that were last seen: after the removal of its cgroup there are no others.
    pub fn last_seen(&self) -> Option<Attributes> {
        *self.last_seen.lock()
    }

    /// Notes its attributes.
    pub fn set_last_seen(&self, attributes: Attributes) {
        *self.last_seen.lock() = Some(attributes);
        self.record_attributes(&attributes);
    }

    /// Notes that the view itself is about to change its attributes.
    pub fn announce_attributes(&self) {
        self.own_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether such a change was noted. Counts it no longer.
    pub fn take_announced_attributes(&self) -> bool {
        self.own_changes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1)).is_ok()
    }

    /// Notes attributes that are recorded already.
    pub(super) fn restore_last_seen(&self, attributes: Attributes) {
        *self.last_seen.lock() = Some(attributes);
    }

    /// Whether changes of this directory are seen.
    pub fn is_watched(&self) -> bool {
        self.watched.get().is_some_and(Option::is_some)
    }

    /// Calls `watch` to watch this directory, the first time that it's called.
    pub fn watch_once(&self, watch: impl FnOnce() -> Option<Box<dyn Watch>>) {
        let watch = self.watched.get_or_init(watch);
        if let Some(number) = watch.as_ref().and_then(|watch| watch.number())
            && let Some(record) = self.record()
        {
            record.set_watch(number);
        }
    }

    /// The cgroups that watchers know of, by a listing and the events since; `None` if nobody ever looked.
    pub fn told_cgroups(&self) -> Option<Cgroups> {
        self.told.lock().clone()
    }

    /// Whether watchers know of a cgroup with this name; `None` if nobody ever looked.
    pub fn was_told_of(&self, name: &OsStr) -> Option<bool> {
        self.told.lock().as_ref().map(|cgroups| cgroups.contains_key(name))
    }

    /// Notes the cgroups that a first listing shows.
    pub(in crate::fs) fn note_listed_cgroups(&self, cgroups: impl FnOnce() -> Cgroups) {
        self.told.lock().get_or_insert_with(cgroups);
        if let Some(record) = self.record() {
            record.set_told();
        }
    }

    /// Notes a change that watchers were told of.
    pub fn note_told_change(&self, change: impl FnOnce(&mut Cgroups)) {
        if let Some(cgroups) = &mut *self.told.lock() {
            change(cgroups);
        }
    }

    /// How many changes of this directory were seen.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change.
    pub fn count_change(&self) {
        let changes = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(record) = self.record() {
            record.set_extra(changes);
        }
    }

    /// Notes how many changes an earlier server has seen.
    pub(super) fn restore_changes(&self, changes: u64) {
        self.changes.store(changes, Ordering::Release);
    }

    /// Notes the complete listing with this number. Returns false if one that was begun later was complete before.
    pub fn was_listed(&self, number: u64) -> bool {
        self.listed.fetch_max(number, Ordering::AcqRel) <= number
    }

    /// Whether it's a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.object, Object::Directory | Object::Synthetic)
    }

    /// Whether it's a membership file.
    pub fn is_membership(&self) -> bool {
        matches!(self.object, Object::File(FileClass::Membership(_)))
    }

    /// The names that lead to it from the view's root.
    pub fn view_components(&self) -> Vec<OsString> {
        let mut components = Vec::new();
        let mut node = self;
        while let Some(parent) = &node.parent {
            components.push(node.name().to_os_string());
            node = parent;
        }
        components.reverse();
        components
    }

    /// Its path in the view, for messages.
    pub fn view_path(&self) -> OsString {
        let mut path = OsString::new();
        for component in self.view_components() {
            path.push("/");
            path.push(component);
        }
        if path.is_empty() { "/".into() } else { path }
    }
}

impl Drop for Node {
    /// Drops the ancestors in a loop: a container can make a tree so deep that recursion would overflow the stack,
    /// and the kernel may hold only the deepest node.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(node) = above {
            above = Arc::into_inner(node).and_then(|mut node| node.parent.take());
        }
    }
}
