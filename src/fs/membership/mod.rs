//! Writes to membership files: which process is meant, and whether it may be migrated.

mod migration;
pub mod pid_arg;
