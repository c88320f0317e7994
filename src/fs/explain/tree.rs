//! A view as a tree.

use std::ffi::OsString;
use std::sync::Arc;

use nix::errno::Errno;

use crate::fs::inode::{Node, Object};
use crate::fs::{Attributes, CgroupFs, FsError, FsResult, Host};
use crate::policy::{Grant, Operation};

/// A node with everything below it.
#[derive(Clone, Debug)]
pub struct TreeNode {
    /// Its name.
    pub name: OsString,
    /// Whether it's an interface file.
    pub is_file: bool,
    /// The target of a symlink; nothing is below it.
    pub link: Option<OsString>,
    /// Whether a file can be written, or cgroups made in a directory.
    pub writable: bool,
    /// How many of its entries on the host the view hides.
    pub hidden: usize,
    /// Its children, by name.
    pub children: Vec<TreeNode>,
}

impl<H: Host> CgroupFs<H> {
    /// Returns the object at the path with these names, and everything below.
    pub fn branch(&self, names: &[OsString]) -> FsResult<TreeNode> {
        let root = self.nodes.root();
        let mut found = (Arc::clone(root), self.attributes(root.id(), None)?.0);
        for name in names {
            let (node, attributes) = self.find(&self.follow(found.0)?, name)?;
            found = (Arc::new(node), attributes);
        }
        self.grow(&found.0, &found.1)
    }

    fn grow(&self, node: &Arc<Node>, attributes: &Attributes) -> FsResult<TreeNode> {
        let (link, is_file) = match node.object() {
            Object::Link(target) => (Some(target.clone()), false),
            Object::File(_) => (None, true),
            Object::Directory | Object::Synthetic => (None, false),
        };
        let operation = if is_file { Operation::Write } else { Operation::MakeDirectory };
        let grant = self.decide(node, operation);
        let writable = matches!(grant, Ok(Grant::Plain | Grant::Migrate(_) | Grant::RegisterEvent))
            && attributes.mode & 0o222 != 0;
        let name = node.name().to_os_string();
        let mut branch = TreeNode { name, is_file, link, writable, hidden: 0, children: Vec::new() };
        if !node.is_directory() {
            return Ok(branch);
        }
        let mut names: Vec<OsString> = self.entries(node)?.into_iter().skip(2).map(|entry| entry.name).collect();
        names.sort();
        if *node.object() == Object::Directory {
            branch.hidden = self.host.list(node)?.len().saturating_sub(names.len());
        }
        for name in names {
            match self.find(node, &name) {
                Ok((child, attributes)) => branch.children.push(self.grow(&Arc::new(child), &attributes)?),
                // The entry has gone since the listing.
                Err(FsError::Kernel(Errno::ENOENT)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(branch)
    }
}
