//! The filesystem of a mount of one view, which is that of every request.

use std::sync::Arc;

use super::{Dispatch, Tenant};
use crate::fs::inode::{HeldNode, NodeId};
use crate::fs::{Caller, CgroupFs, FsResult, HandleId, Host, LookupResult, Permit, ReadMode};
use crate::records::Records;

impl<H: Host> Dispatch for CgroupFs<H> {
    type Host = H;

    const KEEPS: bool = true;
    const HAS_ONE_TENANT: bool = true;
    const SLOW_AT_ONCE: usize = 16;

    fn with_node<T>(
        self: &Arc<Self>,
        _caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<H>>, NodeId) -> FsResult<T>,
    ) -> FsResult<T> {
        act(self, node)
    }

    fn with_nodes<T>(
        self: &Arc<Self>,
        _caller: &Caller,
        (node, other): (NodeId, NodeId),
        act: impl FnOnce(&Arc<CgroupFs<H>>, NodeId, NodeId) -> FsResult<T>,
    ) -> FsResult<T> {
        act(self, node, other)
    }

    fn with_entry(
        self: &Arc<Self>,
        _caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<H>>, NodeId) -> FsResult<LookupResult>,
    ) -> FsResult<LookupResult> {
        act(self, node)
    }

    fn with_opened<T>(
        self: &Arc<Self>,
        _caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<H>>, NodeId) -> FsResult<(HandleId, T)>,
    ) -> FsResult<(HandleId, T)> {
        act(self, node)
    }

    fn with_file<T>(
        self: &Arc<Self>,
        _handle: HandleId,
        act: impl FnOnce(&Arc<CgroupFs<H>>, Tenant) -> FsResult<T>,
    ) -> FsResult<T> {
        act(self, Tenant::default())
    }

    fn release(&self, handle: HandleId) {
        CgroupFs::release(self, handle);
    }

    fn forget(&self, node: NodeId, lookups: u64) -> bool {
        CgroupFs::forget(self, node, lookups)
    }

    fn held_nodes(&self) -> Vec<HeldNode> {
        self.nodes.held()
    }

    fn forget_unchanged(&self, held: &HeldNode) {
        CgroupFs::forget_unchanged(self, held);
    }

    fn knows(&self, node: NodeId) -> bool {
        CgroupFs::knows(self, node)
    }

    fn keeps_listings(&self) -> bool {
        CgroupFs::keeps_listings(self)
    }

    fn restore_share(&self, _node: NodeId, user: u32) -> (Tenant, Option<Permit>) {
        (self.tenant(), self.take_backing_id(user))
    }

    fn records(&self) -> &Arc<Records> {
        CgroupFs::records(self)
    }

    fn read_mode(&self) -> &ReadMode {
        CgroupFs::read_mode(self)
    }
}
