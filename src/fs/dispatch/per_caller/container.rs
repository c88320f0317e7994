//! Containers, and the limits that they share.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::fs::cache::listings::{Listings, PARTS_MAX};
use crate::fs::cgroup_fs::BACKING_IDS_MAX;
use crate::fs::dispatch::Tenant;
use crate::fs::limits::quota::Quota;
use crate::fs::limits::xattr_budget::XattrBudget;
use crate::fs::{Caller, CgroupFs, FsResult, HandleId, Host, ReadMode, RejectionLog, SysResult};
use crate::limit::ProcessorTime;
use crate::records::{NoteRecord, ONE_VIEW, Records, SavedScope, SavedXattr};
use crate::view::View;

/// A container, and its filesystem.
#[derive(Debug)]
pub struct Container<H: Host> {
    pub(super) number: u64,
    pub(super) tenant: Tenant,
    pub(super) fs: Arc<CgroupFs<H>>,
    /// What the next server needs to know of it.
    record: OnceLock<NoteRecord>,
}

/// What an earlier server knew of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedContainer {
    /// Its number.
    pub number: u64,
    /// The inode number of each hierarchy's boundary.
    pub boundaries: Vec<Option<u64>>,
    /// When it was made: seconds and nanoseconds since 1970.
    pub born: (u64, u32),
}

impl<H: Host> Container<H> {
    /// Its number, which no other container ever has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The filesystem that its processes see.
    pub fn fs(&self) -> &CgroupFs<H> {
        &self.fs
    }

    /// What the next server needs to know of its filesystem.
    pub fn saved(&self) -> SavedContainer {
        let born = self.fs.born.duration_since(UNIX_EPOCH).unwrap_or_default();
        let born = (born.as_secs(), born.subsec_nanos());
        SavedContainer { number: self.number, boundaries: self.fs.boundaries.clone(), born }
    }

    /// Notes its record, which is dropped with it.
    pub fn set_record(&self, record: NoteRecord) {
        let _ = self.record.set(record);
    }
}

/// What the containers of a mount share: the ids of their open files, and the limit on how many there may be.
#[derive(Debug)]
pub struct SharedLimits {
    next_container: AtomicU64,
    next_handle: Arc<AtomicU64>,
    passes_through: bool,
    read_mode: Arc<ReadMode>,
    files: Quota,
    backing_ids: Quota,
    listings: Quota,
    by_tenant: Mutex<HashMap<Tenant, Allowance>>,
    /// The xattrs of tenants that an earlier server knew.
    left_xattrs: Mutex<HashMap<Tenant, Vec<SavedXattr>>>,
    /// What the next server needs to know.
    records: Arc<Records>,
}

/// The limits that all containers of a tenant share: a tenant can have many containers by having many pid namespaces.
#[derive(Clone, Debug)]
struct Allowance {
    files: Quota,
    backing_ids: Quota,
    listings: Quota,
    log: Arc<RejectionLog>,
    xattrs: Arc<XattrBudget>,
    processor: Arc<ProcessorTime>,
}

impl SharedLimits {
    /// The limits for a server that may have `most_files` open files. `passes_through` says whether the kernel may
    /// read files itself.
    pub fn new(most_files: usize, passes_through: bool, records: Arc<Records>) -> Self {
        let mut left_xattrs: HashMap<Tenant, Vec<SavedXattr>> = HashMap::new();
        for saved in records.xattrs() {
            let tenant = Tenant::of_numbers(saved.state.tenant).unwrap_or_default();
            left_xattrs.entry(tenant).or_default().push(saved);
        }
        Self {
            next_container: AtomicU64::default(),
            next_handle: Arc::new(AtomicU64::new(HandleId::NONE.0 + 1)),
            passes_through,
            read_mode: Arc::default(),
            files: Quota::new(most_files),
            backing_ids: Quota::of(BACKING_IDS_MAX),
            listings: Quota::of(PARTS_MAX),
            by_tenant: Mutex::default(),
            left_xattrs: Mutex::new(left_xattrs),
            records,
        }
    }

    /// What the next server needs to know.
    pub fn records(&self) -> &Arc<Records> {
        &self.records
    }

