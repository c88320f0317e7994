//! Changes that the view itself makes, which need no invalidation.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::fs::host::{EntryChange, HostEvent};
use crate::fs::inode::{Node, NodeId, Watch};
use crate::records::{NoteRecord, OwnChangeState, Records, SavedOwnChange};

/// How long a change waits for its event that an earlier server has announced. If that was killed before it made the
/// change, and the caller, too, no event comes.
const LEFT_MAX: Duration = Duration::from_secs(5);

/// Changes that the view itself is making. The kernel knows of them, because they come through the mount. So the
/// server doesn't invalidate for their events on the same entry path: it would wait for the directory's lock each
/// time.
#[derive(Debug)]
pub(in crate::fs) struct OwnChanges {
    /// Leaf lock, but for the records'.
    expected: Mutex<HashMap<OwnChangeKey, VecDeque<Announced>>>,
    /// The position of the event that is being dealt with.
    position: AtomicU64,
    /// The changes whose events aren't all dealt with, and the positions of those. A server that continues before that
    /// gets the events again.
    taken: Mutex<Vec<(u64, NoteRecord)>>,
    /// Where the next server finds them.
    records: Arc<Records>,
}

/// A change that was announced.
#[derive(Debug)]
struct Announced {
    entry_path: NodeId,
    since: Instant,
    /// The request that makes it.
    request: u64,
    /// Whether an earlier server has announced it.
    is_left: bool,
    record: Option<NoteRecord>,
}

impl Announced {
    fn may_still_come(&self) -> bool {
        !self.is_left || self.since.elapsed() < LEFT_MAX
    }
}

/// What is known of a change that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fs) enum Announcement {
    /// Its directory isn't watched, so no event comes.
    Unwatched,
    /// It was announced now.
    New,
    /// An earlier server has announced it for the same request.
    Known,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OwnChangeKey {
    hierarchy: usize,
    directory: u64,
    name: OsString,
    kind: EntryChange,
}

impl OwnChanges {
    /// Those that an earlier server has left.
    pub(in crate::fs) fn new(records: &Arc<Records>, saved: &[SavedOwnChange]) -> Arc<Self> {
        let mut expected: HashMap<OwnChangeKey, VecDeque<Announced>> = HashMap::new();
        for saved in saved {
            let record = records.take_over_own_change(saved);
            let Some(key) = OwnChangeKey::of_record(&saved.state) else { continue };
            expected.entry(key).or_default().push_back(Announced {
                entry_path: NodeId::from_u64(saved.state.node),
                since: Instant::now(),
                request: saved.state.request,
                is_left: true,
                record: Some(record),
            });
        }
        Arc::new(Self {
            expected: Mutex::new(expected),
            position: AtomicU64::default(),
            taken: Mutex::default(),
            records: Arc::clone(records),
        })
    }

    /// Notes a change that is about to be made in `directory`.
    pub(in crate::fs) fn announce(&self, directory: &Node, name: &OsStr, kind: EntryChange) -> Announcement {
        let (true, Some(own)) = (directory.is_watched(), OwnChangeKey::new(directory, name, kind)) else {
            return Announcement::Unwatched;
        };
        let (entry_path, request) = (directory.id(), Records::current_request_number());
        let mut expected = self.expected.lock();
        let before = expected.get_mut(&own).filter(|_| Records::is_sent_again());
        let known = before.and_then(|all| all.iter_mut().find(|one| one.is_left && one.request == request));
        if let Some(known) = known {
            known.is_left = false;
            return Announcement::Known;
        }
        let record = self.records.add_own_change(&own.to_record(entry_path, request));
        let announced = Announced { entry_path, since: Instant::now(), request, is_left: false, record };
        expected.entry(own).or_default().push_back(announced);
        Announcement::New
    }

