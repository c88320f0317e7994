//! The numbers by which the kernel knows the nodes of all containers.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::Host;
use super::Container;
use crate::view::{NodeId, ROOT_ID};

/// What the kernel was told of.
#[derive(Debug)]
pub(super) struct Nodes<H: Host> {
    /// Counts up for ever: a number that meant something never means anything else.
    last: u64,
    known: HashMap<NodeId, Known<H>>,
    /// The same by container and by its own number there.
    numbers: HashMap<(u64, NodeId), NodeId>,
}

#[derive(Debug)]
struct Known<H: Host> {
    container: Arc<Container<H>>,
    inner: NodeId,
    lookups: u64,
}

impl<H: Host> Default for Nodes<H> {
    fn default() -> Self {
        Self { last: ROOT_ID.as_u64(), known: HashMap::new(), numbers: HashMap::new() }
    }
}

impl<H: Host> Nodes<H> {
    /// Counts a lookup that the kernel is about to be told of, and returns the number to tell.
    pub(super) fn tell(&mut self, container: &Arc<Container<H>>, inner: NodeId) -> NodeId {
        if inner == ROOT_ID {
            return ROOT_ID;
        }
        let number = *self.numbers.entry((container.number, inner)).or_insert_with(|| {
            self.last += 1;
            NodeId::from_u64(self.last)
        });
        let known = Known { container: Arc::clone(container), inner, lookups: 0 };
        self.known.entry(number).or_insert(known).lookups += 1;
        number
    }

    /// Whose node a number is, and its number there.
    pub(super) fn get(&self, number: NodeId) -> Option<(Arc<Container<H>>, NodeId)> {
        self.known.get(&number).map(|known| (Arc::clone(&known.container), known.inner))
    }

    /// The kernel drops `lookups` references: whose node it is, its number there, and whether these were the last.
    ///
    /// The container counts for itself, and is told after this: a lookup in between is counted by both, under a new number.
    pub(super) fn forget(&mut self, number: NodeId, lookups: u64) -> Option<(Arc<Container<H>>, NodeId, bool)> {
        let known = self.known.get_mut(&number)?;
        known.lookups = known.lookups.saturating_sub(lookups);
        let (container, inner, is_last) = (Arc::clone(&known.container), known.inner, known.lookups == 0);
        if is_last {
            self.known.remove(&number);
            self.numbers.remove(&(container.number, inner));
        }
        Some((container, inner, is_last))
    }

    /// How many the kernel holds.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
