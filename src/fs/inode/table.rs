//! The nodes that the kernel holds, by id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::{Node, NodeId, ROOT_ID};
use crate::cgroup::FileClass;
use crate::records::{NodeRecord, Records, SavedNode};

/// The inode table. A node is in it from the first lookup that was answered until the kernel forgets the last one.
#[derive(Debug)]
pub struct NodeTable {
    root: Arc<Node>,
    /// No system call is made while it's held, and only names and children of nodes are locked.
    nodes: RwLock<HashMap<NodeId, TableEntry>>,
    /// What the next server needs to know of it.
    records: Arc<Records>,
    /// Which of several tables with the same records it is.
    scope: u32,
}

/// A node as it was at some time.
#[derive(Clone, Debug)]
pub struct HeldNode {
    /// Its id.
    pub id: NodeId,
    /// How many lookups the kernel had.
    pub lookups: u64,
    /// The node, if the id could come to mean another one.
    pub(in crate::fs) node: Weak<Node>,
}

#[derive(Debug)]
struct TableEntry {
    node: Arc<Node>,
    lookups: u64,
}

impl TableEntry {
    fn count(&mut self, lookups: u64) {
        self.set_lookups(self.lookups + lookups);
    }

    fn set_lookups(&mut self, lookups: u64) {
        self.lookups = lookups;
        if let Some(record) = self.node.record() {
            record.set_lookups(lookups);
        }
    }
}

impl NodeTable {
    /// A table that holds the root, and the nodes that an earlier server has recorded in this scope. Also returns all
    /// recorded nodes, by the numbers of their records.
    pub fn new(
        root: Node,
        (records, scope): (Arc<Records>, u32),
        saved: Vec<SavedNode>,
        classify: impl Fn(&Node, &OsStr) -> FileClass,
    ) -> (Self, HashMap<u32, Arc<Node>>) {
        let root = Arc::new(root);
        match saved.iter().find(|node| node.parent == 0) {
            Some(saved) => root.set_record(records.take_over_node(saved)),
            None => root.keep_record(&records, scope, 1),
        }
        let table = Self { root, nodes: RwLock::default(), records, scope };
        let restored = table.restore(saved, classify);
        (table, restored)
    }

    /// Restores the nodes that an earlier server has recorded.
    fn restore(&self, saved: Vec<SavedNode>, classify: impl Fn(&Node, &OsStr) -> FileClass) -> HashMap<u32, Arc<Node>> {
        let mut left: HashMap<u32, SavedNode> =
            saved.into_iter().filter(|node| node.parent != 0).map(|node| (node.number, node)).collect();
        let root = self.root.record().map(NodeRecord::number);
        let mut done: HashMap<u32, Arc<Node>> =
            root.map(|number| (number, Arc::clone(&self.root))).into_iter().collect();
        let mut nodes = self.nodes.write();
        // Each one after its directory.
        while let Some(mut number) = left.keys().next().copied() {
            let mut below = Vec::new();
            while let Some(saved) = left.remove(&number) {
                number = saved.parent;
                below.push(saved);
            }
            let mut parent = done.get(&number).map(Arc::clone);
            for saved in below.into_iter().rev() {
                let restored = parent.as_ref().and_then(|parent| Node::restored(parent, &saved, &classify));
                let Some(node) = restored.map(Arc::new) else {
                    parent = None;
                    self.records.drop_node(&saved);
                    continue;
                };
                node.set_record(self.records.take_over_node(&saved));
                done.insert(saved.number, Arc::clone(&node));
                if saved.lookups > 0 {
                    node.note_held();
                    nodes.insert(node.id(), TableEntry { node: Arc::clone(&node), lookups: saved.lookups });
                } else {
                    node.note_dropped();
                }
                parent = Some(node);
            }
        }
        done
    }

    /// The root, which is never forgotten.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// Returns the node with this id.
    pub fn get(&self, id: NodeId) -> Option<Arc<Node>> {
        if id == ROOT_ID {
            return Some(Arc::clone(&self.root));
        }
        self.nodes.read().get(&id).map(|known| Arc::clone(&known.node))
    }

