//! Cached listings of directories that are being read, or are read repeatedly.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::fs::host::{DirChanges, FollowChanges};
use crate::fs::inode::{Node, NodeId};
use crate::fs::limits::quota::{Permit, Quota};

/// An entry as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its name.
    pub name: OsString,
    /// Its inode number.
    pub inode: u64,
    /// `S_IFDIR`, `S_IFREG` or `S_IFLNK`.
    pub kind: u32,
    /// Where a listing continues after this entry. The cookie depends on the entry alone, not on its position, so
    /// that other entries that come and go neither hide nor repeat it.
    pub cookie: u64,
}

/// How many listings are kept. Each is as long as its directory and takes the server's memory, however many
/// directories are half read.
const LISTINGS_MAX: usize = 16;

/// The unit in which memory for listings is allotted, in bytes.
const PART_BYTES: usize = 64 * 1024;

/// How many units there are for all listings of a server. A tenant gets at most a quarter of them.
pub(in crate::fs) const PARTS_MAX: usize = 1024;

/// The memory that an entry takes besides its name, in bytes: in the listing, and in the index by name.
const ENTRY_OVERHEAD_BYTES: usize = size_of::<ListedEntry>() + 64;

/// How long a listing is valid even if no change is seen: the kernel may add files without an event (a module that is
/// loaded).
const LISTING_TTL: Duration = Duration::from_secs(1);

/// The number of directories for which the time of the last listing is remembered.
const LAST_LISTED_MAX: usize = 1024;

/// The listings of directories that are being read, or are read repeatedly, oldest first.
///
/// A directory is open without a handle, so the server keeps a listing per directory until a reader has reached its
/// end. Cookies don't depend on the listing: if a listing was displaced or replaced, a reader that continues gets a
/// new one. A listing never replaces one that was begun later, so a reader that began after a change always sees it.
///
/// The server follows a directory that is listed again within [`LISTING_TTL`]. Its listing then answers all who read
/// it from the beginning, and names that came or went meanwhile are looked up one by one. Listing thousands of
/// cgroups anew takes the server many times as long as it takes the reader.
#[derive(Debug)]
pub(in crate::fs) struct Listings {
    /// The cached listings, oldest first.
    kept: Mutex<VecDeque<KeptListing>>,
    /// How many listings were begun. It numbers them in the order in which they were taken.
    begun: AtomicU64,
    /// When each directory was last listed, for up to [`LAST_LISTED_MAX`] directories.
    last: Mutex<HashMap<NodeId, Instant>>,
    /// The memory for listings, in parts of the same size. A tenant's listings share it.
    room: Quota,
}

/// A cached listing.
#[derive(Clone, Debug)]
pub(in crate::fs) struct KeptListing {
    id: NodeId,
    listing: Listing,
    begun_at: Instant,
    followed: Option<Arc<dyn FollowChanges>>,
    /// Whether a reader has reached the end.
    finished: bool,
    /// The permits for its memory.
    _room: Arc<Vec<Permit>>,
}

/// The entries of a directory. Clones share them.
#[derive(Clone, Debug)]
pub(in crate::fs) struct Listing(Arc<Mutex<ListingEntries>>);

/// The entries of a directory. Their lock is held while changes are applied, so that nobody reads entries that are
/// known to be outdated.
#[derive(Debug)]
struct ListingEntries {
    by_cookie: BTreeMap<u64, ListedEntry>,
    /// The cookies by the hashes of names, once something has changed. Of two names with the same hash only one is in
    /// the map.
    by_name: Option<(RandomState, HashMap<u64, u64>)>,
    /// Whether a change couldn't be applied.
    spoiled: bool,
}

impl Listing {
    /// Makes a listing of these entries, which may be in any order.
    pub(in crate::fs) fn of(entries: Vec<ListedEntry>) -> Self {
        let by_cookie = entries.into_iter().map(|entry| (entry.cookie, entry)).collect();
        Self(Arc::new(Mutex::new(ListingEntries { by_cookie, by_name: None, spoiled: false })))
    }

    /// Passes the entries after `offset` to `take` until it returns false. Returns false if there are none.
    pub(in crate::fs) fn hand_out(&self, offset: u64, mut take: impl FnMut(&ListedEntry) -> bool) -> bool {
        let entries = self.0.lock();
        let mut behind = entries.by_cookie.range((Bound::Excluded(offset), Bound::Unbounded)).peekable();
        let is_any = behind.peek().is_some();
        for (_, entry) in behind {
            if !take(entry) {
                break;
            }
        }
        is_any
    }

    /// Returns its memory, in bytes.
    fn size(&self) -> usize {
        self.0.lock().by_cookie.values().map(|entry| ENTRY_OVERHEAD_BYTES + entry.name.len()).sum()
    }
}

