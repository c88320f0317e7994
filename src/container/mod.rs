//! A running container: how a TARGET names it, the handle to it, the mounts that `attach` and `run` make for it, and
//! their removal.

pub(crate) mod covered;
mod detach;
pub(crate) mod directory_view;
pub(crate) mod failed_view;
pub(crate) mod handle;
pub(crate) mod hook_state;
mod lifetime;
pub(crate) mod live_view;
pub(crate) mod lock;
mod lock_mounts;
pub(crate) mod namespace_copy;
mod propagated;
pub(crate) mod rollback;
pub(crate) mod stack;
pub(crate) mod staging;
pub(crate) mod target;
pub(crate) mod unified;
pub(crate) mod userns_mounts;
pub(crate) mod view_mounts;

/// The directory where a container looks for its cgroups. Its view is mounted there.
pub(crate) const DIRECTORY: &str = "/sys/fs/cgroup";
