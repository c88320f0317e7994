//! What clients find in a process' namespaces, looked up by a process that enters them.

mod child;
mod enter;
pub(crate) mod host;
pub(crate) mod parent;
pub(crate) mod target;
