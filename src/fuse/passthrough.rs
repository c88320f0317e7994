//! FUSE passthrough (Linux 6.9): the kernel itself serves the reads of a file from the backing file.
//!
//! All open files of one inode must be passed through by the same backing id (`fuse_inode_uncached_io_start`), or
//! none of them; otherwise open fails with EIO. So later files get what the first one got, until the last one is
//! closed. Files that are opened for writing carry the id too, together with FOPEN_DIRECT_IO, which takes precedence:
//! writes always go to the server and its policy.
//!
//! An id stays after the last file of its node is closed, since making one takes longer than the rest of an open.
//! It's returned when its tenant needs it for another node, or when the kernel forgets the node.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{FileHandle, FopenFlags, ReplyOpen};
use nix::errno::Errno;
use parking_lot::Mutex;

use crate::fs::NodeId;
use crate::fs::dispatch::{Dispatch, Tenant};
use crate::fs::{CgroupFs, Host, Permit};
use crate::records::{Number, PassthroughRecord, Records};
use crate::sys::fuse::{close_backing, open_backing, wrap_backing};

/// How many ids are examined to find one that can be returned.
const GIVE_BACK_SCAN_MAX: usize = 16;

/// How many ids a server that was killed may have made without noting them: one for each thread that opens files.
const UNNOTED_MAX: u32 = 16;

/// A backing id, which is returned to the kernel when this is dropped.
#[derive(Debug)]
pub(super) struct BackingId {
    number: u32,
    device: Arc<OwnedFd>,
}

impl BackingId {
    /// Replies that a file is open which the kernel reads itself.
    pub(super) fn reply(&self, reply: ReplyOpen, handle: FileHandle, flags: FopenFlags) {
        let id = wrap_backing(&reply, self.number);
        reply.opened_passthrough(handle, flags, &id);
        // It's this one's to return.
        let _ = id.into_raw();
    }
}

impl Drop for BackingId {
    fn drop(&mut self) {
        if let Err(errno) = close_backing(self.device.as_fd(), self.number) {
            tracing::debug!(%errno, "a backing file wasn't registered");
        }
    }
}

/// The backing ids of a connection.
#[derive(Debug)]
pub(super) struct Passthrough {
    device: Arc<OwnedFd>,
    /// What the next server needs to know.
    records: Arc<Records>,
    enabled: AtomicBool,
    /// Set when an id can't be made although the kernel has announced passthrough.
    fails: AtomicBool,
    /// No system call is made while it's held.
    files: Mutex<OpenNodes<Arc<BackingId>>>,
}

/// The nodes with open files, or with an unused id. `I` is an id.
#[derive(Debug)]
struct OpenNodes<I> {
    nodes: HashMap<NodeId, OpenNode<I>>,
    ids: HashMap<Tenant, TenantIds>,
}

/// The ids of a tenant.
#[derive(Debug, Default)]
struct TenantIds {
    held: usize,
    /// The nodes that got one, oldest first. Some may have lost it since.
    nodes: VecDeque<NodeId>,
}

impl<I> Default for OpenNodes<I> {
    fn default() -> Self {
        Self { nodes: HashMap::new(), ids: HashMap::new() }
    }
}

/// The open files of a node.
#[derive(Debug)]
struct OpenNode<I> {
    /// The backing id; `None`: the server reads them.
    id: Option<OwnedId<I>>,
    tenant: Tenant,
    /// The number of open files.
    count: u64,
    record: Option<PassthroughRecord>,
}

impl<I> OpenNode<I> {
    fn set_count(&mut self, count: u64) {
        self.count = count;
        if let Some(record) = &self.record {
            record.set_count(count);
        }
    }
}

/// An id and its permit.
#[derive(Debug)]
struct OwnedId<I> {
    id: I,
    _share: Option<Permit>,
}