impl ListingEntries {
    /// Sets or removes the entry of a name. Returns false if the change can't be applied.
    fn apply(&mut self, name: &OsStr, now: Option<ListedEntry>) -> bool {
        let by_cookie = &mut self.by_cookie;
        let (hasher, by_name) = self.by_name.get_or_insert_with(|| {
            let hasher = RandomState::new();
            let by_name = by_cookie.values().map(|entry| (hasher.hash_one(&entry.name), entry.cookie)).collect();
            (hasher, by_name)
        });
        if by_name.len() != by_cookie.len() {
            return false;
        }
        let hash = hasher.hash_one(name);
        if let Some(cookie) = by_name.remove(&hash) {
            match by_cookie.get(&cookie) {
                Some(before) if before.name == name => drop(by_cookie.remove(&cookie)),
                // Two names share this hash.
                _ => return false,
            }
        }
        if let Some(entry) = now {
            by_name.insert(hash, entry.cookie);
            if let Some(before) = by_cookie.insert(entry.cookie, entry) {
                // The object was renamed; drop its old name.
                by_name.remove(&hasher.hash_one(&before.name));
            }
        }
        true
    }
}

impl KeptListing {
    /// Whether a reader has reached the end.
    pub(in crate::fs) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether it's so young that changes without an event may be missing.
    pub(in crate::fs) fn is_fresh(&self) -> bool {
        self.begun_at.elapsed() < LISTING_TTL
    }

    /// Applies the changes since the last call, which `look` finds. Returns false if the listing has to be taken
    /// anew.
    pub(in crate::fs) fn renew(
        &self,
        look: impl FnOnce(DirChanges) -> Option<Vec<(OsString, Option<ListedEntry>)>>,
    ) -> bool {
        let Some(followed) = &self.followed else { return false };
        let mut entries = self.listing.0.lock();
        if entries.spoiled {
            return false;
        }
        let is_done = look(followed.take_changes())
            .is_some_and(|now| now.into_iter().all(|(name, now)| entries.apply(&name, now)));
        entries.spoiled = !is_done;
        is_done
    }

    pub(in crate::fs) fn into_listing(self) -> Listing {
        self.listing
    }
}

impl Default for Listings {
    fn default() -> Self {
        Self::within(Quota::of(PARTS_MAX / 2))
    }
}

impl Listings {
    /// Makes a cache that shares this memory with others.
    pub(in crate::fs) fn within(room: Quota) -> Self {
        Self { kept: Mutex::default(), begun: AtomicU64::default(), last: Mutex::default(), room }
    }

    /// Returns the cached listing of a directory.
    pub(in crate::fs) fn get(&self, id: NodeId) -> Option<KeptListing> {
        self.kept.lock().iter().find(|kept| kept.id == id).cloned()
    }

    /// Begins a listing. Returns its number, and whether the directory was listed just before.
    pub(in crate::fs) fn begin(&self, id: NodeId) -> (u64, bool) {
        let now = Instant::now();
        let mut last = self.last.lock();
        if last.len() >= LAST_LISTED_MAX {
            last.clear();
        }
        let before = last.insert(id, now);
        drop(last);
        let again = before.is_some_and(|before| now.duration_since(before) < LISTING_TTL);
        (self.begun.fetch_add(1, Ordering::AcqRel), again)
    }

    /// Caches a listing. A replaced one is dropped after the lock is released.
    pub(in crate::fs) fn keep(
        &self,
        node: &Node,
        begun: u64,
        begun_at: Instant,
        followed: Option<Box<dyn FollowChanges>>,
        listing: &Listing,
    ) {
        let Some(room) = self.make_room(listing) else { return };
        let listing = KeptListing {
            id: node.id(),
            listing: listing.clone(),
            begun_at,
            followed: followed.map(Arc::from),
            finished: false,
            _room: Arc::new(room),
        };
        let mut kept = self.kept.lock();
        if !node.was_listed(begun) {
            return;
        }
        let replaced = take(&mut kept, node.id());
        kept.push_back(listing);
        let displaced = if kept.len() > LISTINGS_MAX { kept.pop_front() } else { None };
        drop(kept);
        drop((replaced, displaced));
    }

    /// Gets memory for a listing, in place of older ones if need be.
    fn make_room(&self, listing: &Listing) -> Option<Vec<Permit>> {
        let parts = listing.size().div_ceil(PART_BYTES);
        let mut room = Vec::with_capacity(parts);
        while room.len() < parts {
            match self.room.take(0) {
                Some(part) => room.push(part),
                None => {
                    let oldest = self.kept.lock().pop_front();
                    drop(oldest?);
                }
            }
        }
        Some(room)
    }

