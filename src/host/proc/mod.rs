//! The host's processes: what procfs says of them, what a number names, whose a pid namespace is, and with which rights somebody calls.

pub(super) mod caller_process;
pub(super) mod credentials;
pub(super) mod held_process;
pub(super) mod last_caller;
pub(super) mod pid_namespace;
pub(super) mod processes;
pub(super) mod procfs;