    /// Makes a container with this view, or continues with one that an earlier server has left. The containers of one
    /// tenant share its limits. `recorded` returns what that server has recorded in a scope; it's called if nothing fails.
    ///
    /// # Errors
    /// As [`CgroupFs::new`].
    pub fn container<H: Host>(
        &self,
        view: Arc<View>,
        host: H,
        tenant: Tenant,
        saved: Option<SavedContainer>,
        recorded: impl FnOnce(u32) -> SavedScope,
    ) -> SysResult<Arc<Container<H>>> {
        let root = CgroupFs::find_root(&view, &host, None)?;
        let SavedContainer { number, boundaries, born: (seconds, nanoseconds) } = match saved {
            Some(saved) => {
                self.next_container.fetch_max(saved.number + 1, Ordering::Relaxed);
                saved
            }
            None => {
                let found = (0..view.hierarchies.len()).map(|index| CgroupFs::find_boundary(&view, &host, index));
                let boundaries = found.collect::<SysResult<_>>()?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let number = self.next_container.fetch_add(1, Ordering::Relaxed);
                SavedContainer { number, boundaries, born: (now.as_secs(), now.subsec_nanos()) }
            }
        };
        let born = UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds)).unwrap_or(UNIX_EPOCH);
        let scope = scope(number);
        let records = (Arc::clone(&self.records), scope, recorded(scope));
        let (mut fs, left) = CgroupFs::of_tops(view, host, (root, boundaries), born, records);
        fs.keep_nothing();
        fs.read_mode = Arc::clone(&self.read_mode);
        if !self.passes_through {
            fs.disable_passthrough();
        }
        let left_xattrs = || self.left_xattrs.lock().remove(&tenant).unwrap_or_default();
        let allowance = || Allowance {
            files: self.files.below(tenant),
            backing_ids: self.backing_ids.below(tenant),
            listings: self.listings.below(tenant),
            log: Arc::default(),
            xattrs: Arc::new(XattrBudget::new(&self.records, tenant, &left_xattrs())),
            processor: Arc::default(),
        };
        let Allowance { files, backing_ids, listings, log, xattrs, processor } =
            self.by_tenant.lock().entry(tenant).or_insert_with(allowance).clone();
        (fs.shares, fs.backing_ids, fs.log, fs.xattrs, fs.tenant) = (files, backing_ids, log, xattrs, tenant);
        fs.listings = Listings::within(listings);
        fs.processor = processor;
        fs.handles.number_by(Arc::clone(&self.next_handle));
        fs.resume(left);
        Ok(Arc::new(Container { number, tenant, fs: Arc::new(fs), record: OnceLock::new() }))
    }

    /// Forgets a tenant that has ended. Its files may still be open elsewhere, and count until they are closed.
    /// Xattrs that a user of the host has set count again when that user comes back: a user can make any number of
    /// pid namespaces, one after the other.
    pub fn forget(&self, tenant: Tenant) {
        self.forget_xattrs_left(|left| left == tenant);
        let mut all = self.by_tenant.lock();
        let stays = all.get(&tenant).is_some_and(|allowance| may_come_back(tenant) && allowance.xattrs.may_hold_any());
        let forgotten = if stays { None } else { all.remove(&tenant) };
        drop(all);
        drop(forgotten);
    }

    /// Forgets the xattrs that an earlier server has left of tenants that have ended.
    pub fn forget_xattrs_left(&self, has_ended: impl Fn(Tenant) -> bool) {
        let mut left = self.left_xattrs.lock();
        let ended = left.extract_if(|tenant, _| !may_come_back(*tenant) && has_ended(*tenant));
        for saved in ended.flat_map(|(_, saved)| saved) {
            drop(self.records.take_over_xattr(&saved));
        }
    }
}

/// Whether a tenant whose last container has ended can have another one.
fn may_come_back(tenant: Tenant) -> bool {
    matches!(tenant, Tenant::User(_) | Tenant::Unknown)
}

/// The scope in which the container with this number records its nodes.
fn scope(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).saturating_add(ONE_VIEW + 1)
}

/// Finds the container of a caller.
pub trait Containers: Debug + Send + Sync + 'static {
    /// The host behind their filesystems.
    type Host: Host;

    /// Returns the caller's container. The caller waits for the answer, so its id can't come to mean another process.
    ///
    /// # Errors
    /// A rejection if the container can't be found; the host's error.
    fn of(&self, caller: &Caller) -> FsResult<Arc<Container<Self::Host>>>;

    /// Returns the container of callers who share the server's pid namespace: the host itself.
    fn host(&self) -> &Arc<Container<Self::Host>>;

    /// Returns the containers that an earlier server has left, once.
    fn take_restored(&self) -> Vec<Arc<Container<Self::Host>>> {
        Vec::new()
    }

    /// Waits until containers have ended, and forgets them. Returns false once [`Containers::stop_waiting`] was
    /// called.
    fn forget_the_ended(&self) -> bool;

    /// Lets [`Containers::forget_the_ended`] return.
    fn stop_waiting(&self);
}
