//! How much of the server a user or a container may have.

pub(in crate::fs) mod quota;
pub(in crate::fs) mod rejection_log;

pub use quota::Permit;
pub use rejection_log::RejectionLog;
