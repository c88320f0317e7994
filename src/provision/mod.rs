//! The cgroups that the program makes itself, and what it changes for a container before that gets its view.

pub(crate) mod cgroups;
pub(crate) mod prepared;
pub(crate) mod sentinel;
pub(crate) mod systemd;
