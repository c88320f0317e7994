//! The ids under which the kernel knows the nodes of all containers.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};

use super::container::Container;
use crate::fs::Host;
use crate::fs::inode::{HeldNode, NodeId, ROOT_ID};
use crate::records::{EntryRecord, Records};

/// The nodes that the kernel was given.
#[derive(Debug)]
pub(in crate::fs) struct Nodes<H: Host> {
    /// A counter that only grows.
    last: u64,
    /// Hashes the counter into ids that nobody can guess. With CAP_DAC_READ_SEARCH, open_by_handle_at(2) opens what
    /// the kernel holds by its id alone, and the opened file has a path in `/proc/self/fd`.
    secret: RandomState,
    known: HashMap<NodeId, KernelNode<H>>,
    /// The kernel's node ids, by container and by the id there.
    numbers: HashMap<(u64, NodeId), NodeId>,
    /// What the next server needs to know.
    records: Arc<Records>,
}

#[derive(Debug)]
struct KernelNode<H: Host> {
    container: Arc<Container<H>>,
    inner: NodeId,
    lookups: u64,
    record: Option<EntryRecord>,
}

impl<H: Host> KernelNode<H> {
    fn set_lookups(&mut self, lookups: u64) {
        self.lookups = lookups;
        if let Some(record) = &self.record {
            record.set_lookups(lookups);
        }
    }
}

impl<H: Host> Nodes<H> {
    /// The nodes that an earlier server has recorded, of these containers.
    pub(in crate::fs) fn new(records: &Arc<Records>, containers: &[Arc<Container<H>>]) -> Self {
        let secret = RandomState::new();
        let mut nodes =
            Self { last: 0, secret, known: HashMap::new(), numbers: HashMap::new(), records: Arc::clone(records) };
        let by_number: HashMap<u64, &Arc<Container<H>>> =
            containers.iter().map(|container| (container.number, container)).collect();
        for saved in records.entries() {
            let record = records.take_over_entry(&saved);
            let Some(container) = by_number.get(&saved.container) else { continue };
            let (number, inner) = (NodeId::from_u64(saved.number), NodeId::from_u64(saved.inner));
            if saved.lookups > 0 && container.fs.knows(inner) {
                let (container, lookups) = (Arc::clone(container), saved.lookups);
                nodes.numbers.insert((container.number, inner), number);
                nodes.known.insert(number, KernelNode { container, inner, lookups, record: Some(record) });
            }
        }
        // A server that was killed may have counted a lookup in one of the two tables only, and looked names up for itself.
        for container in containers {
            container.fs.set_lookups(|inner| {
                let number = nodes.numbers.get(&(container.number, inner));
                number.and_then(|number| nodes.known.get(number)).map_or(0, |known| known.lookups)
            });
        }
        nodes
    }

    /// Counts a lookup whose answer is about to be sent, and returns the id for the answer.
    pub(in crate::fs) fn count_lookup(&mut self, container: &Arc<Container<H>>, inner: NodeId) -> NodeId {
        if inner == ROOT_ID {
            return ROOT_ID;
        }
        let key = (container.number, inner);
        let number = self.numbers.get(&key).copied().unwrap_or_else(|| self.unused());
        self.numbers.insert(key, number);
        let known = self.known.entry(number).or_insert_with(|| {
            let record = self.records.add_entry(number.as_u64(), container.number, inner.as_u64());
            KernelNode { container: Arc::clone(container), inner, lookups: 0, record }
        });
        known.set_lookups(known.lookups + 1);
        number
    }

    /// Returns an unused id. That it was used before is as improbable as a right guess.
    fn unused(&mut self) -> NodeId {
        loop {
            self.last = self.last.wrapping_add(1);
            let number = NodeId::from_u64(self.secret.hash_one(self.last));
            // FUSE uses id 0 for names that don't exist.
            if number.as_u64() > ROOT_ID.as_u64() && !self.known.contains_key(&number) {
                return number;
            }
        }
    }

    /// Returns the container of an id, and the node's id there.
    pub(in crate::fs) fn get(&self, number: NodeId) -> Option<(Arc<Container<H>>, NodeId)> {
        self.known.get(&number).map(|known| (Arc::clone(&known.container), known.inner))
    }

    /// Drops `lookups` references of the kernel. Returns the container, the id there, and whether these were the
    /// last.
    ///
    /// The container counts for itself and is told afterwards: both count a lookup in between, under a new id.
    pub(in crate::fs) fn forget(&mut self, number: NodeId, lookups: u64) -> Option<(Arc<Container<H>>, NodeId, bool)> {
        let known = self.known.get_mut(&number)?;
        known.set_lookups(known.lookups.saturating_sub(lookups));
        let (container, inner, is_last) = (Arc::clone(&known.container), known.inner, known.lookups == 0);
        if is_last {
            self.known.remove(&number);
            self.numbers.remove(&(container.number, inner));
        }
        Some((container, inner, is_last))
    }

    /// All nodes, each with its lookups.
    pub(in crate::fs) fn held(&self) -> Vec<HeldNode> {
        let held =
            |(id, known): (&NodeId, &KernelNode<H>)| HeldNode { id: *id, lookups: known.lookups, node: Weak::new() };
        self.known.iter().map(held).collect()
    }

    /// Whether the kernel has been told of no more lookups of a node, and has forgotten none.
    pub(in crate::fs) fn is_unchanged(&self, held: &HeldNode) -> bool {
        self.known.get(&held.id).is_some_and(|known| known.lookups == held.lookups)
    }

    /// Returns how many nodes the kernel holds.
    pub(in crate::fs) fn len(&self) -> usize {
        self.known.len()
    }
}
