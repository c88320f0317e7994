//! Records of nodes that the kernel holds, and of those above them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cells::{CellNumber, TextRef};
use super::layout::Kind;
use super::layout::details::{EXTRA, MODE, OWNER, SIZE, TIMES};
use super::layout::node::{
    DETAILS, HAS_ATTRIBUTES, HAS_TARGET, ID, INODE, IS_TOLD, LOOKUPS, NAME, OBJECT_SHIFT, PARENT, POSITION,
};
use super::store::Records;

/// A node's attributes, as they were last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAttributes {
    /// The owner's user and group id.
    pub owner: [u32; 2],
    /// Type and permission bits.
    pub mode: u32,
    /// The number of links.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// Access, modification and change time, in nanoseconds since 1970.
    pub times: [i64; 3],
}

/// What the record of a node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Its id in the filesystem.
    pub id: u64,
    /// The inode number of the backing object.
    pub inode: u64,
    /// What it is, as the filesystem numbers it.
    pub object: u8,
    /// Where it stands in the view, as the filesystem encodes it.
    pub position: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// A symlink's target.
    pub target: Option<Vec<u8>>,
    /// Which of several filesystems it belongs to.
    pub scope: u32,
}

/// A node as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedNode {
    /// The number of its record.
    pub number: u32,
    /// The number of its directory's record; 0 for the root.
    pub parent: u32,
    /// What it is.
    pub state: NodeState,
    /// How many lookups of it the kernel has; 0 if it holds only something below.
    pub lookups: u64,
    /// Its attributes, if any were seen.
    pub attributes: Option<NodeAttributes>,
    /// The number that the filesystem has noted ([`NodeRecord::set_extra`]).
    pub extra: u64,
}

/// The record of a node, which is dropped with this.
#[derive(Debug)]
pub struct NodeRecord {
    records: Arc<Records>,
    cell: CellNumber,
}

impl Records {
    /// Makes the record of a node in the directory with the record `parent` (`None` for the root). `None` if there's no
    /// room.
    pub fn add_node(
        self: &Arc<Self>,
        parent: Option<&NodeRecord>,
        state: &NodeState,
        lookups: u64,
    ) -> Option<NodeRecord> {
        let (cell, details) = (self.cells.take()?, self.cells.take()?);
        let texts = (self.cells.put_text(&state.name), state.target.as_deref().map(|text| self.cells.put_text(text)));
        let (Some(name), target @ (None | Some(Some(_)))) = texts else {
            [cell, details].into_iter().for_each(|cell| self.cells.give_back(cell));
            return None;
        };
        let (target, flags) = target.flatten().map_or((0, 0), |target| (target.0, HAS_TARGET));
        self.cells.store(details, EXTRA, target);
        self.cells.store(details, 0, Kind::Part as u64);
        let words = [
            (ID, state.id),
            (LOOKUPS, lookups),
            (PARENT, parent.map_or(0, |parent| u64::from(parent.cell)) | u64::from(state.scope) << 32),
            (INODE, state.inode),
            (NAME, name.0),
            (DETAILS, u64::from(details)),
            (POSITION, state.position),
        ];
        words.into_iter().for_each(|(index, value)| self.cells.store(cell, index, value));
        self.cells.store(cell, 0, Kind::Node as u64 | flags | u64::from(state.object) << OBJECT_SHIFT);
        Some(NodeRecord { records: Arc::clone(self), cell })
    }

    /// The nodes that an earlier server left, in any order.
    pub fn nodes(&self) -> Vec<SavedNode> {
        self.cells.all(Kind::Node).into_iter().map(|cell| self.node(cell)).collect()
    }

