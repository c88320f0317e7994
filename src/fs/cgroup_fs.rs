//! The filesystem: its state, and how it decides an operation.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use super::cache::listings::Listings;
use super::cache::negative::NegativeCache;
use super::cache::own_changes::OwnChanges;
use super::dispatch::Tenant;
use super::host::CallerProcess;
use super::inode::{Node, NodeId, NodeTable, Object};
use super::inotify::own_writes::OwnWrites;
use super::inotify::queue::Replays;
use super::left_behind::LeftBehind;
use super::limits::RejectionLog;
use super::limits::quota::Quota;
use super::limits::xattr_budget::XattrBudget;
use super::ops::ReadMode;
use super::ops::handles::Handles;
use super::ops::retried_opens::RetriedOpens;
use super::{Caller, FsError, FsResult, HandleId, Host, SysResult};
use crate::activity::{self, Subject};
use crate::cgroup::FileClass;
use crate::limit::ProcessorTime;
use crate::policy::{self, Denial, Grant, Operation, Verdict};
use crate::records::{Number, ONE_VIEW, Records, SavedScope};
use crate::view::{Position, View};

/// The maximum number of nodes of a connection with a backing id: each is an open file in the kernel.
pub(super) const BACKING_IDS_MAX: usize = 8192;

/// The filesystem of one view: its inode table, open files and caches, over a host.
#[derive(Debug)]
pub struct CgroupFs<H: Host> {
    pub(super) view: Arc<View>,
    pub(super) host: H,
    pub(super) nodes: NodeTable,
    pub(super) handles: Handles<H>,
    pub(super) listings: Listings,
    pub(super) negative: NegativeCache,
    pub(super) own: Arc<OwnChanges>,
    pub(super) own_writes: OwnWrites,
    pub(super) replays: Replays,
    pub(super) shares: Quota,
    pub(super) backing_ids: Quota,
    /// The tenant with whose other containers it shares its limits.
    pub(super) tenant: Tenant,
    pub(super) log: Arc<RejectionLog>,
    pub(super) xattrs: Arc<XattrBudget>,
    pub(super) processor: Arc<ProcessorTime>,
    /// Whether the kernel may not cache anything.
    pub(super) coherent: bool,
    /// Whether the kernel may read files itself.
    pub(super) passes_through: bool,
    /// Who reads files, the kernel or the server.
    pub(super) read_mode: Arc<ReadMode>,
    pub(super) retried_opens: RetriedOpens,
    pub(super) born: SystemTime,
    /// The inode number of each hierarchy's boundary. A view is bound to the cgroups that it was made for: if the
    /// host removes one and makes one of the same name for another container, the view doesn't show it.
    pub(super) boundaries: Vec<Option<u64>>,
    /// What the next server needs to know.
    pub(super) records: Arc<Records>,
}

impl<H: Host> CgroupFs<H> {
    /// A filesystem for this view.
    ///
    /// # Errors
    /// When the host can't find the top of a hierarchy.
    pub fn new(view: Arc<View>, host: H) -> SysResult<Self> {
        Self::with_records(view, host, Records::none())
    }

    /// A filesystem for this view, which continues with what an earlier server has recorded.
    ///
    /// # Errors
    /// When the host can't find the top of a hierarchy.
    pub fn with_records(view: Arc<View>, host: H, records: Arc<Records>) -> SysResult<Self> {
        let (root, boundaries) = Self::find_tops(&view, &host, &records)?;
        let born = born(&records);
        let saved = records.scopes().remove(&ONE_VIEW).unwrap_or_default();
        let xattrs = XattrBudget::new(&records, Tenant::default(), &records.xattrs());
        let (mut fs, left) = Self::of_tops(view, host, (root, boundaries), born, (records, ONE_VIEW, saved));
        fs.xattrs = Arc::new(xattrs);
        fs.resume(left);
        Ok(fs)
    }

    /// A filesystem with this root and boundaries, which was made then, and with the nodes that an earlier server has
    /// recorded in its scope. Also returns what it has to be resumed with.
    pub(super) fn of_tops(
        view: Arc<View>,
        host: H,
        (root, boundaries): (Node, Vec<Option<u64>>),
        born: SystemTime,
        (records, scope, saved): (Arc<Records>, u32, SavedScope),
    ) -> (Self, LeftBehind) {
        let classify = |parent: &Node, name: &OsStr| classify(&view, parent, name);
        let (nodes, by_record) = NodeTable::new(root, (Arc::clone(&records), scope), saved.nodes, classify);
        let fs = Self {
            boundaries,
            shares: Quota::new(host.most_files()),
            backing_ids: Quota::of(BACKING_IDS_MAX),
            tenant: Tenant::default(),
            view,
            host,
            nodes,
            handles: Handles::new(&records),
            listings: Listings::default(),
            negative: NegativeCache::new(&records, saved.absences),
            own: OwnChanges::new(&records, &saved.own_changes),
            own_writes: OwnWrites::new(&records, saved.own_writes),
            replays: Replays::default(),
            log: Arc::default(),
            xattrs: Arc::new(XattrBudget::new(&records, Tenant::default(), &[])),
            processor: Arc::default(),
            coherent: false,
            passes_through: true,
            read_mode: Arc::default(),
            retried_opens: RetriedOpens::new(&records, scope, saved.retries),
            born,
            records,
        };
        (fs, LeftBehind { nodes: by_record, files: saved.files })
    }

