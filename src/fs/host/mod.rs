//! The filesystem's interface to the host: the backing cgroupfs and the processes that call.
//!
//! Each trait covers one level, and [`Host`] combines all of them. `crate::host::KernelHost` is the real host; tests
//! have a tree in memory. A method that takes a [`Node`](crate::fs::inode::Node) acts on its backing object, and
//! fails with `ENOENT` on a node without one.

mod caller;
mod credentials;
mod event_control;
mod events;
mod files;
mod migrations;
mod mutations;
mod processes;
mod readiness;
mod tree;
mod xattrs;

pub use caller::{Caller, Owner};
pub use credentials::{CallerProcess, Credentials, HostCredentials, WriterCredentials};
pub use event_control::{Claim, ControlFile, HostEventControl};
pub use events::{EntryChange, HostEvent, HostEvents, Report};
pub use files::{HostFiles, OpenMode};
pub use migrations::{HostMigrations, MigrationChecks};
pub use mutations::{HostMutations, SetAttr, SetTime};
pub use processes::{HostProcesses, ProcessFacts};
pub use readiness::{HostReadiness, Ready};
pub use tree::{BackingEntry, DirChanges, FollowChanges, HostTree, Statistics};
pub use xattrs::HostXattrs;

/// The host behind a view: its tree, its files, its events and its processes.
pub trait Host:
    HostTree
    + HostMutations
    + HostXattrs
    + HostReadiness
    + HostEvents
    + HostCredentials
    + HostMigrations
    + HostEventControl
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}

impl<H> Host for H where
    H: HostTree
        + HostMutations
        + HostXattrs
        + HostReadiness
        + HostEvents
        + HostCredentials
        + HostMigrations
        + HostEventControl
        + std::fmt::Debug
        + Send
        + Sync
        + 'static
{
}
