//! vcgroupfs.
fn main() {}
