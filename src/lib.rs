//! vcgroupfs.
