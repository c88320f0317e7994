//! Collects what clients find in a process' namespaces, with a child that enters them.

mod child;
mod enter;
pub(crate) mod host;
pub(crate) mod limit_source;
mod machine;
mod mounted;
pub(crate) mod parent;
pub(crate) mod processes;
pub(crate) mod target;
