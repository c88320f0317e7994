//! Translates paths of the view to the host's and back, without asking the host.

use super::{Child, Position, Role, Shape, View};
use crate::cgroup::CgroupPath;

/// The result of resolving a path of the view by names alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The position of the directory that the path names, or that holds the named file.
    pub position: Position,
    /// The hierarchy and the backing path; `None` for objects that the view makes itself.
    pub backing: Option<(usize, CgroupPath)>,
}

impl View {
    /// Follows `path`, whose components are all directories, from the view's root. `None` if it's hidden.
    ///
    /// Names that depend on the host (below the boundary) are assumed to exist.
    pub fn resolve_directory(&self, path: &CgroupPath) -> Option<Resolved> {
        let root = self.root();
        let mut at = Resolved { position: root, backing: root.hierarchy.map(|index| (index, self.top_path(index))) };
        for name in path.components() {
            at = match self.child(at.position, name) {
                Child::Hidden => return None,
                Child::Hierarchy(index) | Child::Link { hierarchy: index, .. } => {
                    Resolved { position: self.top_of(index), backing: Some((index, self.top_path(index))) }
                }
                Child::Alias { name } => {
                    let index = at.position.hierarchy?;
                    let position = Position { role: Role::Inside, ..at.position };
                    Resolved { position, backing: Some((index, self.alias_target(index, name)?)) }
                }
                Child::HostPathAlias(position) => self.through_host_path_alias(position),
                // A name that may be the alias counts as the alias here: only the host knows whether it has an object
                // of that name.
                Child::Backing { otherwise: Some(position), .. } => self.through_host_path_alias(position),
                Child::Backing { directory, .. } => {
                    let (index, above) = at.backing?;
                    Resolved { position: directory?, backing: Some((index, above.join(name).ok()?)) }
                }
            };
        }
        Some(at)
    }

    fn through_host_path_alias(&self, position: Position) -> Resolved {
        let backing = match position.role {
            Role::Boundary => position.hierarchy.map(|index| (index, self.top_path(index))),
            _ => None,
        };
        Resolved { position, backing }
    }
}

/// Returns the view's path of the host's cgroup `host` in this hierarchy; `None` if it's hidden.
pub fn view_path_of(view: &View, hierarchy: usize, host: &CgroupPath) -> Option<CgroupPath> {
    let entry = view.hierarchy(hierarchy)?;
    let below = match (view.shape, &entry.delegated) {
        (Shape::Full, _) => host.clone(),
        (_, None) => host.is_root().then(CgroupPath::root)?,
        (Shape::Rooted, Some(delegated)) => host.relative_to(delegated)?,
        (Shape::HostPath, Some(delegated)) => {
            (host.is_within(delegated) || delegated.is_within(host)).then(|| host.clone())?
        }
    };
    let top = match view.root().hierarchy {
        Some(_) => CgroupPath::root(),
        None => CgroupPath::root().join(&entry.directory).ok()?,
    };
    Some(top.join_path(&below))
}
