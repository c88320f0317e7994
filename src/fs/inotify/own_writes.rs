//! Writes through the view to notified files: the kernel itself has told the watchers of those.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cgroup::file::is_notified;
use crate::fs::inode::Node;
use crate::records::{NoteRecord, Records, SavedOwnWrite};

/// How long the event of an own write may take to arrive.
const EVENT_DELAY_MAX: Duration = Duration::from_secs(2);

/// The own writes whose events are still to come.
///
/// inotify doesn't say who wrote, and merges two unread events into one. So an event counts for one write, and the
/// server doesn't wait for an event for long.
#[derive(Debug)]
pub(in crate::fs) struct OwnWrites {
    all: Arc<Mutex<HashMap<WrittenFile, Writes>>>,
    records: Arc<Records>,
}

/// How many files are remembered before a sweep forgets those whose events don't come: failed writes, and cgroups
/// that are gone.
const FILES_BEFORE_SWEEP: usize = 64;

type WrittenFile = (usize, u64, OsString);

#[derive(Debug, Default)]
struct Writes {
    running: usize,
    /// Events that came during the write.
    early: usize,
    finished: VecDeque<Finished>,
}

/// A write that is over, and whose event may still come.
#[derive(Debug)]
struct Finished {
    at: Instant,
    /// The next server has to know of it, too.
    _record: Option<NoteRecord>,
}

impl Finished {
    fn is_awaited(&self) -> bool {
        self.at.elapsed() < EVENT_DELAY_MAX
    }
}

impl Writes {
    fn is_awaited(&self) -> bool {
        self.running > 0 || self.finished.back().is_some_and(Finished::is_awaited)
    }
}

/// A write under way.
#[derive(Debug)]
pub(in crate::fs) struct OwnWrite {
    writes: Arc<Mutex<HashMap<WrittenFile, Writes>>>,
    file: WrittenFile,
    record: Option<NoteRecord>,
}

impl OwnWrites {
    /// No writes but those that an earlier server has left.
    pub(in crate::fs) fn new(records: &Arc<Records>, left: Vec<SavedOwnWrite>) -> Self {
        let mut all: HashMap<WrittenFile, Writes> = HashMap::new();
        for saved in left {
            let record = Some(records.take_over_own_write(&saved));
            let SavedOwnWrite { hierarchy, directory, name, age, .. } = saved;
            let Some(at) = Instant::now().checked_sub(age).filter(|_| age < EVENT_DELAY_MAX) else { continue };
            let finished = Finished { at, _record: record };
            all.entry((hierarchy, directory, name)).or_default().finished.push_back(finished);
        }
        Self { all: Arc::new(Mutex::new(all)), records: Arc::clone(records) }
    }

    /// Begins a write to this file, which ends when the result is dropped. `None` if the kernel doesn't notify the
    /// file.
    pub(in crate::fs) fn begin(&self, file: &Node) -> Option<OwnWrite> {
        let name = file.name();
        let directory = file.parent().filter(|_| name.to_str().is_some_and(is_notified))?;
        let file = (file.position().hierarchy?, directory.inode(), name.to_os_string());
        if !directory.is_watched() {
            return None;
        }
        let mut all = self.all.lock();
        // A sweep only when the map would grow, so that a single write doesn't look at all files.
        if all.len() >= FILES_BEFORE_SWEEP && all.len() == all.capacity() {
            all.retain(|_, writes| writes.is_awaited());
            let few = all.len();
            all.shrink_to(few * 2);
            all.reserve(few);
        }
        all.entry(file.clone()).or_default().running += 1;
        drop(all);
        let record = self.records.add_own_write(file.0, file.1, &file.2);
        Some(OwnWrite { writes: Arc::clone(&self.all), file, record })
    }

