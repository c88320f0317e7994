//! Listing directories.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use parking_lot::Mutex;

use super::host::BackingEntry;
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

/// The listings of directories that are being read, the oldest first.
///
/// A directory is open without a handle, so a listing is kept for its directory, until a reader has come to its end. Cookies don't depend on
/// the listing: for who goes on after it was displaced, or replaced by that of another reader, one is taken anew. None is replaced by one that
/// was begun before it: whoever began to read after a change goes on with what is so since.
#[derive(Debug, Default)]
pub(super) struct Listings {
    kept: Mutex<VecDeque<(NodeId, Listing)>>,
    begun: AtomicU64,
}

type Listing = Arc<Vec<ListedEntry>>;

impl Listings {
    fn get(&self, id: NodeId) -> Option<Listing> {
        self.kept.lock().iter().find(|(of, _)| *of == id).map(|(_, listing)| Arc::clone(listing))
    }

    fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::AcqRel)
    }

    /// What goes is dropped when the lock isn't held any more.
    fn keep(&self, node: &Node, begun: u64, listing: &Listing) {
        let mut kept = self.kept.lock();
        if !node.was_listed(begun) {
            return;
        }
        let replaced = take(&mut kept, node.id());
        kept.push_back((node.id(), Arc::clone(listing)));
        let displaced = if kept.len() > LISTINGS { kept.pop_front() } else { None };
        drop(kept);
        drop((replaced, displaced));
    }

    pub(super) fn remove(&self, id: NodeId) -> Option<Listing> {
        take(&mut self.kept.lock(), id)
    }
}

fn take(kept: &mut VecDeque<(NodeId, Listing)>, id: NodeId) -> Option<Listing> {
    let at = kept.iter().position(|(of, _)| *of == id)?;
    kept.remove(at).map(|(_, listing)| listing)
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
    /// taken anew.
    pub fn list(&self, id: NodeId, offset: u64, mut take: impl FnMut(&ListedEntry) -> bool) -> Outcome<()> {
        let known = if offset == 0 { None } else { self.listings.get(id) };
        let entries = match known {
            Some(entries) => entries,
            None => {
                let node = self.node(id)?;
                if !node.is_directory() {
                    return Err(Errno::ENOTDIR.into());
                }
                self.watch(&node);
                let begun = self.listings.begin();
                let entries = Arc::new(self.entries(&node)?);
                self.listings.keep(&node, begun, &entries);
                entries
            }
        };
        let behind = entries.partition_point(|entry| entry.cookie <= offset);
        let rest = entries.get(behind..).unwrap_or_default();
        if rest.is_empty() {
            drop(self.listings.remove(id));
        }
        for entry in rest {
            if !take(entry) {
                break;
            }
        }
        Ok(())
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
            |listings: &Listings, listing| listings.get(ROOT_ID).is_some_and(|kept| Arc::ptr_eq(&kept, listing));
        let listings = Listings::default();
        let (slow, quick) = (listings.begin(), listings.begin());
        let (old, new) = (listing(), listing());
        listings.keep(&node, quick, &new);
        listings.keep(&node, slow, &old);
        assert!(is_kept(&listings, &new));
        // The quick one has come to its end, and a third has gone on from there.
        listings.remove(ROOT_ID);
        listings.keep(&node, slow, &old);
        assert!(listings.get(ROOT_ID).is_none());
        let newest = listing();
        listings.keep(&node, listings.begin(), &newest);
        assert!(is_kept(&listings, &newest));
    }
}