    /// Notes that a reader has reached the end.
    pub(in crate::fs) fn finish(&self, id: NodeId) {
        let mut kept = self.kept.lock();
        let dropped = match kept.iter_mut().find(|kept| kept.id == id) {
            Some(listing) if listing.followed.is_some() => {
                listing.finished = true;
                None
            }
            _ => take(&mut kept, id),
        };
        drop(kept);
        drop(dropped);
    }

    pub(in crate::fs) fn remove(&self, id: NodeId) {
        let removed = take(&mut self.kept.lock(), id);
        drop(removed);
        self.last.lock().remove(&id);
    }
}

fn take(kept: &mut VecDeque<KeptListing>, id: NodeId) -> Option<KeptListing> {
    let at = kept.iter().position(|kept| kept.id == id)?;
    kept.remove(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::{Object, ROOT_ID};
    use crate::view::Position;

    /// A reader that lists a directory slowly mustn't leave an outdated listing to a reader that began later.
    #[test]
    fn no_listing_is_kept_after_one_that_was_begun_later() {
        let node = Node::root(ROOT_ID, Position::VIEW_ROOT, Object::Synthetic, 1);
        let listing = || Listing::of(Vec::new());
        let is_kept = |listings: &Listings, listing: &Listing| {
            listings.get(ROOT_ID).is_some_and(|kept| Arc::ptr_eq(&kept.listing.0, &listing.0))
        };
        let listings = Listings::default();
        let keep = |begun, listing| listings.keep(&node, begun, Instant::now(), None, listing);
        let begin = || listings.begin(ROOT_ID).0;
        let (slow, quick) = (begin(), begin());
        let (old, new) = (listing(), listing());
        keep(quick, &new);
        keep(slow, &old);
        assert!(is_kept(&listings, &new));
        // The quick reader has finished, and a third has continued from there.
        listings.remove(ROOT_ID);
        keep(slow, &old);
        assert!(listings.get(ROOT_ID).is_none());
        let newest = listing();
        keep(begin(), &newest);
        assert!(is_kept(&listings, &newest));
    }

    fn entry(name: &str, inode: u64) -> ListedEntry {
        ListedEntry { name: name.into(), inode, kind: libc::S_IFDIR, cookie: inode + 2 }
    }

    fn names(listing: &Listing) -> Vec<String> {
        let mut names = Vec::new();
        listing.hand_out(0, |entry| {
            names.push(format!("{}:{}", entry.name.display(), entry.inode));
            true
        });
        names
    }

    #[test]
    fn what_comes_and_goes_is_brought_in() {
        let listing = Listing::of(vec![entry("a", 5), entry("b", 3)]);
        let apply = |name: &str, now| assert!(listing.0.lock().apply(OsStr::new(name), now));
        assert_eq!(names(&listing), ["b:3", "a:5"]);
        for (name, now, shown) in [
            ("c", Some(entry("c", 4)), &["b:3", "c:4", "a:5"][..]),
            ("b", None, &["c:4", "a:5"]),
            ("nothing", None, &["c:4", "a:5"]),
            // Another object with the same name.
            ("a", Some(entry("a", 9)), &["c:4", "a:9"]),
            // A rename, whose event for the old name comes later.
            ("d", Some(entry("d", 4)), &["d:4", "a:9"]),
            ("c", None, &["d:4", "a:9"]),
            ("d", None, &["a:9"]),
            ("a", None, &[]),
        ] {
            apply(name, now);
            assert_eq!(names(&listing), shown, "{name}");
            let entries = listing.0.lock();
            assert_eq!(entries.by_name.as_ref().map(|(_, names)| names.len()), Some(entries.by_cookie.len()));
        }
    }

    #[derive(Debug)]
    struct Told(Mutex<Vec<DirChanges>>);

    impl FollowChanges for Told {
        fn take_changes(&self) -> DirChanges {
            self.0.lock().pop().unwrap_or(DirChanges::Nothing)
        }
    }

    #[test]
    fn what_couldnt_be_brought_in_spoils_it_for_good() {
        let node = Node::root(ROOT_ID, Position::VIEW_ROOT, Object::Synthetic, 1);
        let listings = Listings::default();
        let told =
            Told(Mutex::new(vec![DirChanges::Nothing, DirChanges::Names(vec!["b".into()]), DirChanges::Nothing]));
        let begun = listings.begin(ROOT_ID).0;
        listings.keep(&node, begun, Instant::now(), Some(Box::new(told)), &Listing::of(vec![entry("a", 1)]));
        let renew =
            || listings.get(ROOT_ID).unwrap().renew(|since| matches!(since, DirChanges::Nothing).then(Vec::new));
        assert_eq!([renew(), renew(), renew()], [true, false, false]);
    }
}
