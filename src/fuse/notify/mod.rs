//! Messages that the server sends to the kernel without a request: invalidation, and events through its own mount.

pub(super) mod abort_guard;
pub(super) mod invalidation;
pub(super) mod lost_forgets;
pub(super) mod notification;
pub(super) mod self_mount;
