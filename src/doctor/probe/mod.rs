//! What clients find in a process' namespaces, looked up by a process that enters them.

pub(crate) mod ask;
mod enter;
pub(crate) mod host;
mod look;
pub(crate) mod target;
