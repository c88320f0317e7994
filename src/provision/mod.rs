//! The cgroups that the program makes itself, and its changes of a container's cgroups before it attaches a view.

pub(crate) mod cgroups;
pub(crate) mod prepared;
pub(crate) mod sentinel;
pub(crate) mod systemd;
