//! What the container sees: which name is shown where. Pure: no I/O.
//!
//! A [`View`] says where a directory stands ([`Position`]) and what a name in it can be ([`Child`]). The filesystem reaches a node only by a
//! chain of lookups from the root, each of which was allowed by [`View::child`]: containment rests on that, and no path is compared on the way.

mod position;
mod resolve;
mod shapes;

pub use position::{Child, EntryPath, Position, Role};
pub use resolve::{Resolved, view_path_of};
pub use shapes::{AncestorLimits, Shape, View, ViewHierarchy};

#[cfg(test)]
mod tests;
