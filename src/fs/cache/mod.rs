//! What the kernel may cache and is told to drop, and the listings that the server caches itself.

pub(in crate::fs) mod dir_locks;
mod invalidate;
mod invalidation;
pub(in crate::fs) mod listings;
pub(in crate::fs) mod negative;
mod own_attributes;
pub(in crate::fs) mod own_changes;
pub(in crate::fs) mod told;

pub use invalidate::Invalidate;
pub use listings::ListedEntry;
