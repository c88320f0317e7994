//! What the server tells the kernel unasked, and the processes and threads that this takes.

pub(super) mod abort_guard;
pub(super) mod invalidation;
pub(super) mod self_mount;
