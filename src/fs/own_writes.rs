//! Writes to notified files that came through the view: of those the kernel has told the watchers by itself.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cgroup::file::is_notified;
use crate::view::Node;

/// For how long the event of an own write may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// Whose events are still to come.
///
/// inotify doesn't say whose a write was, and makes one event of two that nobody has read yet. So an event counts for one write, but none is
/// waited for for long.
#[derive(Debug, Default)]
pub(super) struct OwnWrites(Arc<Mutex<HashMap<WrittenFile, Writes>>>);

type WrittenFile = (usize, u64, OsString);

#[derive(Debug, Default)]
struct Writes {
    running: usize,
    /// Events that came while the write was under way.
    early: usize,
    finished: VecDeque<Instant>,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct OwnWrite {
    writes: Arc<Mutex<HashMap<WrittenFile, Writes>>>,
    file: WrittenFile,
}

impl OwnWrites {
    /// A write to this file begins, which ends when the result is dropped. `None` if it isn't a file that is notified.
    pub(super) fn begin(&self, file: &Node) -> Option<OwnWrite> {
        let name = file.name();
        let directory = file.parent().filter(|_| name.to_str().is_some_and(is_notified))?;
        let file = (file.position().hierarchy?, directory.inode(), name.to_os_string());
        if !directory.is_watched() {
            return None;
        }
        self.0.lock().entry(file.clone()).or_default().running += 1;
        Some(OwnWrite { writes: Arc::clone(&self.0), file })
    }

    /// Whether an event is that of an own write.
    fn take_of(&self, file: &WrittenFile) -> bool {
        let mut all = self.0.lock();
        let Some(writes) = all.get_mut(file) else { return false };
        writes.finished.retain(|finished| finished.elapsed() < ON_ITS_WAY);
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

    pub(super) fn take(&self, hierarchy: usize, directory: u64, name: &OsStr) -> bool {
        self.take_of(&(hierarchy, directory, name.to_os_string()))
    }

    pub(super) fn clear(&self) {
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
            writes.finished.retain(|finished| finished.elapsed() < ON_ITS_WAY);
        }
    }
}
