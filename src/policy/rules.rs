//! The policies, and their parameters.

use std::collections::BTreeSet;

use crate::cgroup::ControllerSet;

/// A policy: what the container may change in its delegated subtree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Structure and membership, no controller file; v1 controller hierarchies are read-only.
    #[default]
    Strict,
    /// On v2 what the kernel's nsdelegate allows; on v1 the named controllers below the boundary.
    Delegate,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 2] = [Self::Strict, Self::Delegate];

    /// The word that users have for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Delegate => "delegate",
        }
    }

    /// The policy for which users have this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.word() == word)
    }
}

/// A policy with its parameters; fixed when a view is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rules {
    /// The policy.
    pub policy: Policy,
    /// v1 controllers whose files are writable below the boundary under [`Policy::Delegate`].
    pub delegate_controllers: ControllerSet,
    /// The files that the kernel lets a delegatee write at the boundary, `/sys/kernel/cgroup/delegate`.
    pub delegatable: BTreeSet<String>,
    /// Whether memory that cgroups below the boundary use counts at the boundary, too (`memory.use_hierarchy`).
    pub memory_is_hierarchical: bool,
    /// Whether the server can fetch a writer's descriptors (pidfd_getfd), so that the descriptor numbers in
    /// `cgroup.event_control` can be translated.
    pub fetches_descriptors: bool,
}

impl Rules {
    /// The content of `/sys/kernel/cgroup/delegate` in its first version (Linux 4.15), for kernels without the file.
    pub fn default_delegatable() -> BTreeSet<String> {
        ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"].map(str::to_owned).into()
    }
}
