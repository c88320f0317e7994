//! The inode table: the [`Node`]s that the kernel holds, by [`NodeId`].
//!
//! A node is only ever reached by a chain of lookups from the root, and [`View::child`](crate::view::View::child)
//! allowed each of them. Containment rests on that chain: nothing compares paths.

mod attributes;
mod backing_path;
mod node;
mod node_id;
mod saved;
mod shown_size;
mod table;

pub use attributes::Attributes;
pub use node::{Cgroups, Node, Object, Watch};
pub use node_id::{NodeId, ROOT_ID};
pub use shown_size::ShownSize;
pub use table::{HeldNode, NodeTable};
