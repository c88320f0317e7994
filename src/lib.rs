//! vcgroupfs.
pub mod cgroup;
