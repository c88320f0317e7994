//! Listing directories.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::host::{BackingEntry, Follow};
use super::share::{Share, Shares};
use super::{Answer, CgroupFs, Host, Outcome};
use crate::view::{Cgroups, Node, NodeId, Object, Spot};

/// An entry as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its name.
    pub name: OsString,
    /// Its inode number.
    pub inode: u64,
    /// `S_IFDIR`, `S_IFREG` or `S_IFLNK`.
    pub kind: u32,
    /// Where a listing goes on after it. It depends on the entry alone, never on its place in the list, so that what comes and goes
    /// meanwhile neither hides nor repeats another entry.
    pub cookie: u64,
}

/// The cookies of `.` and `..`; every other entry has its inode number + 2, and kernfs counts from 1.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// How many listings are kept, however many directories are half read: each is as long as its directory, and the memory is the server's.
const LISTINGS: usize = 16;

/// In parts of how many bytes memory for listings is shared out.
const PART: usize = 64 * 1024;

/// How many such parts there are for all listings of a server; a tenant gets at most a quarter of them.
pub(super) const PARTS: usize = 1024;

/// For how long a listing is good though nothing has changed: the kernel may bring files along without saying so (a module that is loaded).
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Of how many directories it's known when they were listed last.
const REMEMBERED: usize = 1024;

/// The listings of directories that are being read, or are read again and again, the oldest first.
///
/// A directory is open without a handle, so a listing is kept for its directory, until a reader has come to its end. Cookies don't depend on
/// the listing: for who goes on after it was displaced, or replaced by that of another reader, one is taken anew. None is replaced by one that
/// was begun before it: whoever began to read after a change goes on with what is so since.
///
/// Whoever lists a directory once more within [`GOOD_FOR`] has it followed. As long as it doesn't change then, its listing answers all who read it
/// from the beginning: to list thousands of cgroups takes the server many times as long as who asks for it.
#[derive(Debug)]
pub(super) struct Listings {
    kept: Mutex<VecDeque<Kept>>,
    begun: AtomicU64,
    last: Mutex<HashMap<NodeId, Instant>>,
    room: Shares,
}

#[derive(Clone, Debug)]
struct Kept {
    id: NodeId,
    entries: Listing,
    begun_at: Instant,
    followed: Option<Arc<dyn Follow>>,
    /// A reader has come to its end.
    finished: bool,
    /// What it takes of the memory.
    _room: Arc<Vec<Share>>,
}

type Listing = Arc<Vec<ListedEntry>>;

impl Default for Listings {
    fn default() -> Self {
        Self::within(Shares::of(PARTS / 2))
    }
}

impl Listings {
    /// Which share this memory with others.
    pub(super) fn within(room: Shares) -> Self {
        Self { kept: Mutex::default(), begun: AtomicU64::default(), last: Mutex::default(), room }
    }

    /// What to go on with behind `offset`, or to begin with.
    fn get(&self, id: NodeId, offset: u64) -> Option<Listing> {
        let kept = self.kept.lock().iter().find(|kept| kept.id == id)?.clone();
        let is_good = || {
            kept.begun_at.elapsed() < GOOD_FOR && kept.followed.as_ref().is_some_and(|followed| followed.is_unchanged())
        };
        (offset != 0 && !kept.finished || is_good()).then_some(kept.entries)
    }

    /// Begins a listing: its number, and whether the directory was listed just before.
    fn begin(&self, id: NodeId) -> (u64, bool) {
        let now = Instant::now();
        let mut last = self.last.lock();
        if last.len() >= REMEMBERED {
            last.clear();
        }
        let before = last.insert(id, now);
        drop(last);
        let again = before.is_some_and(|before| now.duration_since(before) < GOOD_FOR);
        (self.begun.fetch_add(1, Ordering::AcqRel), again)
    }

    /// What goes is dropped when the lock isn't held any more.
    fn keep(&self, node: &Node, begun: u64, begun_at: Instant, followed: Option<Arc<dyn Follow>>, entries: &Listing) {
        let Some(room) = self.make_room(entries) else { return };
        let listing = Kept {
            id: node.id(),
            entries: Arc::clone(entries),
            begun_at,
            followed,
            finished: false,
            _room: Arc::new(room),
        };
        let mut kept = self.kept.lock();
        if !node.was_listed(begun) {
            return;
        }
        let replaced = take(&mut kept, node.id());
        kept.push_back(listing);
        let displaced = if kept.len() > LISTINGS { kept.pop_front() } else { None };
        drop(kept);
        drop((replaced, displaced));
    }

