//! What an earlier server has left of a filesystem, besides its nodes.

use std::collections::HashMap;
use std::sync::Arc;

use super::inode::Node;
use crate::records::SavedFile;

/// What a filesystem is resumed with.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    /// The nodes, by the numbers of their records.
    pub(super) nodes: HashMap<u32, Arc<Node>>,
    /// The open files.
    pub(super) files: Vec<SavedFile>,
}
