//! vcgroupfs.
pub mod cgroup;
pub mod cli;
pub mod fs;
pub mod fuse;
pub mod helper;
pub mod host;
pub mod policy;
pub mod sys;
pub mod view;
