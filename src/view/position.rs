//! The position of a node in its view.

/// The path by which a node was entered. Linux gives a directory inode one place in the tree, so a cgroup that is
/// reached by an alias needs nodes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryPath {
    /// The path from the top of its hierarchy.
    Main,
    /// Through the host path alias of a rooted view: the container's hidden absolute path on the host.
    HostPathAlias,
}

/// The role of a directory in its view; a file has its directory's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The root of a legacy or hybrid view: the directory of hierarchies.
    Top,
    /// An ancestor of the boundary: the cgroup of the delegated path's first `depth` components.
    Ancestor {
        /// The number of components of the delegated path that lead to it.
        depth: usize,
    },
    /// A component of the host path alias: `depth` components of the delegated path have been entered (at least one,
    /// never all).
    HostPathStep {
        /// The number of components.
        depth: usize,
    },
    /// The root of a hierarchy in which the container has no delegated subtree.
    HostRoot,
    /// The delegation boundary.
    Boundary,
    /// Below the boundary.
    Inside,
    /// Elsewhere in the host's tree (shape `full` only).
    Foreign,
}

/// The position of a node in its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The number of its hierarchy; `None` for the root of a legacy or hybrid view.
    pub hierarchy: Option<usize>,
    /// The path by which it was entered.
    pub entry_path: EntryPath,
    /// The role of the directory in its view.
    pub role: Role,
}

impl Position {
    /// The root of a legacy or hybrid view.
    pub const VIEW_ROOT: Self = Self { hierarchy: None, entry_path: EntryPath::Main, role: Role::Top };
}

/// What a name in a directory can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// The name doesn't exist in this view, whatever the host has.
    Hidden,
    /// The top directory of this hierarchy.
    Hierarchy(usize),
    /// A symlink to the top directory of `hierarchy`, the `link`-th of its names.
    Link {
        /// The hierarchy to which it leads.
        hierarchy: usize,
        /// The number of the link.
        link: usize,
    },
    /// A hidden symlink at the top of a hierarchy into the delegated subtree: the `name`-th of [`View::aliases`](super::View::aliases).
    Alias {
        /// The number of the alias.
        name: usize,
    },
    /// A component of the host path alias, or the boundary reached by it.
    HostPathAlias(Position),
    /// The host's object of that name, if its kind is shown here.
    Backing {
        /// The position of a directory of that name; `None`: a directory isn't shown.
        directory: Option<Position>,
        /// Whether a file of that name is shown.
        file: bool,
        /// The position if the host has no object of that name: the host path alias.
        otherwise: Option<Position>,
    },
}
