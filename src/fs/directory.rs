//! Listing directories.

use std::ffi::OsString;
use std::sync::Arc;

use nix::errno::Errno;

use super::handles::Open;
use super::{CgroupFs, HandleId, Host, Outcome};
use crate::view::{Node, NodeId, Object, Spot};

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

impl<H: Host> CgroupFs<H> {
    /// Opens a directory for listing.
    pub fn open_directory(&self, id: NodeId) -> Outcome<HandleId> {
        let node = self.node(id)?;
        if !node.is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        self.watch(&node);
        Ok(self.handles.insert(Open::Directory(Arc::default())))
    }

    /// Hands out the entries behind `offset`, in the order of their cookies, until `take` wants no more. A listing is taken once per open
    /// directory, and again whenever it's read from its beginning, or goes on after others have displaced it.
    pub fn list(
        &self,
        id: NodeId,
        handle: HandleId,
        offset: u64,
        mut take: impl FnMut(&ListedEntry) -> bool,
    ) -> Outcome<()> {
        let node = self.node(id)?;
        let listing = self.handles.listing(handle).ok_or(Errno::EBADF)?;
        let known = if offset == 0 { None } else { listing.lock().clone() };
        let entries = match known {
            Some(entries) => entries,
            None => {
                let entries = Arc::new(self.entries(&node)?);
                *listing.lock() = Some(Arc::clone(&entries));
                if let Some(displaced) = self.handles.keep_listing(handle) {
                    *displaced.lock() = None;
                }
                entries
            }
        };
        let behind = entries.partition_point(|entry| entry.cookie <= offset);
        for entry in entries.get(behind..).unwrap_or_default() {
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
                let shown = self
                    .host
                    .list(node)?
                    .into_iter()
                    .filter(|entry| self.view.lists(node.position(), &entry.name, entry.is_directory));
                entries.extend(shown.map(|entry| ListedEntry {
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
