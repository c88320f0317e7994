//! What the server does to the kernel's side of a view unasked: invalidation, and events by its own mount.

pub(super) mod abort_guard;
pub(super) mod invalidation;
pub(super) mod self_mount;