impl<I: Clone> OpenNodes<I> {
    /// Opens another file of a node, in the way that the others are open. `None` if this is the first.
    fn open(&mut self, node: NodeId) -> Option<Option<I>> {
        let opened = self.nodes.get_mut(&node)?;
        opened.set_count(opened.count + 1);
        Some(opened.id.as_ref().map(|held| held.id.clone()))
    }

    /// Opens the first file of a node with this id, unless another thread was quicker. Returns the id that isn't
    /// needed.
    fn begin(
        &mut self,
        node: NodeId,
        tenant: Tenant,
        id: Option<OwnedId<I>>,
        record: impl FnOnce() -> Option<PassthroughRecord>,
    ) -> (Option<I>, Option<OwnedId<I>>) {
        match self.nodes.entry(node) {
            Entry::Occupied(mut entry) => {
                let opened = entry.get_mut();
                opened.set_count(opened.count + 1);
                (opened.id.as_ref().map(|held| held.id.clone()), id)
            }
            Entry::Vacant(entry) => {
                let given = id.as_ref().map(|held| held.id.clone());
                entry.insert(OpenNode { id, tenant, count: 1, record: record() });
                if given.is_some() {
                    let ids = self.ids.entry(tenant).or_default();
                    ids.held += 1;
                    ids.nodes.push_back(node);
                }
                (given, None)
            }
        }
    }

    /// Restores the open files of a node that an earlier server has recorded.
    fn restore(&mut self, node: NodeId, tenant: Tenant, count: u64, id: Option<OwnedId<I>>, record: PassthroughRecord) {
        if id.is_some() {
            let ids = self.ids.entry(tenant).or_default();
            ids.held += 1;
            ids.nodes.push_back(node);
        }
        self.nodes.insert(node, OpenNode { id, tenant, count, record: Some(record) });
    }

    /// Closes a file of a node.
    fn close(&mut self, node: NodeId) {
        let Entry::Occupied(mut entry) = self.nodes.entry(node) else { return };
        let opened = entry.get_mut();
        opened.set_count(opened.count.saturating_sub(1));
        if opened.count == 0 && opened.id.is_none() {
            entry.remove();
        }
    }

    /// Takes an unused id of a tenant, if a short search finds one.
    fn give_back(&mut self, tenant: Tenant) -> Option<OpenNode<I>> {
        for _ in 0..GIVE_BACK_SCAN_MAX {
            let ids = self.ids.get_mut(&tenant)?;
            let node = ids.nodes.pop_front()?;
            // Otherwise the kernel forgot the node, and the id is gone or belongs to another tenant.
            if let Some(opened) = self.nodes.get(&node)
                && opened.id.is_some()
                && opened.tenant == tenant
            {
                if opened.count == 0 {
                    return self.forget(node);
                }
                ids.nodes.push_back(node);
            }
        }
        None
    }

    fn forget(&mut self, node: NodeId) -> Option<OpenNode<I>> {
        let forgotten = self.nodes.remove(&node)?;
        // If the server is killed before all of it is dropped, nobody must get the id from the record.
        forgotten.record.iter().for_each(PassthroughRecord::set_ending);
        if forgotten.id.is_some()
            && let Entry::Occupied(mut entry) = self.ids.entry(forgotten.tenant)
        {
            let ids = entry.get_mut();
            ids.held = ids.held.saturating_sub(1);
            if ids.held == 0 {
                entry.remove();
            } else if ids.nodes.len() > 2 * ids.held + GIVE_BACK_SCAN_MAX {
                let is_held = |node: &NodeId| self.nodes.get(node).is_some_and(|opened| opened.id.is_some());
                ids.nodes.retain(is_held);
            }
        }
        Some(forgotten)
    }
}

/// A file that is being opened. Unless the kernel is told that it's open, dropping this undoes the open.
#[derive(Debug)]
pub(super) struct Opening {
    passthrough: Arc<Passthrough>,
    node: Option<NodeId>,
    id: Option<Arc<BackingId>>,
}