    /// What the next server needs to know.
    pub fn records(&self) -> &Arc<Records> {
        &self.records
    }

    /// The view that it serves.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The tenant with whose other containers it shares its limits.
    pub fn tenant(&self) -> Tenant {
        self.tenant
    }

    /// The processor time that it uses of the server.
    pub fn processor(&self) -> &ProcessorTime {
        &self.processor
    }

    /// Whether the kernel holds this node.
    pub(crate) fn knows(&self, id: NodeId) -> bool {
        self.nodes.get(id).is_some()
    }

    /// The names that lead from the root to this node; `None` if the kernel doesn't hold the node.
    pub(crate) fn names_of(&self, id: NodeId) -> Option<Vec<std::ffi::OsString>> {
        self.nodes.get(id).map(|node| node.view_components())
    }

    /// How many nodes the kernel holds, besides the root.
    pub fn known_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns how many open files have a handle.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// Logs a rejection: the caller, the operation and the path.
    pub fn log_rejection(&self, caller: &Caller, operation: &str, id: NodeId, name: Option<&OsStr>, denial: &Denial) {
        let subject = self.subject(caller, id, name);
        self.log.record(denial, operation, caller.uid, &subject);
        activity::describe(subject);
    }

    /// Tells those who watch what a caller's request is about: a node, or an entry of it.
    pub fn describe(&self, caller: &Caller, id: NodeId, name: Option<&OsStr>) {
        activity::describe(self.subject(caller, id, name));
    }

    /// The same for an open file.
    pub fn describe_file(&self, caller: &Caller, handle: HandleId) {
        if let Some(file) = self.handles.get(handle) {
            activity::describe(self.subject_at(caller, file.node.view_path()));
        }
    }

    fn subject(&self, caller: &Caller, id: NodeId, name: Option<&OsStr>) -> Subject {
        let mut path = self.nodes.get(id).map(|node| node.view_path()).unwrap_or_default();
        if let Some(name) = name {
            if path != "/" {
                path.push("/");
            }
            path.push(name);
        }
        self.subject_at(caller, path)
    }

    fn subject_at(&self, caller: &Caller, path: OsString) -> Subject {
        let CallerProcess { pid, command } = self.host.process(caller);
        Subject { pid, command: command.into_bytes(), path: path.into_vec() }
    }

    /// Returns the node with this id. The kernel only uses ids that it was given; `ESTALE` otherwise.
    pub(super) fn node(&self, id: NodeId) -> FsResult<Arc<Node>> {
        self.nodes.get(id).ok_or(FsError::Kernel(Errno::ESTALE))
    }

    pub(super) fn decide(&self, node: &Node, operation: Operation) -> Result<Grant, Denial> {
        let name = node.name();
        self.decide_at(node.position(), subject(node, &name), operation)
    }

    pub(super) fn decide_at(
        &self,
        position: Position,
        subject: policy::Subject<'_>,
        operation: Operation,
    ) -> Result<Grant, Denial> {
        match policy::decide(&self.view.rules, &self.as_policy_sees(position, subject), operation) {
            Verdict::Allow(grant) => Ok(grant),
            Verdict::Deny(denial) => Err(denial),
        }
    }

    pub(super) fn as_policy_sees<'a>(
        &'a self,
        position: Position,
        subject: policy::Subject<'a>,
    ) -> policy::PolicyNode<'a> {
        let hierarchy = position.hierarchy.and_then(|index| self.view.hierarchy(index));
        policy::PolicyNode { kind: hierarchy.map(|hierarchy| &hierarchy.kind), zone: self.view.zone(position), subject }
    }
}

/// When the view was made.
fn born(records: &Records) -> SystemTime {
    let since = match records.get(Number::BornSeconds) {
        0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        seconds => Duration::new(seconds, u32::try_from(records.get(Number::BornNanoseconds)).unwrap_or(0)),
    };
    records.set(Number::BornNanoseconds, u64::from(since.subsec_nanos()));
    records.set(Number::BornSeconds, since.as_secs());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

/// The class of an interface file, by its directory and name.
pub(super) fn classify(view: &View, directory: &Node, name: &OsStr) -> FileClass {
    let hierarchy = directory.position().hierarchy.and_then(|index| view.hierarchy(index));
    hierarchy.map_or(FileClass::Unknown, |hierarchy| FileClass::of(&hierarchy.kind, name))
}

/// Returns a node as the policy sees it.
pub(super) fn subject<'a>(node: &'a Node, name: &'a OsStr) -> policy::Subject<'a> {
    match node.object() {
        Object::Synthetic | Object::Link(_) => policy::Subject::Synthetic,
        Object::Directory => policy::Subject::Directory,
        Object::File(class) => policy::Subject::File { name, class },
    }
}
