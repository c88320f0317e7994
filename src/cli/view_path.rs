//! Parses paths in a view, as users write them.

use crate::cgroup::{CgroupPath, escaped};
use crate::error::Error;

/// The directory on which programs expect the tree. A path in a view may begin with it.
const CGROUP_MOUNT_POINT: [&str; 3] = ["sys", "fs", "cgroup"];

/// Removes `/sys/fs/cgroup` from a path that a user has copied from inside a container.
pub(super) fn without_mount_point(path: &CgroupPath) -> CgroupPath {
    let usual = CgroupPath::from_components(CGROUP_MOUNT_POINT.map(Into::into).to_vec());
    path.relative_to(&usual).unwrap_or_else(|| path.clone())
}

pub(super) fn parse_path(path: &std::path::Path) -> Result<CgroupPath, Error> {
    CgroupPath::parse(path).map_err(|error| {
        Error::usage(format!("'{}' isn't the path of a cgroup", escaped(path))).because(error.to_string())
    })
}
