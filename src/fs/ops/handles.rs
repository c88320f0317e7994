//! Open files, by their handles.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::activity::Number;
use crate::fs::host::Credentials;
use crate::fs::inode::Node;
use crate::fs::limits::quota::Permit;
use crate::fs::ops::filling::Filling;
use crate::fs::ops::poll_state::PollWaiters;
use crate::fs::{FsResult, HandleId, Host};
use crate::policy::Grant;
use crate::records::{FileRecord, Records};

/// An open file.
#[derive(Debug)]
pub(in crate::fs) struct OpenFile<H: Host> {
    /// The node of the file.
    pub(in crate::fs) node: Arc<Node>,
    /// The backing file, opened for this handle alone. So the kernel's state per open file (the position in a list, a
    /// PSI trigger, a reset of `memory.peak`) is per handle.
    pub(in crate::fs) backing: H::File,
    /// A membership file's second descriptor, with which the kernel checks both ends of a migration, if that became
    /// possible only later.
    pub(in crate::fs) checked: OnceLock<H::File>,
    /// The policy's grant for writes; `None` if the file is open for reading only.
    pub(in crate::fs) writes: Option<Grant>,
    /// The opener's rights, if it's open for writing.
    pub(in crate::fs) opener: Option<Credentials>,
    /// The pid namespace whose numbers a pid list shows, if the open has fixed it.
    pub(in crate::fs) shows: Option<FsResult<H::PidNs>>,
    /// Whether the opener was made to look the name up again, and came back.
    pub(in crate::fs) is_retry: bool,
    /// Whether the kernel may be filling a page through it.
    pub(in crate::fs) filling: Filling,
    /// The permit for the open file.
    pub(in crate::fs) _share: Permit,
    /// The waiters that poll the file.
    pub(in crate::fs) waiting: PollWaiters,
    /// What the next server needs to know of it.
    pub(in crate::fs) record: Option<FileRecord>,
}

impl<H: Host> Drop for OpenFile<H> {
    fn drop(&mut self) {
        // Before the descriptors are closed: the next server takes what is recorded for open.
        self.record = None;
    }
}

/// All open files of a view.
#[derive(Debug)]
pub(in crate::fs) struct Handles<H: Host> {
    /// Several filesystems of a server may share the counter.
    next: Arc<AtomicU64>,
    /// Leaf lock: nothing else is locked, and no system call made, while it's held.
    open: RwLock<HashMap<u64, Arc<OpenFile<H>>>>,
    /// Where they are counted.
    records: Arc<Records>,
}

impl<H: Host> Handles<H> {
    pub(in crate::fs) fn new(records: &Arc<Records>) -> Self {
        let next = Arc::new(AtomicU64::new(HandleId::NONE.0 + 1));
        Self { next, open: RwLock::default(), records: Arc::clone(records) }
    }

    /// Takes the numbers of handles from `next`, from now on.
    pub(in crate::fs) fn number_by(&mut self, next: Arc<AtomicU64>) {
        self.next = next;
    }

    /// Begins to number handles from here on.
    pub(in crate::fs) fn begin_at(&self, first: u64) {
        self.next.fetch_max(first, Ordering::Relaxed);
    }

    /// Returns the number of the next handle, which is never used again.
    pub(in crate::fs) fn number(&self) -> HandleId {
        HandleId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(in crate::fs) fn insert(&self, handle: HandleId, file: OpenFile<H>) {
        if self.open.write().insert(handle.0, Arc::new(file)).is_none() {
            self.records.activity().add(Number::OpenFiles, 1);
        }
    }

    /// Removes a handle. The caller drops it, which may close a file, when no lock is held.
    pub(in crate::fs) fn remove(&self, handle: HandleId) -> Option<Arc<OpenFile<H>>> {
        let removed = self.open.write().remove(&handle.0);
        if removed.is_some() {
            self.records.activity().add(Number::OpenFiles, -1);
        }
        removed
    }

    pub(in crate::fs) fn ids(&self) -> Vec<HandleId> {
        self.open.read().keys().map(|number| HandleId(*number)).collect()
    }

    pub(in crate::fs) fn get(&self, handle: HandleId) -> Option<Arc<OpenFile<H>>> {
        self.open.read().get(&handle.0).map(Arc::clone)
    }

    pub(in crate::fs) fn len(&self) -> usize {
        self.open.read().len()
    }
}
