//! Writes to notified files that came through the view: of those the kernel has told the watchers by itself.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cgroup::file::is_notified;
use crate::fs::inode::Node;

/// How long the event of an own write may be on its way.
const EVENT_DELAY_MAX: Duration = Duration::from_secs(2);

/// The own writes whose events are still to come.
///
/// inotify doesn't say whose a write was, and makes one event of two that nobody has read yet. So an event counts for one write, but none is
/// waited for for long.
#[derive(Debug, Default)]
pub(in crate::fs) struct OwnWrites(Arc<Mutex<HashMap<WrittenFile, Writes>>>);

/// How many files are remembered at least before those are forgotten whose events don't come: of what failed, or of a cgroup that is gone.
const FILES_BEFORE_SWEEP: usize = 64;

type WrittenFile = (usize, u64, OsString);

#[derive(Debug, Default)]
struct Writes {
    running: usize,
    /// Events that came while the write was under way.
    early: usize,
    finished: VecDeque<Instant>,
}

impl Writes {
    fn is_awaited(&self) -> bool {
        self.running > 0 || self.finished.back().is_some_and(|finished| finished.elapsed() < EVENT_DELAY_MAX)
    }
}

/// A write under way.
#[derive(Debug)]
pub(in crate::fs) struct OwnWrite {
    writes: Arc<Mutex<HashMap<WrittenFile, Writes>>>,
    file: WrittenFile,
}

impl OwnWrites {
    /// A write to this file begins, which ends when the result is dropped. `None` if it isn't a file that is notified.
    pub(in crate::fs) fn begin(&self, file: &Node) -> Option<OwnWrite> {
        let name = file.name();
        let directory = file.parent().filter(|_| name.to_str().is_some_and(is_notified))?;
        let file = (file.position().hierarchy?, directory.inode(), name.to_os_string());
        if !directory.is_watched() {
            return None;
        }
        let mut all = self.0.lock();
        // As often as the map grows, so that a single write needn't look at all of them.
        if all.len() >= FILES_BEFORE_SWEEP && all.len() == all.capacity() {
            all.retain(|_, writes| writes.is_awaited());
            let few = all.len();
            all.shrink_to(few * 2);
            all.reserve(few);
        }
        all.entry(file.clone()).or_default().running += 1;
        drop(all);
        Some(OwnWrite { writes: Arc::clone(&self.0), file })
    }

    /// Whether an event is that of an own write.
    fn take_of(&self, file: &WrittenFile) -> bool {
        let mut all = self.0.lock();
        let Some(writes) = all.get_mut(file) else { return false };
        writes.finished.retain(|finished| finished.elapsed() < EVENT_DELAY_MAX);
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
        self.0.lock().retain(|_, writes| {
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
                writes.finished.push_back(Instant::now());
            }
            // What fails has no event, and what has gone has no more.
            writes.finished.retain(|finished| finished.elapsed() < EVENT_DELAY_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::FileClass;
    use crate::fs::inode::{NodeId, Object, ROOT_ID};
    use crate::view::{EntryPath, Position, Role};

    #[test]
    fn what_no_event_comes_of_is_forgotten() {
        let position = Position { hierarchy: Some(0), entry_path: EntryPath::Main, role: Role::Inside };
        let writes = OwnWrites::default();
        let begin = |inode| {
            let directory = Arc::new(Node::root(ROOT_ID, position, Object::Directory, inode));
            directory.watch_once(|| Some(Box::new(())));
            let id = NodeId::from_u64(inode);
            let file =
                Node::child(&directory, OsStr::new("cpu.pressure"), id, position, Object::File(FileClass::Pressure), 1);
            writes.begin(&file).unwrap()
        };
        let running = begin(1);
        for inode in 2..10_000 {
            drop(begin(inode));
            if inode.is_multiple_of(50) {
                // As if they were long ago.
                for writes in writes.0.lock().values_mut() {
                    writes.finished.iter_mut().for_each(|finished| *finished -= EVENT_DELAY_MAX);
                }
            }
        }
        assert!(writes.0.lock().len() < 4 * FILES_BEFORE_SWEEP, "{}", writes.0.lock().len());
        assert!(writes.take(0, 1, OsStr::new("cpu.pressure")), "what is under way isn't forgotten");
        drop(running);
    }
}
