//! A container that runs: how it's named and held, the stacks of mounts that `attach` and `run` make for it, and how they are taken away.

pub(crate) mod covered;
mod detach;
pub(crate) mod foreign;
pub(crate) mod handle;
pub(crate) mod hook_state;
mod lifetime;
pub(crate) mod lock;
mod lock_mounts;
mod propagated;
pub(crate) mod rollback;
pub(crate) mod served;
pub(crate) mod stack;
pub(crate) mod staging;
pub(crate) mod stand_in;
pub(crate) mod target;
pub(crate) mod unified;
pub(crate) mod view_mounts;

/// Where a container looks for its cgroups, and where its view is mounted.
pub(crate) const DIRECTORY: &str = "/sys/fs/cgroup";
