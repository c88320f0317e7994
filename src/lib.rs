//! vcgroupfs.
pub mod helper;
pub mod sys;
