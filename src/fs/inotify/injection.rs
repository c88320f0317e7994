//! The server's own requests, which make events for the view's watchers ([`crate::fs::inotify::replay`]).
//!
//! None of them touches the host. The kernel makes a creation event only if the directory wasn't there, and a removal
//! event only if it was. So the injected lookup, and no other, finds the opposite of the real state. This happens
//! under the directory's lock. The server refuses the operation itself unless that lookup was made: the kernel never
//! acts on another object than the one that is meant.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::pending::InjectedOp;
use crate::fs::cache::told::note_told;
use crate::fs::host::EntryChange;
use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::{Attributes, CgroupFs, Entry, EntryTtl, FsError, FsResult, Host};

/// What an injected lookup finds.
enum InjectedLookup {
    /// The same as every lookup.
    Plain,
    /// A directory along the path, as long as the kernel holds it, even if it's gone.
    Step(Arc<Node>),
    /// Nothing.
    Nothing,
    /// A directory that is gone.
    Placeholder(NodeId),
    /// The directory that has this name now.
    Renamed(Arc<Node>, OsString, NodeId),
    /// A file, even if it's gone.
    File(Arc<Node>, NodeId),
}

impl<H: Host> CgroupFs<H> {
    fn injected_lookup_of(&self, parent: NodeId, name: &OsStr) -> InjectedLookup {
        let mut pending = self.replays.pending.lock();
        let Some(pending) = &mut *pending else { return InjectedLookup::Plain };
        if pending.event.directory.id() != parent {
            return pending.step(parent, name).map_or(InjectedLookup::Plain, InjectedLookup::Step);
        }
        let placeholder = *pending.placeholder.get_or_insert_with(|| self.replays.placeholder());
        let is_it = pending.event.name == name;
        match &pending.event.operation {
            InjectedOp::Rename(to) if to == name => {
                pending.looked_up_new = true;
                InjectedLookup::Nothing
            }
            _ if !is_it => InjectedLookup::Plain,
            operation => {
                pending.looked_up = true;
                match operation {
                    InjectedOp::Look | InjectedOp::Make => InjectedLookup::Nothing,
                    InjectedOp::Remove => InjectedLookup::Placeholder(placeholder),
                    InjectedOp::Rename(to) => {
                        InjectedLookup::Renamed(Arc::clone(&pending.event.directory), to.clone(), placeholder)
                    }
                    InjectedOp::Touch => InjectedLookup::File(Arc::clone(&pending.event.directory), placeholder),
                }
            }
        }
    }

    pub(in crate::fs) fn injected_lookup(&self, parent: NodeId, name: &OsStr) -> FsResult<Entry> {
        match self.injected_lookup_of(parent, name) {
            InjectedLookup::Plain => self.lookup(parent, name),
            InjectedLookup::Nothing => Err(Errno::ENOENT.into()),
            InjectedLookup::Placeholder(id) => Ok(self.placeholder(id, libc::S_IFDIR | 0o755)),
            InjectedLookup::Step(node) => self.step(&node, parent, name),
            InjectedLookup::Renamed(directory, to, placeholder) => {
                let Ok((node, attributes)) = self.find(&directory, &to) else {
                    return Ok(self.placeholder(placeholder, libc::S_IFDIR | 0o755));
                };
                let mut entry = self.remember(node, attributes);
                entry.ttl.entry = Duration::ZERO;
                Ok(entry)
            }
            InjectedLookup::File(directory, placeholder) => match self.lookup(parent, name) {
                Err(FsError::Kernel(Errno::ENOENT)) => {
                    let known = self.nodes.child(&directory, name);
                    let entry = known.and_then(|node| self.known(&node));
                    Ok(entry.unwrap_or_else(|| self.placeholder(placeholder, libc::S_IFREG | 0o444)))
                }
                found => found,
            },
        }
    }

    fn step(&self, node: &Arc<Node>, parent: NodeId, name: &OsStr) -> FsResult<Entry> {
        let above = self.node(parent)?;
        match self.find(&above, name) {
            Ok((found, attributes)) if found.id() == node.id() => Ok(self.remember(found, attributes)),
            // It's gone, or another object has its name. Somebody may still watch it.
            Ok(_) | Err(FsError::Kernel(Errno::ENOENT)) => self.known(node).ok_or(FsError::Kernel(Errno::ENOENT)),
            Err(failure) => Err(failure),
        }
    }

