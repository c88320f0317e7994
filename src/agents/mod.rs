//! The server's side of mount-helper: agents in the pid namespaces of containers, and helpers that work in their mount namespaces.
//!
//! The kernel translates pid numbers for the process that makes the system call. So the server passes a descriptor
//! that *it* opened to an agent in the caller's [`PidNamespace`], which reads or writes it there ([`AgentPool`]).
//! Agents run the program of [`HelperImage`]. The container can kill them, stop them and perhaps take them over. So
//! the server checks their answers. At worst an agent fails its own container's requests, in bounded time.
//!
//! [`AttachHelper`] starts a helper that works in a container's mount namespace, and ends it. [`BoundaryHelper`]
//! makes a cgroup namespace, and [`EventRegistrar`] registers events.
//!
//! # SIGCHLD
//! Agents are children of this process, and nobody waits for them. A program that uses this module must ignore
//! SIGCHLD (`SIG_IGN`), so that the kernel reaps them. As zombies they would pile up, and keep their container's init
//! from ending.

pub mod attach;
mod boundary;
mod connection;
mod events;
mod image;
mod namespace;
mod pool;
mod slots;

pub use attach::AttachHelper;
pub use boundary::BoundaryHelper;
pub use events::{ClaimedControl, EventClaim, EventRegistrar};
pub use image::HelperImage;
pub use mount_helper::clock::monotonic_ns;
pub use mount_helper::confinement;
pub use namespace::PidNamespace;
pub use pool::{AgentPool, LentCapabilities, TenantOf};
pub use slots::MAX_AGENTS;
