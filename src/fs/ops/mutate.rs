//! Changes of the tree: mkdir, rmdir, rename, and the operations that no cgroupfs has.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;

use crate::cgroup::file::making_may_block;
use crate::fs::cache::own_changes::Announcement;
use crate::fs::cache::told::note_told;
use crate::fs::host::EntryChange;
use crate::fs::inode::{Node, NodeId};
use crate::fs::inotify::InjectedOp;
use crate::fs::{Caller, CgroupFs, Entry, FsError, FsResult, Host, SysResult};
use crate::policy::{self, Operation, Rule};
use crate::records::Attempt;
use crate::view::Child;

impl<H: Host> CgroupFs<H> {
    /// Makes a cgroup, owned by the caller's fsuid and fsgid.
    pub fn make_directory(&self, caller: &Caller, parent: NodeId, name: &OsStr, mode: u32) -> FsResult<Entry> {
        if self.is_left_behind(caller) {
            return Err(self.show_again(parent, name, InjectedOp::Make));
        }
        if self.replays.is_injected(caller) {
            return self.injected_make(parent, name).inspect(|_| self.finish_shown());
        }
        let parent = self.node(parent)?;
        self.decide(&parent, Operation::MakeDirectory)?;
        let mut made = None;
        self.make_announced_change(&parent, name, EntryChange::Made, |attempt| {
            match self.host.make_directory(caller, &parent, name, mode) {
                Ok(attributes) => made = Some(attributes),
                // A server that was killed has made it, if nobody else has.
                Err(Errno::EEXIST) if attempt == Attempt::Again && self.is_callers(caller, &parent, name) => {
                    return Ok(false);
                }
                Err(errno) => return Err(errno),
            }
            Ok(true)
        })?;
        let attributes = made.map_or_else(|| self.host.child(&parent, name), Ok)?;
        let (node, attributes) = self.backing_child(&parent, name, attributes)?;
        note_told(&parent, name, EntryChange::Made);
        self.negative.forget(parent.id(), name);
        Ok(self.remember(node, attributes))
    }

    /// Whether a cgroup of this name is the caller's.
    fn is_callers(&self, caller: &Caller, parent: &Node, name: &OsStr) -> bool {
        self.host.child(parent, name).is_ok_and(|found| found.is_directory() && found.uid == caller.uid)
    }

    /// Whether making a cgroup in this directory may wait for the kernel to reclaim memory of the container's.
    pub fn making_may_block(&self, caller: &Caller, parent: NodeId) -> bool {
        let hierarchy = || self.view.hierarchy(self.node(parent).ok()?.position().hierarchy?);
        // A replay changes nothing on the host.
        let kinds = self.view.hierarchies.iter().map(|found| &found.kind);
        !self.replays.is_injected(caller) && hierarchy().is_some_and(|found| making_may_block(&found.kind, kinds))
    }

