//! Listing directories.

use std::ffi::{OsStr, OsString};
use std::time::Instant;

use nix::errno::Errno;

use crate::fs::cache::listings::{KeptListing, ListedEntry, Listing};
use crate::fs::cache::told::cgroups;
use crate::fs::host::{BackingEntry, DirChanges};
use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::{CgroupFs, FsResult, Host, SysResult};
use crate::view::Role;

/// The cookies of `.` and `..`; every other entry has its inode number + 2, and kernfs counts from 1.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl<H: Host> CgroupFs<H> {
    /// Opens a directory for listing. The server keeps no state for it.
    pub fn open_directory(&self, id: NodeId) -> FsResult<()> {
        let node = self.node(id)?;
        if !node.is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        self.watch(&node);
        Ok(())
    }

    /// Passes the entries after `offset` to `take`, in the order of their cookies, until it returns false. Reading
    /// from the beginning takes a new listing, unless the server knows what has changed since the old one.
    pub fn list(&self, id: NodeId, offset: u64, take: impl FnMut(&ListedEntry) -> bool) -> FsResult<()> {
        let listing = match self.kept_listing(id, offset) {
            Some(listing) => listing,
            None => self.processor.pay_for(|| self.list_anew(id))?,
        };
        if !listing.hand_out(offset, take) {
            self.listings.finish(id);
        }
        Ok(())
    }

    /// Whether returning the entries after `offset` takes a listing of the whole directory.
    pub fn lists_anew(&self, id: NodeId, offset: u64) -> bool {
        self.kept_listing(id, offset).is_none()
    }

    /// Returns a cached listing that is current from `offset` on.
    fn kept_listing(&self, id: NodeId, offset: u64) -> Option<Listing> {
        let kept = self.listings.get(id)?;
        if offset != 0 && !kept.is_finished() || self.is_renewed(id, &kept) {
            return Some(kept.into_listing());
        }
        None
    }

    /// Updates a followed listing, if looking up the changed names is enough.
    fn is_renewed(&self, id: NodeId, kept: &KeptListing) -> bool {
        let Some(node) = self.nodes.get(id).filter(|_| kept.is_fresh()) else { return false };
        kept.renew(|since| match since {
            DirChanges::Nothing => Some(Vec::new()),
            DirChanges::Names(names) => {
                names.into_iter().map(|name| self.entry_now(&node, &name).map(|entry| (name, entry))).collect()
            }
            DirChanges::Anything => None,
        })
    }

    /// Returns the current entry with this name; the outer `None` if it can't be determined.
    #[expect(clippy::option_option, reason = "nothing is there, or nothing can be told")]
    fn entry_now(&self, directory: &Node, name: &OsStr) -> Option<Option<ListedEntry>> {
        match self.host.child(directory, name) {
            Ok(attributes) => {
                let entry = BackingEntry {
                    name: name.to_os_string(),
                    inode: attributes.inode,
                    is_directory: attributes.is_directory(),
                };
                Some(self.lists(directory, &entry).then(|| listed(entry)))
            }
            Err(Errno::ENOENT) => Some(None),
            Err(_) => None,
        }
    }

    fn list_anew(&self, id: NodeId) -> FsResult<Listing> {
        let node = self.node(id)?;
        if !node.is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        self.watch(&node);
        let (begun, again) = self.listings.begin(id);
        let begun_at = Instant::now();
        // Follow before listing, so that no change in between is missed.
        let is_followed = again && *node.object() == Object::Directory;
        let followed = is_followed.then(|| self.host.follow_changes(&node)).flatten();
        let listing = Listing::of(self.entries(&node)?);
        self.listings.keep(&node, begun, begun_at, followed, &listing);
        Ok(listing)
    }

    pub(in crate::fs) fn entries(&self, node: &Node) -> FsResult<Vec<ListedEntry>> {
        let above = node.parent().map_or(node.inode(), |parent| parent.inode());
        let directory =
            |name: &str, inode, cookie| ListedEntry { name: name.into(), inode, kind: libc::S_IFDIR, cookie };
        let mut entries = vec![directory(".", node.inode(), DOT), directory("..", above, DOT_DOT)];
        match node.object() {
            // A component of the alias is hidden, so it lists nothing.
            Object::Synthetic if node.position().role == Role::Top => self.add_hierarchies(&mut entries),
            Object::Directory => {
                let shown = self.shown(node)?;
                node.note_listed_cgroups(|| cgroups(&shown));
                entries.extend(shown.into_iter().map(listed));
            }
            _ => {}
        }
        Ok(entries)
    }

    /// Notes the cgroups of a directory, before its first event is replayed.
    pub(in crate::fs) fn look_once(&self, directory: &Node) {
        if directory.told_cgroups().is_none()
            && let Ok(shown) = self.shown(directory)
        {
            directory.note_listed_cgroups(|| cgroups(&shown));
        }
    }

    /// Lists the host's entries of a directory, as far as the view shows them.
    pub(in crate::fs) fn shown(&self, directory: &Node) -> SysResult<Vec<BackingEntry>> {
        let mut entries = self.host.list(directory)?;
        entries.retain(|entry| self.lists(directory, entry));
        Ok(entries)
    }

    fn lists(&self, directory: &Node, entry: &BackingEntry) -> bool {
        self.view.lists(directory.position(), &entry.name, entry.is_directory)
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

fn listed(entry: BackingEntry) -> ListedEntry {
    ListedEntry {
        kind: if entry.is_directory { libc::S_IFDIR } else { libc::S_IFREG },
        cookie: entry.inode + DOT_DOT,
        name: entry.name,
        inode: entry.inode,
    }
}
