//! The shapes of a view: what each directory shows under a name.

use std::ffi::{OsStr, OsString};

use super::position::{Child, EntryPath, Position, Role};
use crate::cgroup::ancestor::limits_what_is_below;
use crate::cgroup::{CgroupPath, HierarchyKind, Setup};
use crate::policy::{Rules, Zone};

/// How much of the host's tree is shown, and at which paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Host paths; ancestors are a read-only skeleton, siblings don't exist.
    HostPath,
    /// The delegated subtree is the root of each hierarchy.
    Rooted,
    /// The whole host tree, read-only outside the delegated subtree.
    Full,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 3] = [Self::HostPath, Self::Rooted, Self::Full];

    /// The word for the shape on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::HostPath => "host-path",
            Self::Rooted => "rooted",
            Self::Full => "full",
        }
    }

    /// The shape with this word on the command line.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.word() == word)
    }
}

/// Whether a skeleton shows the ancestors' files that limit descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum AncestorLimits {
    /// The skeleton shows them: clients that walk from their own cgroup to the root find the effective limits.
    #[default]
    Shown,
    /// The skeleton doesn't show them.
    Hidden,
}

/// One hierarchy in a view.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ViewHierarchy {
    /// The kind of hierarchy.
    pub kind: HierarchyKind,
    /// The name of its directory in the view's root (the host's mount directory's).
    #[serde(with = "crate::cgroup::name_as_text")]
    pub directory: OsString,
    /// Names of symlinks to that directory, one per co-mounted controller.
    pub links: Vec<OsString>,
    /// The container's subtree; `None` if the container is in the host's root. Never the root.
    pub delegated: Option<CgroupPath>,
}

/// A container's view, which is fixed when it's made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct View {
    /// Whether the view's root is a directory of hierarchies or the cgroup2 tree itself.
    pub setup: Setup,
    /// How much of the host's tree is shown.
    pub shape: Shape,
    /// The rules that say who may write what.
    pub rules: Rules,
    /// The files that ancestors show (shape `host-path` only).
    pub ancestor_limits: AncestorLimits,
    /// The hierarchies, in the order of their numbers.
    pub hierarchies: Vec<ViewHierarchy>,
    /// Names at the top of each hierarchy that lead to the cgroups of these names in the delegated subtree (shape
    /// `host-path` only). They are for clients that expect their cgroups at a fixed path, such as `/docker`.
    pub aliases: Vec<OsString>,
}

impl View {
    /// The hierarchy with this number.
    pub fn hierarchy(&self, index: usize) -> Option<&ViewHierarchy> {
        self.hierarchies.get(index)
    }

    /// Returns the position of the view's root.
    pub fn root(&self) -> Position {
        match self.setup {
            Setup::Unified => self.top_of(0),
            Setup::Legacy | Setup::Hybrid => Position::VIEW_ROOT,
        }
    }

    /// Returns the position of a hierarchy's top directory.
    pub fn top_of(&self, hierarchy: usize) -> Position {
        let delegated = self.hierarchy(hierarchy).and_then(|hierarchy| hierarchy.delegated.as_ref());
        let role = match (delegated, self.shape) {
            (None, Shape::Full) => Role::Foreign,
            (None, _) => Role::HostRoot,
            (Some(_), Shape::Rooted) => Role::Boundary,
            (Some(_), Shape::HostPath | Shape::Full) => Role::Ancestor { depth: 0 },
        };
        Position { hierarchy: Some(hierarchy), entry_path: EntryPath::Main, role }
    }

    /// The backing cgroup of a hierarchy's top directory.
    pub fn top_path(&self, hierarchy: usize) -> CgroupPath {
        match (self.shape, self.hierarchy(hierarchy).and_then(|hierarchy| hierarchy.delegated.clone())) {
            (Shape::Rooted, Some(delegated)) => delegated,
            _ => CgroupPath::root(),
        }
    }

    /// The zone of a position, for the policy.
    pub fn zone(&self, position: Position) -> Zone {
        match position.role {
            Role::Boundary => Zone::Boundary,
            Role::Inside => Zone::Inside,
            Role::Top | Role::Ancestor { .. } | Role::HostPathStep { .. } | Role::HostRoot | Role::Foreign => {
                Zone::Outside
            }
        }
    }

