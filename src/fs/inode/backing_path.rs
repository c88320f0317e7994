//! The host's path of a node's backing object.

use std::ffi::OsString;

use super::{Node, Object};
use crate::cgroup::CgroupPath;
use crate::view::{Role, View};

impl Node {
    /// Returns the hierarchy of the backing object, and the names that lead to it from that hierarchy's root. `None`
    /// if it has none.
    pub fn backing_path(&self, view: &View) -> Option<(usize, Vec<OsString>)> {
        let hierarchy = self.position().hierarchy?;
        let delegated = view.hierarchy(hierarchy)?.delegated.as_ref().map(CgroupPath::components).unwrap_or_default();
        let mut below = Vec::new();
        let mut at = self;
        // Climb to the nearest directory whose backing cgroup the view itself names.
        let anchor = loop {
            if *at.object() == Object::Directory {
                match at.position().role {
                    Role::Boundary => break delegated,
                    Role::Ancestor { depth } => break delegated.get(..depth)?,
                    Role::HostRoot => break &[],
                    Role::Foreign if at.parent().is_none_or(|above| above.position().hierarchy.is_none()) => break &[],
                    Role::Foreign | Role::Inside => {}
                    Role::Top | Role::HostPathStep { .. } => return None,
                }
            }
            below.push(at.name().to_os_string());
            at = at.parent()?;
        };
        Some((hierarchy, anchor.iter().cloned().chain(below.into_iter().rev()).collect()))
    }
}