    /// Removes a cgroup.
    pub fn remove_directory(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> FsResult<()> {
        if self.is_left_behind(caller) {
            return Err(self.show_again(parent, name, InjectedOp::Remove));
        }
        if self.replays.is_injected(caller) {
            return self.injected_remove(parent, name).inspect(|()| self.finish_shown());
        }
        let parent = self.node(parent)?;
        // The name alone determines where a cgroup would be in the view. Only the host knows whether it exists.
        let allowed = match self.view.child(parent.position(), name) {
            Child::Backing { directory: Some(position), otherwise: None, .. } => {
                self.decide_at(position, policy::Subject::Directory, Operation::RemoveDirectory).is_ok()
            }
            _ => false,
        };
        if !allowed {
            let (node, _) = self.find(&parent, name)?;
            if !node.is_directory() {
                return Err(Errno::ENOTDIR.into());
            }
            self.decide(&node, Operation::RemoveDirectory)?;
        }
        let held = if self.xattrs.is_empty() { None } else { self.host.hold_directory(&parent, name).ok() };
        self.make_announced_change(&parent, name, EntryChange::Removed, |attempt| {
            match self.host.remove_directory(caller, &parent, name) {
                // A server that was killed has removed it.
                Err(Errno::ENOENT) if attempt == Attempt::Again => Ok(false),
                removed => removed.map(|()| true),
            }
        })?;
        if let Some(hierarchy) = parent.position().hierarchy {
            let removed = self.note_removal(hierarchy, parent.inode(), name);
            self.forget_xattrs(hierarchy, &removed, held);
            // A kernel that caches nothing looks the name up again. In a mount for all callers no thread takes tasks
            // from the queue.
            if !self.coherent {
                self.replays.removed(removed);
            }
        }
        note_told(&parent, name, EntryChange::Removed);
        Ok(())
    }

    /// Accounts for the xattrs of a removed directory.
    fn forget_xattrs(&self, hierarchy: usize, removed: &[Arc<Node>], held: Option<H::File>) {
        match held.and_then(|held| Some((self.host.file_attributes(&held).ok()?.inode, held))) {
            Some((inode, held)) => self.xattrs.removed((hierarchy, inode), |name| self.host.clear_xattr(&held, name)),
            None => removed.iter().for_each(|node| self.xattrs.write_off((hierarchy, node.inode()))),
        }
    }

    /// Makes a change that needs no invalidation, because it comes through the kernel's own mount. `change` returns
    /// whether it was made now, and not by an earlier server for the same request.
    fn make_announced_change(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        kind: EntryChange,
        change: impl FnOnce(Attempt) -> SysResult<bool>,
    ) -> FsResult<()> {
        let expected = self.own.announce(parent, name, kind);
        let mut is_made = false;
        let done = self.records.once(|attempt| {
            is_made = change(attempt)?;
            Ok(1)
        });
        // An event comes of what an earlier server has announced and made.
        let is_awaited = done.is_ok() && (is_made || expected == Announcement::Known);
        if !is_awaited && expected != Announcement::Unwatched && !self.own.forget(parent, name, kind) {
            self.replays.replay_misattributed(parent, name, kind);
        }
        done.map(drop).map_err(FsError::Kernel)
    }

    /// Renames a cgroup. `flags` are renameat2's, and a cgroupfs supports none.
    pub fn rename(
        &self,
        caller: &Caller,
        from: NodeId,
        name: &OsStr,
        to: NodeId,
        new_name: &OsStr,
        flags: u32,
    ) -> FsResult<()> {
        if self.is_left_behind(caller) {
            return Err(self.show_again(from, name, InjectedOp::Rename(new_name.to_os_string())));
        }
        if self.replays.is_injected(caller) {
            return self.injected_rename(from, name, to, new_name).inspect(|()| self.finish_shown());
        }
        let (from, to) = (self.node(from)?, self.node(to)?);
        let (node, _) = match self.find(&from, name) {
            // A server that was killed has renamed it.
            Err(FsError::Kernel(Errno::ENOENT)) if self.records.was_tried_before() => {
                let (node, _) = self.find(&to, new_name)?;
                self.note_renamed(&node, (&from, name), (&to, new_name));
                return Ok(());
            }
            found => found?,
        };
        if node.is_directory() {
            self.decide(&node, Operation::Rename)?;
            self.decide(&to, Operation::MakeDirectory)?;
        } else {
            // Inside the subtree kernfs returns ENOTDIR or EPERM; outside, nothing may be tried.
            self.decide(&from, Operation::MakeDirectory)?;
        }
        if from.position().hierarchy != to.position().hierarchy {
            return Err(Errno::EXDEV.into());
        }
        if flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        let rename = || self.host.rename(caller, (&from, name), (&to, new_name));
        if from.id() == to.id() {
            self.make_announced_change(&from, name, EntryChange::Renamed, |_| rename().map(|()| true))?;
        } else {
            self.records.once(|_| rename().map(|()| 1))?;
        }
        self.note_renamed(&node, (&from, name), (&to, new_name));
        Ok(())
    }

    fn note_renamed(&self, node: &Node, (from, name): (&Node, &OsStr), (to, new_name): (&Node, &OsStr)) {
        self.nodes.rename(node.id(), new_name);
        note_told(from, name, EntryChange::Removed);
        note_told(to, new_name, EntryChange::Made);
    }

    /// Rejects link, symlink, mknod, unlink and create: a cgroupfs has none of them.
    pub fn make_node(&self, parent: NodeId, operation: Operation) -> FsError {
        match self.node(parent).and_then(|parent| Ok(self.decide(&parent, operation)?)) {
            Err(failure) => failure,
            Ok(_) => Rule::NoSuchOperation.into(),
        }
    }
}
