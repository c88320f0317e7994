//! One mount for the callers of all containers: the filesystem of the caller's container answers each request.
//!
//! All containers share one superblock and the kernel's caches of it. So they share nothing that is known by name or
//! node id except the root:
//!
//! * Each container has its own nodes. A cgroup that two containers see has two node ids, and the kernel has two inodes with their own
//!   modes, watches, locks and backing files. Nobody can guess an id.
//! * The kernel may cache no name and no attribute. It looks a name that it has from another container up again for the container that
//!   asks now, and gets another node id, or nothing.
//! * A caller can still come with a node id of another container: by a descriptor or a working directory that was handed to it, or by a
//!   bind mount that somebody else made. It then gets what its own container sees under that path if that is the same object, else `ENOENT`.
//! * An open file is a capability, as it is in the kernel. Whoever was given it reads and writes by the rules of the container in which
//!   it was opened, and numbers of processes are the writer's.

mod container;
mod nodes;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::{Mutex, RwLock};

use self::nodes::Nodes;
use crate::activity::{self, Subject};
use crate::fs::dispatch::{Dispatch, Tenant};
use crate::fs::host::{CallerProcess, HostCredentials, HostReadiness};
use crate::fs::inode::{HeldNode, NodeId, ROOT_ID};
use crate::fs::{Caller, CgroupFs, FsError, FsResult, HandleId, Host, LookupResult, Permit, ReadMode, RejectionLog};
use crate::policy::Denial;
use crate::records::Records;

pub use self::container::{Container, Containers, SavedContainer, SharedLimits};

/// The filesystem of all containers.
#[derive(Debug)]
pub struct PerCaller<C: Containers> {
    containers: C,
    nodes: Mutex<Nodes<C::Host>>,
    /// The container in which each open file was opened. Leaf lock.
    files: RwLock<HashMap<HandleId, Arc<Container<C::Host>>>>,
    log: RejectionLog,
}

impl<C: Containers> PerCaller<C> {
    /// Makes the filesystem of these containers.
    pub fn new(containers: C) -> Self {
        let host = containers.host();
        let mut all = containers.take_restored();
        all.push(Arc::clone(host));
        let nodes = Nodes::new(host.fs.records(), &all);
        let files = all
            .iter()
            .flat_map(|container| container.fs.handles.ids().into_iter().map(|handle| (handle, Arc::clone(container))));
        let files = RwLock::new(files.collect());
        Self { nodes: Mutex::new(nodes), files, log: RejectionLog::default(), containers }
    }

    /// The containers.
    pub fn containers(&self) -> &C {
        &self.containers
    }

    /// How many nodes of all containers the kernel holds, besides the root.
    pub fn known_nodes(&self) -> usize {
        self.nodes.lock().len()
    }

    /// Waits until open files are ready, and wakes the processes that wait for them. Returns false once the server
    /// stops.
    pub fn wake_the_ready(&self) -> bool {
        let Some(ready) = self.containers.host().fs.host.wait_for_ready() else {
            return false;
        };
        for ready in ready {
            let container = self.files.read().get(&ready.handle).map(Arc::clone);
            if let Some(container) = container {
                container.fs.wake(ready);
            }
        }
        true
    }

    /// Makes all waiting calls return.
    pub fn stop_waiting(&self) {
        self.containers.stop_waiting();
        self.containers.host().fs.stop_waiting();
    }

    fn container(&self, caller: &Caller) -> FsResult<Arc<Container<C::Host>>> {
        self.containers.of(caller).inspect_err(|failure| {
            if let FsError::Denied(denial) = failure {
                self.log_rejection(caller, denial);
            }
        })
    }

    fn log_rejection(&self, caller: &Caller, denial: &Denial) {
        let CallerProcess { pid, command } = self.containers.host().fs.host.process(caller);
        let subject = Subject { pid, command: command.into_bytes(), path: b"/".to_vec() };
        self.log.record(denial, "any", caller.uid, &subject);
        activity::describe(subject);
    }

    /// Finds the node that an id means to a container, which is valid as long as the result exists.
    fn visit<'a>(&self, container: &'a Container<C::Host>, id: NodeId) -> FsResult<TransientNode<'a, C::Host>> {
        if id == ROOT_ID {
            return Ok(TransientNode { fs: &container.fs, id, counted: Vec::new() });
        }
        let (owner, inner) = self.nodes.lock().get(id).ok_or(Errno::ESTALE)?;
        // An object's id within a filesystem comes from the hierarchy and the inode, so it's the same in all of them.
        if owner.number == container.number || container.fs.knows(inner) {
            return Ok(TransientNode { fs: &container.fs, id: inner, counted: Vec::new() });
        }
        // A container that has ended has no names any more, and nobody else knows what this id meant.
        let names = owner.fs.names_of(inner).ok_or(Errno::ESTALE)?;
        let visit = TransientNode::walk(&container.fs, &names)?;
        if visit.id == inner { Ok(visit) } else { Err(Errno::ENOENT.into()) }
    }
}

