//! How much of the server a user or a container may have.

pub(in crate::fs) mod quota;
pub(in crate::fs) mod rejection_log;
pub(in crate::fs) mod xattr_budget;

pub use quota::Permit;
pub use rejection_log::RejectionLog;