impl Opening {
    /// Whether the kernel will read it itself.
    pub(super) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    /// Marks the file as open: the kernel is told so, and will say when it's closed.
    pub(super) fn finish(mut self) -> Option<Arc<BackingId>> {
        self.node = None;
        self.id.take()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(node) = self.node {
            self.passthrough.close(node);
        }
    }
}

impl Passthrough {
    /// The backing ids of a connection with this `/dev/fuse`, with those that an earlier server has left.
    pub(super) fn new(device: OwnedFd, dispatch: &impl Dispatch) -> Self {
        let records = dispatch.records();
        let device = Arc::new(device);
        let mut files = OpenNodes::default();
        let saved = records.passthroughs();
        // A server that was killed may have registered some and not noted it. The kernel counts upwards, from 1 on.
        let last = records.get(Number::LastBackingFile) as u32;
        let unnoted = last.saturating_sub(UNNOTED_MAX).max(1)..=last.saturating_add(UNNOTED_MAX);
        for number in unnoted.filter(|_| !saved.is_empty() || last > 0) {
            if !saved.iter().any(|saved| saved.backing == Some(number)) {
                let _ = close_backing(device.as_fd(), number);
            }
        }
        for saved in saved {
            let record = records.take_over_passthrough(&saved);
            if saved.is_ending() {
                // ENOENT: it was given back.
                if let Some(number) = saved.backing {
                    let _ = close_backing(device.as_fd(), number);
                }
                continue;
            }
            let id = saved.backing.map(|number| Arc::new(BackingId { number, device: Arc::clone(&device) }));
            let node = NodeId::from_u64(saved.node);
            let (tenant, share) = dispatch.restore_share(node, saved.user);
            let id = id.map(|id| OwnedId { id, _share: share });
            files.restore(node, tenant, saved.count, id, record);
        }
        Self {
            device,
            records: Arc::clone(records),
            enabled: AtomicBool::default(),
            fails: AtomicBool::new(records.get(Number::PassthroughFails) != 0),
            files: Mutex::new(files),
        }
    }

    /// Notes whether the kernel supports passthrough. Returns whether it has worked so far.
    pub(super) fn enable(&self, can: bool) -> bool {
        self.enabled.store(can, Ordering::Release);
        can && !self.fails.load(Ordering::Acquire)
    }

    /// Opens a file of a node of `fs`, whose id in the kernel is `number`, for a user.
    pub(super) fn open<H: Host>(
        self: &Arc<Self>,
        fs: &CgroupFs<H>,
        node: NodeId,
        number: NodeId,
        user: u32,
    ) -> Opening {
        let opening = |node, id| Opening { passthrough: Arc::clone(self), node, id };
        if !self.enabled.load(Ordering::Acquire) {
            return opening(None, None);
        }
        // Do this even after ids fail: some files may be open with one.
        self.records.note_counted(number.as_u64());
        let known = self.files.lock().open(number);
        if let Some(id) = known {
            return opening(Some(number), id);
        }
        if self.fails.load(Ordering::Acquire) || !fs.passes_through(node) {
            self.records.note_counted(0);
            return opening(None, None);
        }
        let made = self.make(fs, node, user);
        if made.is_none() && self.fails.load(Ordering::Acquire) {
            self.records.note_counted(0);
            return opening(None, None);
        }
        let mut files = self.files.lock();
        let backing = made.as_ref().map(|made| made.id.number);
        let record = || self.records.add_passthrough(number.as_u64(), backing, user, 1);
        let (id, unneeded) = files.begin(number, fs.tenant(), made, record);
        drop(files);
        drop(unneeded);
        opening(Some(number), id)
    }

