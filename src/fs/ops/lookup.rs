//! Lookup, getattr, readlink, forget, statfs.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::fs::LookupResult;
use crate::fs::cgroup_fs::classify;
use crate::fs::entry::WATCHED_TTL;
use crate::fs::inode::{HeldNode, Node, NodeId, Object, ROOT_ID};
use crate::fs::{Attributes, Caller, CgroupFs, Entry, FsError, FsResult, HandleId, Host, Statistics, SysResult};
use crate::policy;
use crate::records::{Number, Records};
use crate::view::{Child, EntryPath, Position, Role, Shape, View};

/// Permission bits of objects that the view makes itself.
const SYNTHETIC_MODE: u32 = 0o555;

impl<H: Host> CgroupFs<H> {
    /// Finds the root of the view, and the inode numbers of its boundaries. They stay those that the first server has
    /// found: a container may have ended since, or another one have its name.
    pub(in crate::fs) fn find_tops(view: &View, host: &H, records: &Records) -> SysResult<(Node, Vec<Option<u64>>)> {
        let mut boundaries = Vec::new();
        for index in 0..view.hierarchies.len() {
            let boundary = match records.get_nth(Number::Boundaries, index) {
                0 => Self::find_boundary(view, host, index)?,
                known => known.checked_sub(2),
            };
            records.set_nth(Number::Boundaries, index, boundary.map_or(1, |number| number + 2));
            boundaries.push(boundary);
        }
        let root = Self::find_root(view, host, records.get(Number::Root).checked_sub(1))?;
        records.set(Number::Root, root.inode().saturating_add(1));
        Ok((root, boundaries))
    }

    /// The root of the view, whose inode number may be known.
    pub(in crate::fs) fn find_root(view: &View, host: &H, known: Option<u64>) -> SysResult<Node> {
        let position = view.root();
        // The host finds the top of a hierarchy by the position alone, so the node needs no inode number yet.
        let Some(_) = position.hierarchy else {
            return Ok(Node::root(ROOT_ID, position, Object::Synthetic, NodeId::view_root_inode()));
        };
        let find = || Ok(host.attributes(&Node::root(ROOT_ID, position, Object::Directory, 0))?.inode);
        let inode = known.map_or_else(find, Ok)?;
        Ok(Node::root(ROOT_ID, position, Object::Directory, inode))
    }

    /// The inode number of a hierarchy's boundary.
    pub(in crate::fs) fn find_boundary(view: &View, host: &H, hierarchy: usize) -> SysResult<Option<u64>> {
        if view.hierarchy(hierarchy).is_none_or(|entry| entry.delegated.is_none()) {
            return Ok(None);
        }
        let position = Position { hierarchy: Some(hierarchy), entry_path: EntryPath::Main, role: Role::Boundary };
        let asking = Node::root(ROOT_ID, position, Object::Directory, 0);
        Ok(Some(host.attributes(&asking)?.inode))
    }

    /// Checks that the cgroup at the boundary's path is the boundary.
    fn check_boundary(&self, position: Position, attributes: &Attributes) -> FsResult<()> {
        let expected = position.hierarchy.and_then(|index| self.boundaries.get(index).copied().flatten());
        if position.role == Role::Boundary && expected != Some(attributes.inode) {
            return Err(Errno::ENOENT.into());
        }
        Ok(())
    }

