//! Node ids.
//!
//! A node id is made from (hierarchy, entry path, kernfs id), so that a server that restarts could rebuild its table
//! from the ids that the kernel asks for, without saved state. Nodes without a backing object have a reserved entry
//! path.
//!
//! ```text
//! 63        58 57   56 55                                   0
//! hierarchy    entry   kernfs id, or a number of our own
//!              path
//! ```

use crate::view::EntryPath;

/// FUSE's id of the root (`FUSE_ROOT_ID`).
pub const ROOT_ID: NodeId = NodeId(1);

const ENTRY_PATH_SHIFT: u32 = 56;
const HIERARCHY_SHIFT: u32 = 58;
const NUMBER_MASK: u64 = (1 << ENTRY_PATH_SHIFT) - 1;
const RESERVED_ENTRY_PATH: u64 = 3;

/// The maximum number of hierarchies that ids can represent.
pub(crate) const MAX_HIERARCHIES: usize = 63;

/// The id under which the kernel knows a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

impl NodeId {
    /// The id of a backing object, by its inode number. `None` if the numbers don't fit: kernfs counts up to 2^31 with a generation
    /// above that (`kernfs_new_node`), which would have to wrap 2^24 times.
    pub fn backing(hierarchy: usize, entry_path: EntryPath, inode: u64) -> Option<Self> {
        let entry_path = match entry_path {
            EntryPath::Main => 0,
            EntryPath::HostPathAlias => 1,
        };
        (hierarchy < MAX_HIERARCHIES && inode <= NUMBER_MASK).then(|| Self::compose(hierarchy, entry_path, inode))
    }

    /// Returns the id of the alias' component at this depth.
    pub fn host_path_step(hierarchy: usize, depth: usize) -> Option<Self> {
        (hierarchy < MAX_HIERARCHIES).then(|| Self::compose(hierarchy, RESERVED_ENTRY_PATH, depth as u64))
    }

    /// The inode number of the root of a legacy or hybrid view. It mustn't be 1, which is the number of a top
    /// directory that is a host's root: a tool that walks the tree would take the directory for its own parent.
    pub const fn view_root_inode() -> u64 {
        RESERVED_ENTRY_PATH << ENTRY_PATH_SHIFT
    }

    /// The id of the top directory of a hierarchy in a legacy or hybrid view.
    pub fn top(hierarchy: usize) -> Option<Self> {
        const TOP: u64 = 1 << 33;
        (hierarchy < MAX_HIERARCHIES).then(|| Self::compose(hierarchy, RESERVED_ENTRY_PATH, TOP))
    }

    /// The id of a symlink in the view's root.
    pub fn link(hierarchy: usize, link: usize) -> Option<Self> {
        const LINKS: u64 = 1 << 32;
        (hierarchy < MAX_HIERARCHIES).then(|| Self::compose(hierarchy, RESERVED_ENTRY_PATH, LINKS + link as u64))
    }

    /// Returns the id of a placeholder for a removed object, which only the server itself sees.
    pub fn placeholder(number: u64) -> Self {
        const PLACEHOLDERS: u64 = 1 << 34;
        Self::compose(0, RESERVED_ENTRY_PATH, PLACEHOLDERS + number % PLACEHOLDERS)
    }

    // In the hierarchy with number 0 (cgroup2 if the host has it) the main entry path's ids are the kernfs ids. None
    // of them is FUSE's root id: kernfs counts from 1, and 1 is the root of the hierarchy, which has the id `top` or
    // is the view's root.
    fn compose(hierarchy: usize, entry_path: u64, number: u64) -> Self {
        Self((hierarchy as u64) << HIERARCHY_SHIFT | entry_path << ENTRY_PATH_SHIFT | number)
    }

    /// The id as FUSE's number.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The id with FUSE's number, which may name nothing.
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds() {
        assert!(NodeId::backing(MAX_HIERARCHIES, EntryPath::Main, 1).is_none());
        assert!(NodeId::backing(0, EntryPath::Main, 1 << 56).is_none());
        assert_ne!(NodeId::top(0), Some(ROOT_ID));
        assert_eq!(NodeId::backing(0, EntryPath::Main, 4711).map(NodeId::as_u64), Some(4711));
    }

    proptest! {
        #[test]
        fn distinct_things_have_distinct_ids(
            a in (0..MAX_HIERARCHIES, any::<bool>(), 0u64..1 << 40),
            b in (0..MAX_HIERARCHIES, any::<bool>(), 0u64..1 << 40),
            depth in 0usize..1000,
        ) {
            let id = |(hierarchy, alias, inode)| {
                NodeId::backing(hierarchy, if alias { EntryPath::HostPathAlias } else { EntryPath::Main }, inode)
            };
            prop_assert_eq!(a == b, id(a) == id(b));
            prop_assert_ne!(id(a), NodeId::host_path_step(b.0, depth));
            prop_assert_ne!(id(a), NodeId::link(b.0, depth));
            prop_assert_ne!(NodeId::link(a.0, depth), NodeId::host_path_step(b.0, depth));
            prop_assert_ne!(NodeId::top(a.0), NodeId::host_path_step(b.0, depth));
            prop_assert_ne!(NodeId::top(a.0), NodeId::link(b.0, depth));
            let placeholder = Some(NodeId::placeholder(a.2));
            prop_assert!(![id(b), NodeId::top(b.0), NodeId::link(b.0, depth), NodeId::host_path_step(b.0, depth)].contains(&placeholder));
        }
    }
}
