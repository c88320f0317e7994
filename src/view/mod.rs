//! What the container sees: the names in each directory. Pure: no I/O.
//!
//! A [`View`] determines a directory's position ([`Position`]) and what a name in it can be ([`Child`]). The
//! filesystem reaches a node only by a chain of lookups from the root, and [`View::child`] allowed each of them.
//! Containment rests on that chain: nothing compares paths.

mod position;
mod resolve;
mod shapes;

pub use position::{Child, EntryPath, Position, Role};
pub use resolve::{Resolved, view_path_of};
pub use shapes::{AncestorLimits, Shape, View, ViewHierarchy};

#[cfg(test)]
mod tests;
