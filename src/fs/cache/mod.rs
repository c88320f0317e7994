//! What the kernel may keep, and is told to drop; and the listings that the server keeps itself.

pub(in crate::fs) mod dir_locks;
pub(in crate::fs) mod invalidation;
pub(in crate::fs) mod listings;
pub(in crate::fs) mod negative;

pub use invalidation::Invalidate;
