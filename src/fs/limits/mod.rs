//! Limits on the server's resources for each user and container.

pub(in crate::fs) mod quota;
pub(in crate::fs) mod rejection_log;
pub(in crate::fs) mod xattr_budget;

pub use quota::Permit;
pub use rejection_log::RejectionLog;