    /// What `name` in the directory at `position` can be.
    pub fn child(&self, position: Position, name: &OsStr) -> Child {
        let Some(index) = position.hierarchy else {
            return self.child_of_view_root(name);
        };
        let Some(hierarchy) = self.hierarchy(index) else {
            return Child::Hidden;
        };
        let below = |role| Position { role, ..position };
        let step = |depth: usize| hierarchy.delegated.as_ref()?.components().get(depth);
        let leads_on = |depth: usize| step(depth).is_some_and(|step| step == name);
        // Returns the position of the directory `depth` components towards the boundary.
        let way = |depth: usize, on_the_way: fn(usize) -> Role| {
            if step(depth).is_none() { Role::Boundary } else { on_the_way(depth) }
        };
        let ancestor = |depth| Role::Ancestor { depth };
        let host_path_step = |depth| Role::HostPathStep { depth };
        match position.role {
            Role::Top => Child::Hidden,
            Role::HostRoot => Child::Backing { directory: None, file: true, otherwise: None },
            Role::Foreign => Child::Backing { directory: Some(position), file: true, otherwise: None },
            Role::Inside => Child::Backing { directory: Some(position), file: true, otherwise: None },
            Role::Boundary => {
                let has_host_path_alias =
                    self.shape == Shape::Rooted && position.entry_path == EntryPath::Main && leads_on(0);
                let alias = Position { entry_path: EntryPath::HostPathAlias, role: way(1, host_path_step), ..position };
                Child::Backing {
                    directory: Some(below(Role::Inside)),
                    file: true,
                    otherwise: has_host_path_alias.then_some(alias),
                }
            }
            Role::HostPathStep { depth } if leads_on(depth) => {
                Child::HostPathAlias(below(way(depth + 1, host_path_step)))
            }
            Role::HostPathStep { .. } => Child::Hidden,
            Role::Ancestor { depth } => {
                let on_the_way = leads_on(depth).then(|| below(way(depth + 1, ancestor)));
                match self.shape {
                    Shape::Full => Child::Backing {
                        directory: Some(on_the_way.unwrap_or(below(Role::Foreign))),
                        file: true,
                        otherwise: None,
                    },
                    Shape::HostPath | Shape::Rooted => match on_the_way {
                        Some(_) => Child::Backing { directory: on_the_way, file: false, otherwise: None },
                        None if self.ancestor_shows(&hierarchy.kind, depth, name) => {
                            Child::Backing { directory: None, file: true, otherwise: None }
                        }
                        None if depth == 0 => self.alias(name).map_or(Child::Hidden, |name| Child::Alias { name }),
                        None => Child::Hidden,
                    },
                }
            }
        }
    }

    /// Whether a skeleton shows the file `name` of an ancestor, `depth` levels below the root.
    fn ancestor_shows(&self, kind: &HierarchyKind, depth: usize, name: &OsStr) -> bool {
        // Without these files a client can't find out which controllers it has.
        const CORE: [&str; 3] = ["cgroup.controllers", "cgroup.subtree_control", "cgroup.type"];
        let Some(name) = name.to_str() else { return false };
        *kind == HierarchyKind::Unified && CORE.contains(&name)
            || self.ancestor_limits == AncestorLimits::Shown && limits_what_is_below(kind, depth, name)
    }

    fn alias(&self, name: &OsStr) -> Option<usize> {
        self.aliases.iter().position(|alias| alias == name)
    }

    /// Returns the target of an alias, relative to the top of its hierarchy.
    pub fn alias_target(&self, hierarchy: usize, name: usize) -> Option<CgroupPath> {
        self.hierarchy(hierarchy)?.delegated.as_ref()?.join(self.aliases.get(name)?).ok()
    }

    fn child_of_view_root(&self, name: &OsStr) -> Child {
        for (index, hierarchy) in self.hierarchies.iter().enumerate() {
            if hierarchy.directory == name {
                return Child::Hierarchy(index);
            }
            if let Some(link) = hierarchy.links.iter().position(|link| link == name) {
                return Child::Link { hierarchy: index, link };
            }
        }
        Child::Hidden
    }

    /// Whether a listing of the directory at `position` shows the entry `name`, which exists on the host.
    pub fn lists(&self, position: Position, name: &OsStr, is_directory: bool) -> bool {
        match self.child(position, name) {
            Child::Backing { directory, file, .. } => {
                if is_directory {
                    directory.is_some()
                } else {
                    file
                }
            }
            Child::Hidden
            | Child::Hierarchy(_)
            | Child::Link { .. }
            | Child::Alias { .. }
            | Child::HostPathAlias(_) => false,
        }
    }
}
