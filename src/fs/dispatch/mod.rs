//! Finds the filesystem for a request. A mount of one view has one; a mount for all callers has one per container
//! ([`crate::fs::dispatch::per_caller`]).

mod one_view;
pub mod per_caller;

use std::fmt::Debug;
use std::sync::Arc;

use crate::fs::inode::{HeldNode, NodeId};
use crate::fs::{Caller, CgroupFs, FsResult, HandleId, Host, LookupResult, Permit, ReadMode};
pub use crate::limit::Tenant;
use crate::records::Records;

/// Finds the filesystem of a request, by the caller and by the kernel's node ids.
///
/// The request itself runs in a closure, which gets that filesystem and the node's id in it.
pub trait Dispatch: Debug + Send + Sync + 'static {
    /// The host behind all of them.
    type Host: Host;

    /// Whether the kernel may cache answers for as long as the filesystem says.
    const KEEPS: bool;

    /// Whether all callers are of one tenant. If so, a worker that one of them occupies is no other tenant's loss.
    const HAS_ONE_TENANT: bool;

    /// How many slow requests of a kind run at once for a [`Tenant`].
    const SLOW_AT_ONCE: usize;

    /// Runs `act` with the filesystem of the caller, and the node's id there.
    ///
    /// # Errors
    /// The errors of `act`; the rejection of a caller who has no filesystem; `ESTALE` for an id that the kernel
    /// wasn't given.
    fn with_node<T>(
        self: &Arc<Self>,
        caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<Self::Host>>, NodeId) -> FsResult<T>,
    ) -> FsResult<T>;

    /// Runs `act` with the filesystem of the caller, and the ids of two nodes there.
    ///
    /// # Errors
    /// As [`Dispatch::with_node`].
    fn with_nodes<T>(
        self: &Arc<Self>,
        caller: &Caller,
        nodes: (NodeId, NodeId),
        act: impl FnOnce(&Arc<CgroupFs<Self::Host>>, NodeId, NodeId) -> FsResult<T>,
    ) -> FsResult<T>;

    /// Runs `act`, which looks up or makes an entry, and gives the entry the node id that the kernel is to use. `act`
    /// counts the lookup if it finds something.
    ///
    /// # Errors
    /// As [`Dispatch::with_node`].
    fn with_entry(
        self: &Arc<Self>,
        caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<Self::Host>>, NodeId) -> FsResult<LookupResult>,
    ) -> FsResult<LookupResult>;

    /// Runs `act`, which opens a file, and remembers the handle that it returns.
    ///
    /// # Errors
    /// As [`Dispatch::with_node`].
    fn with_opened<T>(
        self: &Arc<Self>,
        caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<Self::Host>>, NodeId) -> FsResult<(HandleId, T)>,
    ) -> FsResult<(HandleId, T)>;

    /// Runs `act` with the filesystem in which a file was opened, whoever holds the file now.
    ///
    /// # Errors
    /// The errors of `act`; `EBADF` if there's no such file.
    fn with_file<T>(
        self: &Arc<Self>,
        handle: HandleId,
        act: impl FnOnce(&Arc<CgroupFs<Self::Host>>, Tenant) -> FsResult<T>,
    ) -> FsResult<T>;

    /// Closes a file.
    fn release(&self, handle: HandleId);

    /// Drops references that the kernel held to a node. Returns whether these were the last.
    fn forget(&self, node: NodeId, lookups: u64) -> bool;

    /// The nodes that the kernel holds, as far as it's known.
    fn held_nodes(&self) -> Vec<HeldNode>;

    /// Drops a node that the kernel turned out not to hold, if it's still as it was then.
    fn forget_unchanged(&self, held: &HeldNode);

    /// Whether the kernel holds a node.
    fn knows(&self, node: NodeId) -> bool;

    /// Whether the kernel may keep listings.
    fn keeps_listings(&self) -> bool;

    /// Returns the tenant of a node that the kernel has a backing id for since an earlier server, and takes a user's
    /// permit for the id.
    fn restore_share(&self, node: NodeId, user: u32) -> (Tenant, Option<Permit>);

    /// What the next server needs to know.
    fn records(&self) -> &Arc<Records>;

    /// Returns who reads files, the kernel or the server.
    fn read_mode(&self) -> &ReadMode;
}
