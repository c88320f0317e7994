//! Names that don't exist and that the kernel may cache as absent.
//!
//! Most new entries are announced by name (`crate::fs::cache::invalidation`). Files that appear with a controller or
//! with `cgroup.pressure` have no event of their own, and a lost event may be about any name. So the server remembers
//! the absent names until the kernel's cache entry expires.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::fs::cache::Invalidate;
use crate::fs::entry::WATCHED_TTL;
use crate::fs::inode::NodeId;
use crate::records::{AbsenceRecord, Records, SavedAbsence};

/// How many absent names of a view the kernel may cache. The container chooses which names are looked up, and how
/// long they are.
const NEGATIVE_ENTRIES_MAX: usize = 1024;

/// The absent names that the kernel may cache, and since when.
#[derive(Debug)]
pub(in crate::fs) struct NegativeCache {
    entries: Mutex<NegativeEntries>,
    /// What the next server needs to know of it.
    records: Arc<Records>,
}

#[derive(Debug, Default)]
struct NegativeEntries {
    since: HashMap<NegativeEntry, Noted>,
    /// While the cache is full: when the oldest entry expires.
    full_until: Option<Instant>,
}

/// When a name was noted, and its record.
#[derive(Debug)]
struct Noted {
    at: Instant,
    _record: Option<AbsenceRecord>,
}

/// An absent name and its directory.
type NegativeEntry = (NodeId, OsString);

impl NegativeCache {
    /// The names that an earlier server has recorded. The kernel has cached each at most now.
    pub(in crate::fs) fn new(records: &Arc<Records>, saved: Vec<SavedAbsence>) -> Self {
        let at = Instant::now();
        let noted = |saved: SavedAbsence| {
            let record = records.take_over_absence(&saved);
            let absence = (NodeId::from_u64(saved.directory), OsString::from_vec(saved.name));
            (absence, Noted { at, _record: Some(record) })
        };
        let since = saved.into_iter().map(noted).collect();
        Self { entries: Mutex::new(NegativeEntries { since, full_until: None }), records: Arc::clone(records) }
    }

    /// Notes an absent name. Returns false if there are too many.
    pub(in crate::fs) fn note(&self, directory: NodeId, name: &OsStr) -> bool {
        let mut known = self.entries.lock();
        let now = Instant::now();
        if known.full_until.take_if(|until| *until <= now).is_some() {
            known.since.retain(|_, noted| now.duration_since(noted.at) < WATCHED_TTL);
        }
        let absence = (directory, name.to_os_string());
        if known.since.len() >= NEGATIVE_ENTRIES_MAX && !known.since.contains_key(&absence) {
            if known.full_until.is_none() {
                known.full_until = known.since.values().map(|noted| noted.at).min().map(|oldest| oldest + WATCHED_TTL);
            }
            return false;
        }
        match known.since.entry(absence) {
            Entry::Occupied(mut noted) => noted.get_mut().at = now,
            Entry::Vacant(entry) => {
                let record = self.records.add_absence(directory.as_u64(), name.as_bytes());
                entry.insert(Noted { at: now, _record: record });
            }
        }
        true
    }

    /// Forgets a name that exists now.
    pub(in crate::fs) fn forget(&self, directory: NodeId, name: &OsStr) {
        self.entries.lock().since.remove(&(directory, name.to_os_string()));
    }

    /// Makes the kernel look the names of certain directories up again.
    ///
    /// A name is forgotten only after the kernel was told. So if another thread calls this meanwhile, it tells the
    /// kernel too before it returns, and whoever waits for it sees the new state.
    pub(in crate::fs) fn invalidate(&self, is_it: impl Fn(NodeId) -> bool, kernel: &impl Invalidate) {
        let told: Vec<(NegativeEntry, Instant)> = {
            let known = self.entries.lock();
            let noted = known.since.iter().filter(|((directory, _), _)| is_it(*directory));
            noted.map(|(absence, noted)| (absence.clone(), noted.at)).collect()
        };
        for ((directory, name), _) in &told {
            kernel.entry(*directory, name);
        }
        let mut known = self.entries.lock();
        for (absence, since) in told {
            // The name may have been noted again meanwhile; keep that entry.
            if known.since.get(&absence).is_some_and(|noted| noted.at == since) {
                known.since.remove(&absence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::ROOT_ID;

    /// A kernel that another thread tells just before.
    struct Twice<'a>(Option<&'a NegativeCache>, Mutex<Vec<OsString>>);

    impl Invalidate for Twice<'_> {
        fn node(&self, _node: NodeId, _listing: bool) {}

        fn entry(&self, _directory: NodeId, name: &OsStr) {
            if let Some(negative) = self.0 {
                let other = Twice(None, Mutex::default());
                negative.invalidate(|_| true, &other);
                assert_eq!(*other.1.lock(), [name], "the first thread hasn't invalidated it yet");
                negative.note(ROOT_ID, OsStr::new("again"));
            }
            self.1.lock().push(name.to_os_string());
        }
    }

    /// Returns how many names are invalidated.
    fn told(negative: &NegativeCache, is_it: impl Fn(NodeId) -> bool) -> usize {
        let kernel = Twice(None, Mutex::default());
        negative.invalidate(is_it, &kernel);
        kernel.1.into_inner().len()
    }

    #[test]
    fn a_name_is_known_until_it_is_told() {
        let negative = NegativeCache::new(&Records::none(), Vec::new());
        assert!(negative.note(ROOT_ID, OsStr::new("again")));
        let kernel = Twice(Some(&negative), Mutex::default());
        negative.invalidate(|_| true, &kernel);
        assert_eq!(*kernel.1.lock(), ["again"]);
        assert_eq!(told(&negative, |_| true), 1, "it was noted again meanwhile");
        assert_eq!(told(&negative, |_| true), 0);
    }

    #[test]
    fn there_is_a_limit() {
        let negative = NegativeCache::new(&Records::none(), Vec::new());
        let noted = (0..NEGATIVE_ENTRIES_MAX + 10)
            .filter(|number| negative.note(ROOT_ID, OsStr::new(&number.to_string())))
            .count();
        assert_eq!(noted, NEGATIVE_ENTRIES_MAX);
        assert_eq!(told(&negative, |_| false), 0);
        assert_eq!(told(&negative, |id| id == ROOT_ID), NEGATIVE_ENTRIES_MAX);
        for number in 0..NEGATIVE_ENTRIES_MAX + 10 {
            assert!(negative.note(ROOT_ID, OsStr::new("x")), "a known name takes no room, the {number}th time");
        }
        let ids = (0..NEGATIVE_ENTRIES_MAX).map(|number| NodeId::from_u64(number as u64));
        assert_eq!(ids.filter(|id| negative.note(*id, OsStr::new("y"))).count(), NEGATIVE_ENTRIES_MAX - 1);
        negative.forget(ROOT_ID, OsStr::new("x"));
        assert!(negative.note(ROOT_ID, OsStr::new("z")), "there's room again");
    }
}
