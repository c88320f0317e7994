//! Paths of a view, as users write them.

use crate::cgroup::{CgroupPath, escaped};
use crate::error::Error;

/// Where clients expect the tree; a view's paths are shown and taken with it in front or not.
const USUAL: [&str; 3] = ["sys", "fs", "cgroup"];

/// The path in the view that a user means, who may have copied it from inside the container.
pub(super) fn in_view(path: &CgroupPath) -> CgroupPath {
    let usual = CgroupPath::from_components(USUAL.map(Into::into).to_vec());
    path.relative_to(&usual).unwrap_or_else(|| path.clone())
}

pub(super) fn parse(path: &std::path::Path) -> Result<CgroupPath, Error> {
    CgroupPath::parse(path)
        .map_err(|error| Error::usage(format!("'{}' isn't a path that can be asked about: {error}", escaped(path))))
}