    /// Finds `name` in a directory for a caller, and counts the lookup if it succeeds.
    pub fn lookup_for(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> FsResult<LookupResult> {
        if self.replays.is_injected(caller) {
            return self.injected_lookup(parent, name).map(LookupResult::Entry);
        }
        let mut entry = match self.lookup(parent, name) {
            Ok(entry) => entry,
            Err(FsError::Kernel(Errno::ENOENT)) => return self.not_found(&*self.node(parent)?, name),
            Err(failure) => return Err(failure),
        };
        if self.replays.is_about_to_change(parent, name) {
            entry.ttl.entry = Duration::ZERO;
        }
        Ok(LookupResult::Entry(entry))
    }

    /// Notes that a name wasn't found, and says for how long the kernel may cache that.
    fn not_found(&self, directory: &Node, name: &OsStr) -> FsResult<LookupResult> {
        let id = directory.id();
        if self.coherent || directory.may_be_gone() || self.replays.is_about_to_change(id, name) {
            return Ok(LookupResult::Negative(Duration::ZERO));
        }
        let is_fixed = *directory.object() != Object::Directory;
        if is_fixed || matches!(self.view.child(directory.position(), name), Child::Hidden) {
            return Ok(LookupResult::Negative(WATCHED_TTL));
        }
        if !directory.is_watched() || !self.negative.note(id, name) {
            return Ok(LookupResult::Negative(Duration::ZERO));
        }
        // The object may have been made before the name was noted.
        match self.lookup(id, name) {
            Err(FsError::Kernel(Errno::ENOENT)) => Ok(LookupResult::Negative(WATCHED_TTL)),
            looked => looked.map(LookupResult::Entry),
        }
    }

    /// Finds `name` in a directory, and counts the lookup.
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> FsResult<Entry> {
        let parent = self.node(parent)?;
        self.watch(&parent);
        let (node, attributes) = self.find(&parent, name)?;
        Ok(self.remember(node, attributes))
    }

    /// Counts a lookup, and makes its answer.
    pub(in crate::fs) fn remember(&self, found: Node, attributes: Attributes) -> Entry {
        let (node, is_new) = self.nodes.remember(found);
        node.set_last_seen(attributes);
        let mut ttl = self.ttl_of(&node);
        if is_new {
            // A change since the lookup couldn't be invalidated while the kernel didn't hold the node. It has to ask
            // for the attributes again.
            ttl.attributes = Duration::ZERO;
        }
        Entry { id: node.id(), attributes: self.as_shown(&node, attributes), ttl }
    }

    /// Finds the view's entry `name` in `parent`, and its real attributes.
    pub(in crate::fs) fn find(&self, parent: &Arc<Node>, name: &OsStr) -> FsResult<(Node, Attributes)> {
        match self.view.child(parent.position(), name) {
            Child::Hidden => Err(Errno::ENOENT.into()),
            Child::Hierarchy(index) => self.hierarchy_top(parent, name, index),
            Child::Link { hierarchy, link } => self.link(parent, name, hierarchy, link),
            Child::Alias { name: alias } => self.alias(parent, name, alias),
            Child::HostPathAlias(position) => self.host_path_alias(parent, name, position),
            Child::Backing { otherwise, .. } => match self.host.child(parent, name) {
                Ok(attributes) => self.backing_child(parent, name, attributes),
                Err(Errno::ENOENT) => match otherwise {
                    Some(position) => self.host_path_alias(parent, name, position),
                    None => Err(Errno::ENOENT.into()),
                },
                Err(errno) => Err(errno.into()),
            },
        }
    }

    /// Finds the view's entry `name` in `parent`, given the attributes of the host's object of that name.
    pub(in crate::fs) fn backing_child(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        attributes: Attributes,
    ) -> FsResult<(Node, Attributes)> {
        let Child::Backing { directory, file, .. } = self.view.child(parent.position(), name) else {
            return Err(Errno::ENOENT.into());
        };
        let object = match (attributes.is_directory(), directory, file) {
            (true, Some(position), _) => (position, Object::Directory),
            (false, _, true) => (parent.position(), Object::File(classify(&self.view, parent, name))),
            _ => return Err(Errno::ENOENT.into()),
        };
        self.backing_node(parent, name, object, attributes)
    }

    fn backing_node(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        (position, object): (Position, Object),
        attributes: Attributes,
    ) -> FsResult<(Node, Attributes)> {
        if object == Object::Directory {
            self.check_boundary(position, &attributes)?;
        }
        let hierarchy = position.hierarchy.ok_or(Errno::ENOENT)?;
        let id = NodeId::backing(hierarchy, position.entry_path, attributes.inode).ok_or(Errno::EOVERFLOW)?;
        Ok((Node::child(parent, name, id, position, object, attributes.inode), attributes))
    }

    fn hierarchy_top(&self, parent: &Arc<Node>, name: &OsStr, index: usize) -> FsResult<(Node, Attributes)> {
        let position = self.view.top_of(index);
        let id = NodeId::top(index).ok_or(Errno::EOVERFLOW)?;
        let attributes = self.host.attributes(&Node::child(parent, name, id, position, Object::Directory, 0))?;
        self.check_boundary(position, &attributes)?;
        Ok((Node::child(parent, name, id, position, Object::Directory, attributes.inode), attributes))
    }

    fn link(&self, parent: &Arc<Node>, name: &OsStr, index: usize, link: usize) -> FsResult<(Node, Attributes)> {
        let target = self.view.hierarchy(index).ok_or(Errno::ENOENT)?.directory.clone();
        self.symlink(parent, name, NodeId::link(index, link), target)
    }

    /// Looks up a name at the top of a hierarchy that leads into the delegated subtree.
    fn alias(&self, parent: &Arc<Node>, name: &OsStr, alias: usize) -> FsResult<(Node, Attributes)> {
        let index = parent.position().hierarchy.ok_or(Errno::ENOENT)?;
        let links = self.view.hierarchy(index).ok_or(Errno::ENOENT)?.links.len();
        let target = self.view.alias_target(index, alias).ok_or(Errno::ENOENT)?;
        // The target is relative and never leads upwards: clients forbid symlinks that leave the hierarchy
        // (RESOLVE_BENEATH).
        let target = target.components().join(OsStr::new("/"));
        self.symlink(parent, name, NodeId::link(index, links + alias), target)
    }

    fn symlink(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        id: Option<NodeId>,
        target: OsString,
    ) -> FsResult<(Node, Attributes)> {
        let id = id.ok_or(Errno::EOVERFLOW)?;
        let node = Node::child(parent, name, id, parent.position(), Object::Link(target), id.as_u64());
        let attributes = self.synthetic_attributes(&node);
        Ok((node, attributes))
    }

    fn host_path_alias(&self, parent: &Arc<Node>, name: &OsStr, position: Position) -> FsResult<(Node, Attributes)> {
        let index = position.hierarchy.ok_or(Errno::ENOENT)?;
        if position.role == Role::Boundary {
            let asking = Node::child(parent, name, ROOT_ID, position, Object::Directory, 0);
            let attributes = self.host.attributes(&asking)?;
            self.check_boundary(position, &attributes)?;
            let id = NodeId::backing(index, EntryPath::HostPathAlias, attributes.inode).ok_or(Errno::EOVERFLOW)?;
            return Ok((Node::child(parent, name, id, position, Object::Directory, attributes.inode), attributes));
        }
        let Role::HostPathStep { depth } = position.role else {
            return Err(Errno::ENOENT.into());
        };
        let id = NodeId::host_path_step(index, depth).ok_or(Errno::EOVERFLOW)?;
        let node = Node::child(parent, name, id, position, Object::Synthetic, id.as_u64());
        let attributes = self.synthetic_attributes(&node);
        Ok((node, attributes))
    }

    fn synthetic_attributes(&self, node: &Node) -> Attributes {
        let (mode, size) = match node.object() {
            Object::Link(target) => (libc::S_IFLNK | 0o777, target.len() as u64),
            _ => (libc::S_IFDIR | SYNTHETIC_MODE, 0),
        };
        let links = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
        Attributes { inode: node.inode(), mode, uid: 0, gid: 0, links, size, block_size: 4096, times: [self.born; 3] }
    }

    /// Returns the attributes with the mode that the view shows.
    pub(in crate::fs) fn as_shown(&self, node: &Node, mut attributes: Attributes) -> Attributes {
        if matches!(node.object(), Object::File(_)) {
            attributes.size = self.size_shown(node, &attributes);
        }
        if !matches!(node.object(), Object::Link(_)) {
            let name = node.name();
            let node = self.as_policy_sees(node.position(), crate::fs::cgroup_fs::subject(node, &name));
            attributes.mode = policy::shown_mode(&self.view.rules, &node, attributes.mode);
        }
        if self.hides_its_neighbours(node) {
            // The real numbers would reveal how many cgroups are hidden here, and when one comes or goes.
            attributes.links = 2 + u32::from(matches!(node.position().role, Role::Ancestor { .. }));
            attributes.times = [self.born; 3];
            if node.is_watched() {
                return attributes;
            }
        }
        if *node.object() == Object::Directory {
            let [_, modified, _] = &mut attributes.times;
            *modified = modified.checked_add(Duration::from_nanos(node.changes())).unwrap_or(*modified);
        }
        attributes
    }

    /// Whether it's a directory in which the host has cgroups that the view hides.
    fn hides_its_neighbours(&self, node: &Node) -> bool {
        *node.object() == Object::Directory
            && match node.position().role {
                Role::Ancestor { .. } => self.view.shape != Shape::Full,
                Role::HostRoot => true,
                Role::Top | Role::HostPathStep { .. } | Role::Boundary | Role::Inside | Role::Foreign => false,
            }
    }

    /// Returns the attributes of a node, and how long the kernel may cache them. An open file has them even when its
    /// cgroup is gone.
    pub fn attributes(&self, id: NodeId, handle: Option<HandleId>) -> FsResult<(Attributes, Duration)> {
        let node = self.node(id)?;
        self.watch(&node);
        if *node.object() == Object::Directory && !node.is_watched() {
            // The kernel keeps every listing for as long as the directory's modification time stays the same.
            node.count_change();
        }
        let ttl = self.ttl_of(&node).attributes;
        if let Some(open) = handle.and_then(|handle| self.handles.get(handle)) {
            return Ok((self.as_shown(&node, self.host.file_attributes(&open.backing)?), ttl));
        }
        let attributes = match node.object() {
            Object::Synthetic | Object::Link(_) => self.synthetic_attributes(&node),
            Object::Directory | Object::File(_) => match (self.host.attributes(&node), node.last_seen()) {
                (Ok(attributes), _) => {
                    node.set_last_seen(attributes);
                    attributes
                }
                // It's removed, but somebody holds it open: kernfs still returns attributes.
                (Err(Errno::ENOENT), Some(last_seen)) => without_children(last_seen),
                (Err(errno), _) => return Err(errno.into()),
            },
        };
        Ok((self.as_shown(&node, attributes), ttl))
    }

    /// Returns the attributes of an open file, as [`CgroupFs::attributes`] does.
    pub fn file_attributes(&self, handle: HandleId) -> FsResult<(Attributes, Duration)> {
        let open = self.handles.get(handle).ok_or(Errno::EBADF)?;
        Ok((self.as_shown(&open.node, self.host.file_attributes(&open.backing)?), self.ttl_of(&open.node).attributes))
    }

    /// The target of a symlink.
    pub fn link_target(&self, id: NodeId) -> FsResult<OsString> {
        match self.node(id)?.object() {
            Object::Link(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Drops references that the kernel held to a node. Returns whether these were the last.
    pub fn forget(&self, id: NodeId, lookups: u64) -> bool {
        let forgotten = self.nodes.forget(id, lookups);
        if let Some(node) = &forgotten {
            self.host.forget(node);
            self.listings.remove(id);
        }
        forgotten.is_some()
    }

    /// Sets how many lookups of each node the kernel has.
    pub(in crate::fs) fn set_lookups(&self, lookups: impl Fn(NodeId) -> u64) {
        for node in self.nodes.set_lookups(lookups) {
            self.host.forget(&node);
            self.listings.remove(node.id());
        }
    }

    /// Drops a node that the kernel turned out not to hold, if it's still as it was then.
    pub(in crate::fs) fn forget_unchanged(&self, held: &HeldNode) {
        if let Some(node) = self.nodes.forget_unchanged(held) {
            self.host.forget(&node);
            self.listings.remove(held.id);
        }
    }

    /// Statistics of a filesystem (statfs(2)).
    pub fn statistics(&self, id: NodeId) -> FsResult<Statistics> {
        let hierarchy = self.node(id)?.position().hierarchy.unwrap_or(0);
        Ok(self.host.statistics(hierarchy)?)
    }
}

/// Returns the attributes of a removed cgroup, which has no children.
fn without_children(attributes: Attributes) -> Attributes {
    let links = if attributes.is_directory() { 2 } else { attributes.links };
    Attributes { links, ..attributes }
}
