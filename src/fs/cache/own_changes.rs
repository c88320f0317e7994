//! Changes that the view itself makes, which need no invalidation.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::fs::host::EntryChange;
use crate::fs::inode::{Node, NodeId, Watch};

/// Changes that the view itself is making. The kernel knows of them, because they come through the mount. So the
/// server doesn't invalidate for their events on the same entry path: it would wait for the directory's lock each
/// time.
#[derive(Debug, Default)]
pub(in crate::fs) struct OwnChanges(Mutex<HashMap<OwnChangeKey, VecDeque<Announced>>>);

/// The entry path of a change, and when it was announced.
pub(in crate::fs) type Announced = (NodeId, Instant);

#[derive(Debug, PartialEq, Eq, Hash)]
struct OwnChangeKey {
    hierarchy: usize,
    directory: u64,
    name: OsString,
    kind: EntryChange,
}

impl OwnChanges {
    /// Notes a change that is about to be made in `directory`. Only watched directories have events.
    pub(in crate::fs) fn announce(&self, directory: &Node, name: &OsStr, kind: EntryChange) -> bool {
        let (true, Some(own)) = (directory.is_watched(), OwnChangeKey::new(directory, name, kind)) else {
            return false;
        };
        self.0.lock().entry(own).or_default().push_back((directory.id(), Instant::now()));
        true
    }

    /// Forgets a change that failed. Returns false if an event was taken for it meanwhile: that event had another
    /// cause.
    pub(in crate::fs) fn forget(&self, directory: &Node, name: &OsStr, kind: EntryChange) -> bool {
        let Some(own) = OwnChangeKey::new(directory, name, kind) else { return true };
        let id = directory.id();
        let mut expected = self.0.lock();
        let Some(nodes_of) = expected.get_mut(&own) else { return false };
        let last_of_its = nodes_of.iter().rposition(|(entry_path, _)| *entry_path == id);
        match last_of_its {
            Some(at) => drop(nodes_of.remove(at)),
            // If another entry path expects a change of the same kind, the event was for that one, which gets no
            // second event.
            None => drop(nodes_of.pop_front()),
        }
        if nodes_of.is_empty() {
            expected.remove(&own);
        }
        last_of_its.is_some()
    }

    fn take_one(
        &self,
        own: &OwnChangeKey,
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

    /// Forgets all changes in a directory whose events no longer come.
    fn forget_all(&self, hierarchy: usize, directory: u64) {
        self.0.lock().retain(|own, _| own.hierarchy != hierarchy || own.directory != directory);
    }

    /// Returns the entry path of the view's own change, if the event belongs to one. An event counts for one change.
    pub(in crate::fs) fn take(
        &self,
        hierarchy: usize,
        directory: u64,
        name: &OsStr,
        kind: EntryChange,
    ) -> Option<Announced> {
        self.take_one(&OwnChangeKey { hierarchy, directory, name: name.to_os_string(), kind }, VecDeque::pop_front)
    }

    pub(in crate::fs) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// A watched directory. Dropping it forgets the directory's announced changes.
#[derive(Debug)]
pub(in crate::fs) struct WatchedDirectory {
    pub(in crate::fs) watch: Box<dyn Watch>,
    pub(in crate::fs) own: Arc<OwnChanges>,
    pub(in crate::fs) hierarchy: usize,
    pub(in crate::fs) directory: u64,
}

impl Watch for WatchedDirectory {
    fn number(&self) -> Option<i32> {
        self.watch.number()
    }
}

impl Drop for WatchedDirectory {
    fn drop(&mut self) {
        self.own.forget_all(self.hierarchy, self.directory);
    }
}

impl OwnChangeKey {
    fn new(directory: &Node, name: &OsStr, kind: EntryChange) -> Option<Self> {
        let hierarchy = directory.position().hierarchy?;
        Some(Self { hierarchy, directory: directory.inode(), name: name.to_os_string(), kind })
    }
}