    fn make<H: Host>(&self, fs: &CgroupFs<H>, node: NodeId, user: u32) -> Option<OwnedId<Arc<BackingId>>> {
        let mut share = fs.take_backing_id(user);
        if share.is_none() {
            let idle = self.files.lock().give_back(fs.tenant());
            drop(idle);
            share = fs.take_backing_id(user);
        }
        let share = share?;
        match open_backing(self.device.as_fd(), fs.passthrough(node)?.as_fd()) {
            Ok(number) => {
                self.records.set(Number::LastBackingFile, u64::from(number));
                let id = Arc::new(BackingId { number, device: Arc::clone(&self.device) });
                Some(OwnedId { id, _share: Some(share) })
            }
            Err(errno) => {
                tracing::debug!(%errno, "a file can't be passed through");
                // Other errors are temporary: no memory, or too many open files.
                let is_lasting =
                    |errno| matches!(errno, Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL);
                if is_lasting(errno) {
                    // Passthrough needs CAP_SYS_ADMIN in the initial user namespace, and a kernel that has it
                    // enabled.
                    self.fails.store(true, Ordering::Release);
                    self.records.set(Number::PassthroughFails, 1);
                    fs.read_mode().disable_passthrough();
                }
                None
            }
        }
    }

    /// Notes that the kernel has closed a file of a node.
    pub(super) fn close(&self, node: NodeId) {
        if self.enabled.load(Ordering::Acquire) {
            self.files.lock().close(node);
        }
    }

    /// Handles a node that the kernel has forgotten. The kernel may have looked it up again meanwhile and opened
    /// files with its id.
    pub(super) fn forget(&self, node: NodeId, is_known: impl FnOnce() -> bool) {
        let mut files = self.files.lock();
        let forgotten = if is_known() { None } else { files.forget(node) };
        drop(files);
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Tenant = Tenant::Container(1);
    const SECOND: Tenant = Tenant::Container(2);

    fn node(number: u64) -> NodeId {
        NodeId::from_u64(number)
    }

    fn held(id: u64) -> Option<OwnedId<u64>> {
        Some(OwnedId { id, _share: None })
    }

    #[test]
    fn all_open_files_of_a_node_are_open_alike() {
        let mut files = OpenNodes::default();
        assert_eq!(files.open(node(7)), None);
        assert_eq!(files.begin(node(7), FIRST, None, || None).0, None);
        // An id that comes too late isn't used while a file is open without one.
        let (id, unneeded) = files.begin(node(7), FIRST, held(1), || None);
        assert!(id.is_none() && unneeded.is_some());
        files.close(node(7));
        assert_eq!(files.open(node(7)), Some(None));
        files.close(node(7));
        files.close(node(7));
        assert_eq!(files.open(node(7)), None, "all are closed");
        assert_eq!(files.begin(node(7), FIRST, held(2), || None).0, Some(2));
        let (id, unneeded) = files.begin(node(7), FIRST, None, || None);
        assert!(id == Some(2) && unneeded.is_none());
        files.close(node(7));
        files.close(node(7));
        assert_eq!(files.open(node(7)), Some(Some(2)), "an id is kept");
    }

    #[test]
    fn only_what_is_closed_and_ones_own_is_given_back() {
        let mut files = OpenNodes::default();
        for number in 0..10 {
            files.begin(node(number), if number < 5 { FIRST } else { SECOND }, held(number), || None);
        }
        assert!(files.give_back(FIRST).is_none(), "all are open");
        for number in [3, 8] {
            files.close(node(number));
        }
        let given = |files: &mut OpenNodes<u64>, tenant| {
            files.give_back(tenant).and_then(|opened| opened.id).map(|held| held.id)
        };
        assert_eq!(given(&mut files, FIRST), Some(3));
        assert_eq!(given(&mut files, FIRST), None);
        files.forget(node(8));
        files.begin(node(8), FIRST, held(80), || None);
        files.close(node(8));
        assert_eq!(given(&mut files, SECOND), None, "it belongs to another tenant now");
        assert_eq!(given(&mut files, FIRST), Some(80));
        for number in 0..10 {
            files.forget(node(number));
        }
        assert!(files.nodes.is_empty() && files.ids.is_empty());
    }
}