    fn node(&self, cell: CellNumber) -> SavedNode {
        let word = |index| self.cells.load(cell, index);
        let details = self.cells.details(cell);
        let detail = |index| self.cells.load(details, index);
        let halves = |word: u64| [(word >> 32) as u32, word as u32];
        let target = self.cells.target(cell).map(|target| self.cells.text(target));
        let [mode, links] = halves(detail(MODE));
        let attributes = NodeAttributes {
            owner: halves(detail(OWNER)),
            mode,
            links,
            size: detail(SIZE),
            times: TIMES.map(|index| detail(index).cast_signed()),
        };
        SavedNode {
            number: cell,
            parent: word(PARENT) as CellNumber,
            lookups: word(LOOKUPS),
            attributes: (word(0) & HAS_ATTRIBUTES != 0).then_some(attributes),
            extra: if target.is_some() { 0 } else { detail(EXTRA) },
            state: NodeState {
                id: word(ID),
                inode: word(INODE),
                object: (word(0) >> OBJECT_SHIFT) as u8,
                position: word(POSITION),
                name: self.cells.text(TextRef(word(NAME))),
                target,
                scope: (word(PARENT) >> 32) as u32,
            },
        }
    }

    /// Takes over the record of a node that an earlier server left.
    pub fn take_over_node(self: &Arc<Self>, node: &SavedNode) -> NodeRecord {
        NodeRecord { records: Arc::clone(self), cell: node.number }
    }

    /// Drops the record of a node that an earlier server left.
    pub fn drop_node(self: &Arc<Self>, node: &SavedNode) {
        drop(self.take_over_node(node));
    }
}

impl NodeRecord {
    /// Its number.
    pub fn number(&self) -> u32 {
        self.cell
    }

    /// The number of its watch.
    pub fn watch(&self) -> Option<i32> {
        let watch = (self.records.cells.load(self.cell, DETAILS) >> 32) as u32;
        (watch != 0).then_some(watch.cast_signed())
    }

    /// Whether watchers know which cgroups are in it.
    pub fn is_told(&self) -> bool {
        self.records.cells.load(self.cell, 0) & IS_TOLD != 0
    }

    /// Notes how many lookups the kernel has.
    pub fn set_lookups(&self, lookups: u64) {
        self.records.cells.store(self.cell, LOOKUPS, lookups);
    }

    /// Notes its new name. Without room the old one stays.
    pub fn rename(&self, name: &[u8]) {
        let cells = &self.records.cells;
        if let Some(text) = cells.put_text(name) {
            let before = TextRef(cells.load(self.cell, NAME));
            cells.store(self.cell, NAME, text.0);
            cells.drop_text(before);
        }
    }

    /// Notes its attributes.
    pub fn set_attributes(&self, seen: &NodeAttributes) {
        let cells = &self.records.cells;
        let details = cells.details(self.cell);
        let word = |[high, low]: [u32; 2]| u64::from(high) << 32 | u64::from(low);
        cells.store(details, OWNER, word(seen.owner));
        cells.store(details, MODE, word([seen.mode, seen.links]));
        cells.store(details, SIZE, seen.size);
        for (index, time) in TIMES.into_iter().zip(seen.times) {
            cells.store(details, index, time.cast_unsigned());
        }
        self.set_flag(HAS_ATTRIBUTES);
    }

    /// Notes the number of its watch.
    pub fn set_watch(&self, watch: i32) {
        let cells = &self.records.cells;
        let details = cells.load(self.cell, DETAILS) & u64::from(u32::MAX);
        cells.store(self.cell, DETAILS, details | u64::from(watch.cast_unsigned()) << 32);
    }

    /// Notes a number of the filesystem's. Not for a symlink.
    pub fn set_extra(&self, number: u64) {
        let cells = &self.records.cells;
        cells.store(cells.details(self.cell), EXTRA, number);
    }

    /// Notes that watchers know which cgroups are in it.
    pub fn set_told(&self) {
        self.set_flag(IS_TOLD);
    }

    fn set_flag(&self, flag: u64) {
        if let Some(word) = self.records.cells.word(self.cell, 0)
            && word.load(Ordering::Relaxed) & flag == 0
        {
            word.fetch_or(flag, Ordering::AcqRel);
        }
    }
}

impl Drop for NodeRecord {
    fn drop(&mut self) {
        let cells = &self.records.cells;
        let (name, details, target) = (cells.load(self.cell, NAME), cells.details(self.cell), cells.target(self.cell));
        cells.give_back(self.cell);
        cells.drop_text(TextRef(name));
        target.into_iter().for_each(|target| cells.drop_text(target));
        cells.give_back(details);
    }
}
