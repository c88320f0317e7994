//! How much of the server a user or a container may have.

pub(in crate::fs) mod fd_quota;
pub(in crate::fs) mod rejection_log;

pub use fd_quota::Share;
pub use rejection_log::RejectionLog;