    /// Counts a lookup whose answer is about to be sent. Returns the node for the answer, which is the known one if
    /// there is one, and whether it's new.
    ///
    /// If a known node has another name than the found one, it takes that name: the host has renamed the cgroup.
    pub fn remember(&self, found: Node) -> (Arc<Node>, bool) {
        let mut nodes = self.nodes.write();
        match nodes.entry(found.id()) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.count(1);
                let name = found.name();
                if known.node.name() != name {
                    known.node.rename(&name);
                }
                known.node.set_gone(false);
                (Arc::clone(&known.node), false)
            }
            Entry::Vacant(entry) => {
                let node = Arc::new(found);
                node.note_held();
                node.keep_record(&self.records, self.scope, 1);
                entry.insert(TableEntry { node: Arc::clone(&node), lookups: 1 });
                (node, true)
            }
        }
    }

    /// Counts a lookup of a known node, without asking the host.
    pub fn count(&self, id: NodeId) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.write();
        let known = nodes.get_mut(&id)?;
        known.count(1);
        Some(Arc::clone(&known.node))
    }

    /// Returns all directories that the kernel holds, or holds an entry of.
    pub fn directories(&self) -> Vec<Arc<Node>> {
        let nodes = self.nodes.read();
        let known = nodes.values().map(|known| &known.node);
        let parents = known.clone().filter_map(|node| node.parent());
        let mut found: HashMap<NodeId, &Arc<Node>> = parents.map(|node| (node.id(), node)).collect();
        // Directories of the table take precedence over those that are only found as parents.
        found.extend(known.filter(|node| node.is_directory()).map(|node| (node.id(), node)));
        found.insert(self.root.id(), &self.root);
        found.into_values().map(Arc::clone).collect()
    }

    /// Returns the directories with this hierarchy and inode number that the kernel has forgotten, while it still
    /// holds one of their entries.
    pub fn forgotten_parents(&self, hierarchy: usize, inode: u64) -> Vec<Arc<Node>> {
        let mut found: Vec<Arc<Node>> = Vec::new();
        for known in self.nodes.read().values() {
            let Some(parent) = known.node.parent() else { continue };
            let is_it = parent.position().hierarchy == Some(hierarchy) && parent.inode() == inode;
            if is_it && !found.iter().any(|other| other.id() == parent.id()) {
                found.push(Arc::clone(parent));
            }
        }
        found
    }

    /// Drops `lookups` references of the kernel. Returns the node if they were the last.
    pub fn forget(&self, id: NodeId, lookups: u64) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.write();
        let Entry::Occupied(mut entry) = nodes.entry(id) else {
            return None;
        };
        let known = entry.get_mut();
        known.set_lookups(known.lookups.saturating_sub(lookups));
        if known.lookups > 0 {
            return None;
        }
        let node = entry.remove().node;
        node.note_dropped();
        // A table that once held ten thousand cgroups needn't stay that large.
        if nodes.capacity() > 1024 && nodes.len() < nodes.capacity() / 8 {
            nodes.shrink_to(0);
        }
        Some(node)
    }

    /// Sets how many lookups of each node the kernel has. Forgets those of which it has none, and returns them.
    pub fn set_lookups(&self, lookups: impl Fn(NodeId) -> u64) -> Vec<Arc<Node>> {
        let mut forgotten = Vec::new();
        self.nodes.write().retain(|id, known| {
            let lookups = lookups(*id);
            known.set_lookups(lookups);
            if lookups == 0 {
                known.node.note_dropped();
                forgotten.push(Arc::clone(&known.node));
            }
            lookups > 0
        });
        forgotten
    }

    /// All nodes but the root, each with its lookups.
    pub fn held(&self) -> Vec<HeldNode> {
        let nodes = self.nodes.read();
        let held = |(id, known): (&NodeId, &TableEntry)| HeldNode {
            id: *id,
            lookups: known.lookups,
            node: Arc::downgrade(&known.node),
        };
        nodes.iter().map(held).collect()
    }

    /// Forgets a node if it's still as it was then. Returns it.
    pub fn forget_unchanged(&self, held: &HeldNode) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.write();
        let Entry::Occupied(entry) = nodes.entry(held.id) else {
            return None;
        };
        let known = entry.get();
        let is_unchanged = known.lookups == held.lookups && Arc::as_ptr(&known.node) == held.node.as_ptr();
        is_unchanged.then(|| entry.remove().node).inspect(|node| node.note_dropped())
    }

    /// All nodes but the root.
    pub fn all(&self) -> Vec<Arc<Node>> {
        self.nodes.read().values().map(|known| Arc::clone(&known.node)).collect()
    }

    /// The nodes that were found in this directory.
    pub fn children(&self, directory: &Node) -> Vec<Arc<Node>> {
        directory.child_ids().into_iter().filter_map(|id| self.get(id)).collect()
    }

    /// The node that was found in this directory under that name.
    pub fn child(&self, directory: &Node, name: &OsStr) -> Option<Arc<Node>> {
        self.get(directory.child_id(name)?)
    }

    /// Notes that the object of a node was renamed.
    pub fn rename(&self, id: NodeId, name: &OsStr) {
        // The lock keeps the kernel from forgetting the node meanwhile, which would leave its name in the directory
        // for ever.
        if let Some(known) = self.nodes.write().get(&id) {
            known.node.rename(&name.into());
        }
    }

    /// How many nodes it holds besides the root.
    pub fn len(&self) -> usize {
        self.nodes.read().len()
    }

    /// Whether it holds none but the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::Object;
    use crate::view::{EntryPath, Position, Role};

    fn table() -> NodeTable {
        NodeTable::new(
            Node::root(ROOT_ID, Position::VIEW_ROOT, Object::Synthetic, 1),
            (Records::none(), 0),
            Vec::new(),
            |_, _| FileClass::Unknown,
        )
        .0
    }

    fn child(table: &NodeTable, name: &str, inode: u64) -> Node {
        let id = NodeId::backing(0, EntryPath::Main, inode).unwrap();
        let position = Position { hierarchy: Some(0), entry_path: EntryPath::Main, role: Role::Inside };
        Node::child(table.root(), OsStr::new(name), id, position, Object::Directory, inode)
    }

    #[test]
    fn forgets_with_the_last_lookup() {
        let table = table();
        let id = table.remember(child(&table, "a", 7)).0.id();
        table.remember(child(&table, "a", 7));
        assert!(table.forget(id, 1).is_none());
        assert!(table.get(id).is_some());
        assert!(table.forget(id, 1).is_some());
        assert!(table.get(id).is_none() && table.is_empty());
        assert!(table.forget(id, 1).is_none(), "a surplus forget does nothing");
        assert!(table.forget(ROOT_ID, 1).is_none() && table.get(ROOT_ID).is_some());
    }

    #[test]
    fn only_what_has_not_changed_is_forgotten() {
        let table = table();
        let [same, looked_up, made_again] = ["same", "looked_up", "made_again"].map(|name| {
            let node = table.remember(child(&table, name, 7 + name.len() as u64)).0;
            table.held().into_iter().find(|held| held.id == node.id()).unwrap()
        });
        table.count(looked_up.id);
        table.forget(made_again.id, 1);
        table.remember(child(&table, "made_again", 17));
        let forgotten = [same, looked_up, made_again].map(|held| table.forget_unchanged(&held).is_some());
        assert_eq!((forgotten, table.len()), ([true, false, false], 2));
    }

    #[test]
    fn paths_follow_renames() {
        let table = table();
        let (a, _) = table.remember(child(&table, "a", 7));
        let below = Node::child(
            &a,
            OsStr::new("b"),
            NodeId::backing(0, EntryPath::Main, 8).unwrap(),
            a.position(),
            Object::Directory,
            8,
        );
        let (b, _) = table.remember(below);
        assert_eq!(b.view_path(), "/a/b");
        table.remember(child(&table, "renamed", 7));
        assert_eq!(b.view_path(), "/renamed/b");
        assert_eq!(table.root().view_path(), "/");
    }

    /// A tree as deep as a container can make it, of which the kernel holds only the deepest node, and forgets it.
    #[test]
    fn a_deep_tree_takes_no_deep_stack() {
        let table = table();
        let (mut at, _) = table.remember(child(&table, "a", 2));
        for inode in 3..300_000 {
            let id = NodeId::backing(0, EntryPath::Main, inode).unwrap();
            let below = Node::child(&at, OsStr::new("a"), id, at.position(), Object::Directory, inode);
            let above = std::mem::replace(&mut at, table.remember(below).0);
            table.forget(above.id(), 1);
        }
        let last = at.id();
        drop(at);
        assert_eq!(table.len(), 1);
        drop(table.forget(last, 1));
        assert!(table.is_empty());
    }

    #[test]
    fn shrinks() {
        let table = table();
        let ids: Vec<_> =
            (2..5000).map(|inode| table.remember(child(&table, &inode.to_string(), inode)).0.id()).collect();
        for id in ids {
            table.forget(id, 1);
        }
        assert!(table.nodes.read().capacity() < 1024);
    }
}