    /// Forgets a change that failed. Returns false if an event was taken for it meanwhile: that event had another
    /// cause.
    pub(in crate::fs) fn forget(&self, directory: &Node, name: &OsStr, kind: EntryChange) -> bool {
        let Some(own) = OwnChangeKey::new(directory, name, kind) else { return true };
        let id = directory.id();
        let mut expected = self.expected.lock();
        let Some(nodes_of) = expected.get_mut(&own) else { return false };
        let last_of_its = nodes_of.iter().rposition(|announced| announced.entry_path == id);
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

    /// Forgets all changes in a directory whose events no longer come.
    fn forget_all(&self, hierarchy: usize, directory: u64) {
        self.expected.lock().retain(|own, _| own.hierarchy != hierarchy || own.directory != directory);
    }

    /// Notes that the events up to this position are being dealt with.
    pub(in crate::fs) fn begin_event(&self, position: u64) {
        self.position.store(position, Ordering::Release);
    }

    /// Returns the entry path of the view's own change, and when it was announced, if the event belongs to one. An event
    /// counts for one change.
    pub(in crate::fs) fn take(
        &self,
        hierarchy: usize,
        directory: u64,
        name: &OsStr,
        kind: EntryChange,
    ) -> Option<(NodeId, Instant)> {
        let own = OwnChangeKey { hierarchy, directory, name: name.to_os_string(), kind };
        let mut expected = self.expected.lock();
        let nodes_of = expected.get_mut(&own)?;
        nodes_of.retain(Announced::may_still_come);
        let announced = nodes_of.pop_front();
        if nodes_of.is_empty() {
            expected.remove(&own);
        }
        let Announced { entry_path, since, record, .. } = announced?;
        drop(expected);
        if let Some(record) = record {
            let position = self.position.load(Ordering::Acquire);
            record.mark(self.records.events().place_of(position));
            self.taken.lock().push((position, record));
        }
        Some((entry_path, since))
    }

    /// Notes that the events up to this position are dealt with.
    pub(in crate::fs) fn finish(&self, position: u64) {
        self.taken.lock().retain(|(taken, _)| *taken > position);
    }

    /// The changes whose events are still to come.
    pub(in crate::fs) fn awaited(&self) -> Awaited {
        let expected = self.expected.lock();
        Awaited(expected.iter().map(|(own, nodes_of)| (own.clone(), nodes_of.len())).collect())
    }

    pub(in crate::fs) fn clear(&self) {
        self.expected.lock().clear();
    }
}

/// How many events are still to come of each change.
#[derive(Debug)]
pub(in crate::fs) struct Awaited(HashMap<OwnChangeKey, usize>);

impl Awaited {
    /// Whether an event belongs to a change of the view's own.
    pub(in crate::fs) fn take(&mut self, change: &HostEvent) -> bool {
        let own = match change {
            HostEvent::Entry { hierarchy, directory, name: Some(name), kind } => {
                OwnChangeKey { hierarchy: *hierarchy, directory: *directory, name: name.clone(), kind: *kind }
            }
            HostEvent::Renamed { hierarchy, directory, from, .. } => OwnChangeKey {
                hierarchy: *hierarchy,
                directory: *directory,
                name: from.clone(),
                kind: EntryChange::Renamed,
            },
            _ => return false,
        };
        let Some(left) = self.0.get_mut(&own).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
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

/// The kinds of changes that are announced, by the numbers that they are recorded with.
const KINDS: [EntryChange; 3] = [EntryChange::Made, EntryChange::Removed, EntryChange::Renamed];

impl OwnChangeKey {
    fn new(directory: &Node, name: &OsStr, kind: EntryChange) -> Option<Self> {
        let hierarchy = directory.position().hierarchy?;
        Some(Self { hierarchy, directory: directory.inode(), name: name.to_os_string(), kind })
    }

    fn of_record(state: &OwnChangeState) -> Option<Self> {
        let kind = *KINDS.get(usize::try_from(state.kind).ok()?)?;
        let hierarchy = usize::try_from(state.hierarchy).ok()?;
        Some(Self { hierarchy, directory: state.directory, name: state.name.clone(), kind })
    }

    fn to_record(&self, node: NodeId, request: u64) -> OwnChangeState {
        let kind = KINDS.iter().position(|kind| *kind == self.kind).unwrap_or(KINDS.len());
        OwnChangeState {
            request,
            hierarchy: self.hierarchy as u64,
            directory: self.directory,
            node: node.as_u64(),
            kind: kind as u64,
            name: self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::Object;
    use crate::records::ONE_VIEW;
    use crate::view::{EntryPath, Position, Role};

    /// The bit by which the kernel marks the number of a request that it sends again.
    const SENT_AGAIN: u64 = 1 << 63;

    #[derive(Debug)]
    struct NoWatch;

    impl Watch for NoWatch {}

    /// A watched directory, and the server that follows the other one.
    struct Servers {
        records: Arc<Records>,
        directory: Node,
    }

    impl Servers {
        fn new() -> Self {
            let position = Position { hierarchy: Some(0), entry_path: EntryPath::Main, role: Role::Inside };
            let directory = Node::root(NodeId::from_u64(9), position, Object::Directory, 4);
            directory.watch_once(|| Some(Box::new(NoWatch)));
            Self { records: Records::new().unwrap(), directory }
        }

        fn next(&self) -> Arc<OwnChanges> {
            self.records.start();
            let saved = self.records.scopes().remove(&ONE_VIEW).unwrap();
            OwnChanges::new(&self.records, &saved.own_changes)
        }

        fn announce(&self, own: &OwnChanges, request: u64) -> Announcement {
            let guard = self.records.begin_request(request);
            let announced = own.announce(&self.directory, OsStr::new("a"), EntryChange::Made);
            drop(guard);
            announced
        }
    }

    fn take(own: &OwnChanges) -> bool {
        own.take(0, 4, OsStr::new("a"), EntryChange::Made).is_some()
    }

    #[test]
    fn the_next_server_knows_what_was_announced() {
        let servers = Servers::new();
        let first = servers.next();
        assert_eq!(servers.announce(&first, 6), Announcement::New);
        std::mem::forget(first);
        let second = servers.next();
        assert_eq!(second.awaited().0.values().sum::<usize>(), 1);
        // The same request, and another one.
        assert_eq!(servers.announce(&second, 6 | SENT_AGAIN), Announcement::Known);
        assert_eq!(servers.announce(&second, 8), Announcement::New);
        assert!(take(&second) && take(&second) && !take(&second));
    }

    #[test]
    fn an_event_that_is_not_dealt_with_comes_again() {
        let servers = Servers::new();
        for is_dealt_with in [false, true] {
            let first = servers.next();
            assert_eq!(servers.announce(&first, 6), Announcement::New);
            let end = servers.records.events().add(&[0; 32]);
            first.begin_event(end);
            assert!(take(&first));
            if is_dealt_with {
                servers.records.events().dealt_with(end);
            }
            std::mem::forget(first);
            let second = servers.next();
            assert_eq!(take(&second), !is_dealt_with);
            servers.records.events().dealt_with(end);
            second.finish(end);
            assert!(second.taken.lock().is_empty());
        }
    }

    #[test]
    fn what_was_never_made_is_forgotten() {
        let servers = Servers::new();
        let first = servers.next();
        assert_eq!(servers.announce(&first, 6), Announcement::New);
        std::mem::forget(first);
        let second = servers.next();
        for announced in second.expected.lock().values_mut().flatten() {
            announced.since -= LEFT_MAX;
        }
        assert!(!take(&second));
        assert!(servers.records.scopes().remove(&ONE_VIEW).unwrap().own_changes.is_empty());
    }
}