    /// Returns a node that is gone, if the kernel still holds it. The kernel mustn't cache its name: nobody else may
    /// find it.
    fn known(&self, node: &Node) -> Option<Entry> {
        let node = self.nodes.count(node.id())?;
        let ttl = EntryTtl { entry: Duration::ZERO, attributes: Duration::ZERO };
        match node.last_seen() {
            Some(attributes) => Some(Entry { id: node.id(), attributes: self.as_shown(&node, attributes), ttl }),
            None => {
                self.nodes.forget(node.id(), 1);
                None
            }
        }
    }

    fn placeholder(&self, id: NodeId, mode: u32) -> Entry {
        Entry {
            id,
            attributes: self.placeholder_attributes(id, mode),
            ttl: EntryTtl { entry: Duration::ZERO, attributes: Duration::ZERO },
        }
    }

    fn placeholder_attributes(&self, id: NodeId, mode: u32) -> Attributes {
        let links = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
        let times = [self.born; 3];
        Attributes { inode: id.as_u64(), mode, uid: 0, gid: 0, links, size: 0, block_size: 4096, times }
    }

    pub(in crate::fs) fn injected_make(&self, parent: NodeId, name: &OsStr) -> FsResult<Entry> {
        let (directory, placeholder) = match &*self.replays.pending.lock() {
            Some(pending) if pending.looked_up && pending.is(parent, name, &InjectedOp::Make) => {
                (Arc::clone(&pending.event.directory), pending.placeholder)
            }
            _ => return Err(Errno::EAGAIN.into()),
        };
        let placeholder = placeholder.unwrap_or_else(|| self.replays.placeholder());
        note_told(&directory, name, EntryChange::Made);
        match self.find(&directory, name) {
            Ok((node, attributes)) if *node.object() == Object::Directory => Ok(self.remember(node, attributes)),
            // It's gone again, and the event of that follows.
            _ => Ok(self.placeholder(placeholder, libc::S_IFDIR | 0o755)),
        }
    }

    pub(in crate::fs) fn injected_remove(&self, parent: NodeId, name: &OsStr) -> FsResult<()> {
        match &*self.replays.pending.lock() {
            Some(pending) if pending.looked_up && pending.is(parent, name, &InjectedOp::Remove) => {
                note_told(&pending.event.directory, name, EntryChange::Removed);
                Ok(())
            }
            _ => Err(Errno::EAGAIN.into()),
        }
    }

    pub(in crate::fs) fn injected_rename(
        &self,
        from: NodeId,
        name: &OsStr,
        to: NodeId,
        new_name: &OsStr,
    ) -> FsResult<()> {
        let operation = InjectedOp::Rename(new_name.to_os_string());
        match &*self.replays.pending.lock() {
            Some(pending)
                if pending.looked_up && pending.looked_up_new && from == to && pending.is(from, name, &operation) =>
            {
                note_told(&pending.event.directory, name, EntryChange::Removed);
                note_told(&pending.event.directory, new_name, EntryChange::Made);
                Ok(())
            }
            _ => Err(Errno::EAGAIN.into()),
        }
    }

    /// Notes that the change which is shown now is dealt with. This comes before the answer, with which the kernel tells
    /// the watchers: if the server is killed in between, the kernel sends the request again ([`Self::show_again`]).
    pub(in crate::fs) fn finish_shown(&self) {
        if let Some(position) = self.replays.finishes_next() {
            let _ = self.records.once(|_| {
                self.finish_changes(position);
                Ok(1)
            });
        }
    }

    /// Answers a request by which an earlier server has shown a change. It was killed before the kernel had the answer,
    /// so nobody was told. If the change counts as dealt with, it's shown anew.
    pub(in crate::fs) fn show_again(&self, directory: NodeId, name: &OsStr, operation: InjectedOp) -> FsError {
        if self.records.done_before().is_some()
            && let Some(directory) = self.nodes.get(directory)
        {
            self.replays.show(&directory, name, operation);
        }
        Errno::EIO.into()
    }

    /// Reports the modification time unchanged: the kernel makes the event because it's told to set it.
    pub(in crate::fs) fn injected_set_attributes(&self, id: NodeId) -> FsResult<(Attributes, Duration)> {
        let placeholder = self.replays.pending.lock().as_ref().and_then(|pending| pending.placeholder);
        if placeholder == Some(id) {
            return Ok((self.placeholder_attributes(id, libc::S_IFREG | 0o444), Duration::ZERO));
        }
        self.attributes(id, None)
    }
}
