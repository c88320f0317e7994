//! vcgroupfs.
pub mod cgroup;
pub mod policy;