    /// Memory for a listing, in place of older ones if need be.
    fn make_room(&self, entries: &Listing) -> Option<Vec<Share>> {
        let bytes: usize = entries.iter().map(|entry| size_of::<ListedEntry>() + 16 + entry.name.len()).sum();
        let parts = bytes.div_ceil(PART);
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

    /// A reader has come to the end.
    fn finish(&self, id: NodeId) {
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

    pub(super) fn remove(&self, id: NodeId) {
        let removed = take(&mut self.kept.lock(), id);
        drop(removed);
        self.last.lock().remove(&id);
    }
}

fn take(kept: &mut VecDeque<Kept>, id: NodeId) -> Option<Kept> {
    let at = kept.iter().position(|kept| kept.id == id)?;
    kept.remove(at)
}

impl<H: Host> CgroupFs<H> {
    /// Opens a directory for listing. Nothing is kept for it.
    pub fn open_directory(&self, id: NodeId) -> Outcome<()> {
        let node = self.node(id)?;
        if !node.is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        self.watch(&node);
        Ok(())
    }

    /// Hands out the entries behind `offset`, in the order of their cookies, until `take` wants no more. What is read from its beginning is
    /// taken anew, unless it's known to be as it was.
    pub fn list(&self, id: NodeId, offset: u64, mut take: impl FnMut(&ListedEntry) -> bool) -> Outcome<()> {
        let entries = match self.listings.get(id, offset) {
            Some(entries) => entries,
            None => self.list_anew(id)?,
        };
        let behind = entries.partition_point(|entry| entry.cookie <= offset);
        let rest = entries.get(behind..).unwrap_or_default();
        if rest.is_empty() {
            self.listings.finish(id);
        }
        for entry in rest {
            if !take(entry) {
                break;
            }
        }
        Ok(())
    }

    fn list_anew(&self, id: NodeId) -> Outcome<Listing> {
        let node = self.node(id)?;
        if !node.is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        self.watch(&node);
        let (begun, again) = self.listings.begin(id);
        let begun_at = Instant::now();
        // Before it's listed, so that no change in between is missed.
        let is_followed = again && *node.object() == Object::Directory;
        let followed = is_followed.then(|| self.host.follow(&node)).flatten().map(Arc::from);
        let entries = Arc::new(self.entries(&node)?);
        self.listings.keep(&node, begun, begun_at, followed, &entries);
        Ok(entries)
    }

    pub(super) fn entries(&self, node: &Node) -> Outcome<Vec<ListedEntry>> {
        let above = node.parent().map_or(node.inode(), |parent| parent.inode());
        let directory =
            |name: &str, inode, cookie| ListedEntry { name: name.into(), inode, kind: libc::S_IFDIR, cookie };
        let mut entries = vec![directory(".", node.inode(), DOT), directory("..", above, DOT_DOT)];
        match node.object() {
            // A step of the alias lists nothing: it's hidden.
            Object::Synthetic if node.position().spot == Spot::Top => self.add_hierarchies(&mut entries),
            Object::Directory => {
                let shown = self.shown(node)?;
                node.tell(|| cgroups(&shown));
                entries.extend(shown.into_iter().map(|entry| ListedEntry {
                    kind: if entry.is_directory { libc::S_IFDIR } else { libc::S_IFREG },
                    cookie: entry.inode + DOT_DOT,
                    name: entry.name,
                    inode: entry.inode,
                }));
            }
            _ => {}
        }
        entries.sort_by_key(|entry| entry.cookie);
        Ok(entries)
    }

    /// Takes note of what a directory has, before its first event is shown.
    pub(super) fn look_once(&self, directory: &Node) {
        if directory.told().is_none()
            && let Ok(shown) = self.shown(directory)
        {
            directory.tell(|| cgroups(&shown));
        }
    }

    /// What the host has in a directory, as far as it's shown.
    pub(super) fn shown(&self, directory: &Node) -> Answer<Vec<BackingEntry>> {
        let mut entries = self.host.list(directory)?;
        entries.retain(|entry| self.view.lists(directory.position(), &entry.name, entry.is_directory));
        Ok(entries)
    }

    fn add_hierarchies(&self, entries: &mut Vec<ListedEntry>) {
        for (index, hierarchy) in self.view.hierarchies.iter().enumerate() {
            let mut add = |name: &OsString, id: Option<NodeId>, kind| {
                let Some(id) = id else { return };
                let cookie = entries.len() as u64 + 1;
                entries.push(ListedEntry { name: name.clone(), inode: id.as_u64(), kind, cookie });
            };
            add(&hierarchy.directory, NodeId::top(index), libc::S_IFDIR);
            for (link, name) in hierarchy.links.iter().enumerate() {
                add(name, NodeId::link(index, link), libc::S_IFLNK);
            }
        }
    }
}

/// The cgroups among these entries.
pub(super) fn cgroups(entries: &[BackingEntry]) -> Cgroups {
    entries.iter().filter(|entry| entry.is_directory).map(|entry| (entry.name.clone(), entry.inode)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Position, ROOT_ID};

    /// A reader that is slow to list a directory mustn't leave an old listing to one that has begun since.
    #[test]
    fn no_listing_is_kept_after_one_that_was_begun_later() {
        let node = Node::root(ROOT_ID, Position::VIEW_ROOT, Object::Synthetic, 1);
        let listing = || Arc::new(Vec::new());
        let is_kept =
            |listings: &Listings, listing| listings.get(ROOT_ID, 1).is_some_and(|kept| Arc::ptr_eq(&kept, listing));
        let listings = Listings::default();
        let keep = |begun, listing| listings.keep(&node, begun, Instant::now(), None, listing);
        let begin = || listings.begin(ROOT_ID).0;
        let (slow, quick) = (begin(), begin());
        let (old, new) = (listing(), listing());
        keep(quick, &new);
        keep(slow, &old);
        assert!(is_kept(&listings, &new));
        // The quick one has come to its end, and a third has gone on from there.
        listings.remove(ROOT_ID);
        keep(slow, &old);
        assert!(listings.get(ROOT_ID, 1).is_none());
        let newest = listing();
        keep(begin(), &newest);
        assert!(is_kept(&listings, &newest));
    }
}
