//! Open files and directories, by the number that the kernel hands back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::ListedEntry;
use super::host::Credentials;
use super::poll::Waiting;
use super::share::Share;
use crate::policy::Grant;
use crate::view::Node;

/// The number of an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile<F> {
    /// Which file.
    pub(super) node: Arc<Node>,
    /// The backing file, opened for this handle alone: what the kernel keeps per open file (the position in a list, a PSI trigger, a
    /// reset of `memory.peak`) is kept per handle.
    pub(super) backing: F,
    /// What the policy granted to writes; `None` if it's open for reading only.
    pub(super) writes: Option<Grant>,
    /// Who opened it, if for writing.
    pub(super) opener: Option<Credentials>,
    /// Whose it is, for as long as it's open.
    pub(super) _share: Share,
    /// Who waits for it.
    pub(super) waiting: Waiting,
}

/// How many listings are kept, however many directories are open and half read: each is as long as its directory, and the memory is the
/// server's. Cookies don't depend on the listing, so a displaced one is taken anew when somebody goes on with it.
const LISTINGS: usize = 16;

pub(super) type Listing = Mutex<Option<Arc<Vec<ListedEntry>>>>;

/// What a handle stands for.
#[derive(Debug)]
pub(super) enum Open<F> {
    File(Arc<OpenFile<F>>),
    Directory(Arc<Listing>),
}

/// All open files and directories of a view.
#[derive(Debug)]
pub(super) struct Handles<F> {
    next: AtomicU64,
    /// Leaf lock: nothing else is locked, and no system call made, while it's held.
    open: RwLock<HashMap<u64, Open<F>>>,
    /// The open directories whose listings are kept, the oldest first. Leaf lock.
    listed: Mutex<VecDeque<HandleId>>,
}

impl<F> Default for Handles<F> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::default(), listed: Mutex::default() }
    }
}

impl<F> Handles<F> {
    pub(super) fn insert(&self, open: Open<F>) -> HandleId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, open);
        HandleId(number)
    }

    /// Takes a handle out. The caller drops it, which may close a file, when no lock is held.
    pub(super) fn remove(&self, handle: HandleId) -> Option<Open<F>> {
        self.open.write().remove(&handle.0)
    }

    pub(super) fn file(&self, handle: HandleId) -> Option<Arc<OpenFile<F>>> {
        match self.open.read().get(&handle.0)? {
            Open::File(file) => Some(Arc::clone(file)),
            Open::Directory(_) => None,
        }
    }

    pub(super) fn listing(&self, handle: HandleId) -> Option<Arc<Listing>> {
        match self.open.read().get(&handle.0)? {
            Open::Directory(listing) => Some(Arc::clone(listing)),
            Open::File(_) => None,
        }
    }

    /// Takes note that this directory's listing is kept. Returns the one to drop for it, if there are too many.
    pub(super) fn keep_listing(&self, handle: HandleId) -> Option<Arc<Listing>> {
        let displaced = {
            let mut listed = self.listed.lock();
            if listed.contains(&handle) {
                return None;
            }
            listed.push_back(handle);
            if listed.len() > LISTINGS { listed.pop_front() } else { None }
        };
        // It may have been closed long ago.
        self.listing(displaced?)
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().len()
    }
}
