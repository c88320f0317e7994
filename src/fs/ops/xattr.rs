//! Extended attributes.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;

use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::limits::xattr_budget::DirectoryKey;
use crate::fs::{Caller, CgroupFs, FsResult, Host};
use crate::policy::Operation;
use crate::records::{Attempt, Records};

impl<H: Host> CgroupFs<H> {
    /// An xattr's value.
    pub fn xattr(&self, id: NodeId, name: &OsStr) -> FsResult<Vec<u8>> {
        let node = self.node(id)?;
        if !has_xattrs(&node) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(self.host.xattr(&node, name)?)
    }

    /// The names of the xattrs that the caller may see.
    pub fn xattrs(&self, caller: &Caller, id: NodeId) -> FsResult<Vec<u8>> {
        let node = self.node(id)?;
        if !has_xattrs(&node) {
            return Ok(Vec::new());
        }
        let reader = self.credentials(caller)?;
        Ok(self.host.xattrs(&node, &reader)?)
    }

    /// Sets an xattr, with the caller's rights.
    pub fn set_xattr(&self, caller: &Caller, id: NodeId, name: &OsStr, value: &[u8], flags: i32) -> FsResult<()> {
        let (node, key) = self.with_xattrs_to_change(id)?;
        let writer = self.credentials(caller)?;
        let is_there = |(hierarchy, inode)| self.host.has_directory(hierarchy, inode);
        let set = || {
            // One that mustn't be there, and is: a server that was killed hasn't made it.
            if flags & libc::XATTR_CREATE != 0 && !Records::is_sent_again() && self.host.xattr(&node, name).is_ok() {
                return self.change_own_attributes(&node, || self.host.set_xattr(&node, name, value, flags, &writer));
            }
            let set = |attempt| match self.host.set_xattr(&node, name, value, flags, &writer) {
                // A server that was killed has made or replaced it.
                Err(Errno::EEXIST) if attempt == Attempt::Again => Ok(1),
                set => set.map(|()| 1),
            };
            self.change_own_attributes(&node, || self.records.once(set)).map(drop)
        };
        self.xattrs.set((key, name), value.len(), is_there, set)
    }

    /// Removes an xattr, with the caller's rights.
    pub fn remove_xattr(&self, caller: &Caller, id: NodeId, name: &OsStr) -> FsResult<()> {
        let (node, key) = self.with_xattrs_to_change(id)?;
        let writer = self.credentials(caller)?;
        self.xattrs.remove((key, name), || {
            // One that isn't there: a server that was killed hasn't removed it.
            if !Records::is_sent_again() && self.host.xattr(&node, name) == Err(Errno::ENODATA) {
                return self.change_own_attributes(&node, || self.host.remove_xattr(&node, name, &writer));
            }
            let remove = |attempt| match self.host.remove_xattr(&node, name, &writer) {
                // A server that was killed has removed it.
                Err(Errno::ENODATA) if attempt == Attempt::Again => Ok(1),
                removed => removed.map(|()| 1),
            };
            self.change_own_attributes(&node, || self.records.once(remove)).map(drop)
        })
    }

    fn with_xattrs_to_change(&self, id: NodeId) -> FsResult<(Arc<Node>, DirectoryKey)> {
        let node = self.node(id)?;
        self.decide(&node, Operation::ChangeXattrs)?;
        let hierarchy = node.position().hierarchy.ok_or(Errno::EOPNOTSUPP)?;
        let key = (hierarchy, node.inode());
        Ok((node, key))
    }
}

fn has_xattrs(node: &Node) -> bool {
    matches!(node.object(), Object::Directory | Object::File(_))
}