    /// Whether an event belongs to an own write.
    fn take_of(&self, file: &WrittenFile) -> bool {
        let mut all = self.all.lock();
        let Some(writes) = all.get_mut(file) else { return false };
        writes.finished.retain(Finished::is_awaited);
        let is_own = if writes.finished.pop_front().is_some() {
            true
        } else if writes.early < writes.running {
            writes.early += 1;
            true
        } else {
            false
        };
        if writes.running == 0 && writes.finished.is_empty() {
            all.remove(file);
        }
        is_own
    }

    pub(in crate::fs) fn take(&self, hierarchy: usize, directory: u64, name: &OsStr) -> bool {
        self.take_of(&(hierarchy, directory, name.to_os_string()))
    }

    pub(in crate::fs) fn clear(&self) {
        self.all.lock().retain(|_, writes| {
            writes.finished.clear();
            writes.running > 0
        });
    }
}

impl Drop for OwnWrite {
    fn drop(&mut self) {
        let mut all = self.writes.lock();
        if let Some(writes) = all.get_mut(&self.file) {
            writes.running = writes.running.saturating_sub(1);
            if writes.early > 0 {
                writes.early -= 1;
            } else {
                self.record.iter().for_each(Records::end_own_write);
                writes.finished.push_back(Finished { at: Instant::now(), _record: self.record.take() });
            }
            // A failed write has no event, and a removed file gets no more.
            writes.finished.retain(Finished::is_awaited);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::FileClass;
    use crate::fs::inode::{NodeId, Object, ROOT_ID, Watch};
    use crate::records::{ONE_VIEW, Topic};
    use crate::view::{EntryPath, Position, Role};

    #[derive(Debug)]
    struct NoWatch;

    impl Watch for NoWatch {}

    #[test]
    fn what_no_event_comes_of_is_forgotten() {
        let position = Position { hierarchy: Some(0), entry_path: EntryPath::Main, role: Role::Inside };
        let writes = OwnWrites::new(&Records::none(), Vec::new());
        let begin = |inode| {
            let directory = Arc::new(Node::root(ROOT_ID, position, Object::Directory, inode));
            directory.watch_once(|| Some(Box::new(NoWatch)));
            let id = NodeId::from_u64(inode);
            let file =
                Node::child(&directory, OsStr::new("cpu.pressure"), id, position, Object::File(FileClass::Pressure), 1);
            writes.begin(&file).unwrap()
        };
        let running = begin(1);
        for inode in 2..10_000 {
            drop(begin(inode));
            if inode.is_multiple_of(50) {
                // Makes the writes old enough to be forgotten.
                for writes in writes.all.lock().values_mut() {
                    writes.finished.iter_mut().for_each(|finished| finished.at -= EVENT_DELAY_MAX);
                }
            }
        }
        assert!(writes.all.lock().len() < 4 * FILES_BEFORE_SWEEP, "{}", writes.all.lock().len());
        assert!(writes.take(0, 1, OsStr::new("cpu.pressure")), "a write under way isn't forgotten");
        drop(running);
    }

    #[test]
    fn the_next_server_knows_whose_write_an_event_is_of() {
        let position = Position { hierarchy: Some(1), entry_path: EntryPath::Main, role: Role::Inside };
        let directory = Arc::new(Node::root(ROOT_ID, position, Object::Directory, 7));
        directory.watch_once(|| Some(Box::new(NoWatch)));
        let (id, name) = (NodeId::from_u64(8), OsStr::new("cpu.pressure"));
        let file = Node::child(&directory, name, id, position, Object::File(FileClass::Pressure), 8);
        let records = Records::new().unwrap();
        records.start();
        let next = || OwnWrites::new(&records, records.scopes().remove(&ONE_VIEW).unwrap().own_writes);
        let writes = next();
        for _ in 0..3 {
            drop(writes.begin(&file));
        }
        assert!(writes.take(1, 7, name));
        // One more is being made when it's killed.
        std::mem::forget((writes.begin(&file), writes));
        records.start();
        let writes = next();
        let taken = (0..5).filter(|_| writes.take(1, 7, name)).count();
        assert_eq!(taken, 3);
        assert!(records.notes(Topic::OwnWrite).is_empty());
    }
}
