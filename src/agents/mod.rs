//! The server's side of mount-helper: what has to happen inside a container's pid namespace.
//!
//! The kernel translates pid numbers for the process that makes the system call. So the server
//! passes a descriptor that *it* opened to an agent in the caller's [`PidNamespace`], which reads
//! or writes it there ([`AgentPool`]). Agents run [`HelperImage`]'s program and are the
//! container's to kill, to stop and perhaps to take over: whatever one answers is checked, and
//! the worst that it can do is to fail its own container's requests, in bounded time.
//!
//! What has to happen in a container's mount namespace is done by a helper that [`AttachHelper`] starts, and that ends with it.
//!
//! # SIGCHLD
//! Agents are children of this process that nobody waits for. A program that uses this module must
//! set SIGCHLD to be ignored (`SIG_IGN`), so that the kernel reaps them: as zombies they would pile
//! up, and keep the init of their container from ending.

pub mod attach;
mod boundary;
mod connection;
mod events;
mod image;
mod namespace;
mod pool;

pub use attach::AttachHelper;
pub use boundary::BoundaryHelper;
pub use events::{ClaimedControl, EventClaim, EventRegistrar};
pub use image::HelperImage;
pub use mount_helper::clock::monotonic_ns;
pub use mount_helper::confinement;
pub use namespace::PidNamespace;
pub use pool::{AgentPool, LentCapabilities, MAX_AGENTS, TenantOf};