/// A node that a container holds for the length of a request, while the kernel uses another container's node.
struct TransientNode<'a, H: Host> {
    fs: &'a Arc<CgroupFs<H>>,
    id: NodeId,
    /// The lookups to undo.
    counted: Vec<NodeId>,
}

impl<'a, H: Host> TransientNode<'a, H> {
    /// Looks the names up one by one: a container sees only what lookups find, and its view judges each of them.
    fn walk(fs: &'a Arc<CgroupFs<H>>, names: &[OsString]) -> FsResult<Self> {
        let mut visit = Self { fs, id: ROOT_ID, counted: Vec::new() };
        for name in names {
            visit.id = fs.lookup(visit.id, OsStr::new(name))?.id;
            visit.counted.push(visit.id);
        }
        Ok(visit)
    }
}

impl<H: Host> Drop for TransientNode<'_, H> {
    fn drop(&mut self) {
        for id in self.counted.drain(..).rev() {
            self.fs.forget(id, 1);
        }
    }
}

impl<C: Containers> Dispatch for PerCaller<C> {
    type Host = C::Host;

    const KEEPS: bool = false;
    const HAS_ONE_TENANT: bool = false;
    // All tenants share 64 agents, and each can have one.
    const SLOW_AT_ONCE: usize = 4;

    fn with_node<T>(
        self: &Arc<Self>,
        caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<C::Host>>, NodeId) -> FsResult<T>,
    ) -> FsResult<T> {
        let container = self.container(caller)?;
        let visit = self.visit(&container, node)?;
        act(&container.fs, visit.id)
    }

    fn with_nodes<T>(
        self: &Arc<Self>,
        caller: &Caller,
        (node, other): (NodeId, NodeId),
        act: impl FnOnce(&Arc<CgroupFs<C::Host>>, NodeId, NodeId) -> FsResult<T>,
    ) -> FsResult<T> {
        let container = self.container(caller)?;
        let (first, second) = (self.visit(&container, node)?, self.visit(&container, other)?);
        act(&container.fs, first.id, second.id)
    }

    fn with_entry(
        self: &Arc<Self>,
        caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<C::Host>>, NodeId) -> FsResult<LookupResult>,
    ) -> FsResult<LookupResult> {
        let container = self.container(caller)?;
        let visit = self.visit(&container, node)?;
        let mut found = act(&container.fs, visit.id)?;
        if let LookupResult::Entry(entry) = &mut found {
            entry.id = self.nodes.lock().count_lookup(&container, entry.id);
        }
        Ok(found)
    }

    fn with_opened<T>(
        self: &Arc<Self>,
        caller: &Caller,
        node: NodeId,
        act: impl FnOnce(&Arc<CgroupFs<C::Host>>, NodeId) -> FsResult<(HandleId, T)>,
    ) -> FsResult<(HandleId, T)> {
        let container = self.container(caller)?;
        let visit = self.visit(&container, node)?;
        let (handle, rest) = act(&container.fs, visit.id)?;
        if handle != HandleId::NONE {
            self.files.write().insert(handle, Arc::clone(&container));
        }
        Ok((handle, rest))
    }

    fn with_file<T>(
        self: &Arc<Self>,
        handle: HandleId,
        act: impl FnOnce(&Arc<CgroupFs<C::Host>>, Tenant) -> FsResult<T>,
    ) -> FsResult<T> {
        let container = self.files.read().get(&handle).map(Arc::clone).ok_or(Errno::EBADF)?;
        act(&container.fs, container.tenant)
    }

    fn release(&self, handle: HandleId) {
        let container = self.files.write().remove(&handle);
        if let Some(container) = container {
            container.fs.release(handle);
        }
    }

    fn forget(&self, node: NodeId, lookups: u64) -> bool {
        let Some((container, inner, was_last)) = self.nodes.lock().forget(node, lookups) else {
            return false;
        };
        container.fs.forget(inner, lookups);
        was_last
    }

    fn held_nodes(&self) -> Vec<HeldNode> {
        self.nodes.lock().held()
    }

    fn forget_unchanged(&self, held: &HeldNode) {
        let mut nodes = self.nodes.lock();
        let forgotten = if nodes.is_unchanged(held) { nodes.forget(held.id, held.lookups) } else { None };
        drop(nodes);
        if let Some((container, inner, _)) = forgotten {
            container.fs.forget(inner, held.lookups);
        }
    }

    fn knows(&self, node: NodeId) -> bool {
        self.nodes.lock().get(node).is_some()
    }

    fn keeps_listings(&self) -> bool {
        false
    }

    fn restore_share(&self, node: NodeId, user: u32) -> (Tenant, Option<Permit>) {
        match self.nodes.lock().get(node) {
            Some((container, _)) => (container.tenant, container.fs.take_backing_id(user)),
            None => (Tenant::default(), None),
        }
    }

    fn records(&self) -> &Arc<Records> {
        self.containers.host().fs.records()
    }

    fn read_mode(&self) -> &ReadMode {
        self.containers.host().fs.read_mode()
    }
}
