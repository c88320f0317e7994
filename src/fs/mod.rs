//! The filesystem's operations over a view, its policy and a host. Knows no FUSE.
//!
//! An operation finds its node, asks [`policy::decide`], and hands what is allowed to the [`Host`]. A rejection
//! is a [`Failure::Denied`] with its rule; everything else is the kernel's own errno.

mod absent;
mod attributes;
pub mod cache;
mod change;
mod directory;
pub mod events;
pub mod explain;
mod file;
mod handles;
pub mod host;
pub mod inode;
mod listings;
mod log;
mod migrate;
pub mod number;
mod own_writes;
pub mod percaller;
pub mod poll;
pub mod replay;
pub mod route;
mod share;
mod size;
mod stage;
#[cfg(test)]
mod tests;
mod way;
mod xattrs;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;

pub use absent::Found;
pub use directory::ListedEntry;
pub use file::Transfer;
pub use handles::HandleId;
pub use host::{Answer, Caller, Changes, Host, OpenMode, Owner, Statistics, Time, Whereabouts, Writer};
pub use inode::{Attributes, NodeId, ROOT_ID};
pub use log::RejectionLog;

use crate::limit::ProcessorTime;
use crate::policy::{self, Denial, Grant, Operation, Rule, Verdict};
use crate::view::{Position, View};
use handles::Handles;
use inode::{Node, NodeTable, Object};
use route::Tenant;
pub use share::Share;
use share::Shares;
pub use size::Reading;

/// How many nodes of a connection have a backing id at most: each is an open file of the kernel's.
const BACKING_IDS: usize = 8192;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The kernel says so.
    Kernel(Errno),
    /// The policy says so.
    Denied(Denial),
}

impl Failure {
    /// What the caller gets.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Kernel(errno) => *errno,
            Self::Denied(denial) => denial.errno(),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Rule> for Failure {
    fn from(rule: Rule) -> Self {
        Denial::new(rule).into()
    }
}

/// The result of an operation.
pub type Outcome<T> = Result<T, Failure>;

/// What a lookup found.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Under which number.
    pub id: NodeId,
    /// Its attributes, with the mode to show.
    pub attributes: Attributes,
    /// For how long the kernel may keep them.
    pub keep: cache::Keep,
}

/// One container's filesystem.
#[derive(Debug)]
pub struct CgroupFs<H: Host> {
    view: Arc<View>,
    host: H,
    nodes: NodeTable,
    handles: Handles<H>,
    listings: listings::Listings,
    absences: absent::Absences,
    own: Arc<cache::OwnChanges>,
    own_writes: own_writes::OwnWrites,
    replays: replay::Replays,
    shares: Shares,
    backing_ids: Shares,
    /// With whom it shares what one may have.
    tenant: Tenant,
    log: Arc<RejectionLog>,
    xattrs: Arc<xattrs::Xattrs>,
    processor: Arc<ProcessorTime>,
    /// Whether the kernel may keep nothing.
    coherent: bool,
    /// Whether the kernel may read files by itself.
    passes_through: bool,
    /// Who does read them.
    reading: Arc<Reading>,
    sent_back: size::SentBack,
    born: SystemTime,
    /// The inode number of each hierarchy's boundary. A view is of the cgroups that it was made for: should one be removed, and the host
    /// make another container's of the same name, that isn't shown.
    boundaries: Vec<Option<u64>>,
}

impl<H: Host> CgroupFs<H> {
    /// A filesystem for this view.
    ///
    /// # Errors
    /// When the host can't find the top of a hierarchy.
    pub fn new(view: Arc<View>, host: H) -> Answer<Self> {
        let root = Self::make_root(&view, &host)?;
        let boundaries = (0..view.hierarchies.len()).map(|index| Self::find_boundary(&view, &host, index));
        let boundaries = boundaries.collect::<Answer<_>>()?;
        Ok(Self {
            boundaries,
            shares: Shares::new(host.most_files()),
            backing_ids: Shares::of(BACKING_IDS),
            tenant: Tenant::default(),
            view,
            host,
            nodes: NodeTable::new(root),
            handles: Handles::default(),
            listings: listings::Listings::default(),
            absences: absent::Absences::default(),
            own: Arc::default(),
            own_writes: own_writes::OwnWrites::default(),
            replays: replay::Replays::default(),
            log: Arc::default(),
            xattrs: Arc::default(),
            processor: Arc::default(),
            coherent: false,
            passes_through: true,
            reading: Arc::default(),
            sent_back: size::SentBack::default(),
            born: SystemTime::now(),
        })
    }

    /// The view that it serves.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// With whom it shares what one may have.
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

    /// The names that lead from the root to this node; `None` if the kernel doesn't hold it.
    pub(crate) fn names_of(&self, id: NodeId) -> Option<Vec<std::ffi::OsString>> {
        self.nodes.get(id).map(|node| node.view_components())
    }

    /// How many nodes the kernel holds, besides the root.
    pub fn known_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How many files are open that something is kept for.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// Takes note of a rejection, with who wanted what where.
    pub fn log_rejection(&self, caller: &Caller, operation: &str, id: NodeId, name: Option<&OsStr>, denial: &Denial) {
        self.log.record(denial, || {
            let mut path = self.nodes.get(id).map(|node| node.view_path()).unwrap_or_default();
            if let Some(name) = name {
                if path != "/" {
                    path.push("/");
                }
                path.push(name);
            }
            log::Subject { pid: self.host.process_id(caller), uid: caller.uid, operation: operation.to_owned(), path }
        });
    }

    /// Where the caller runs, and how the calling thread does beside it.
    pub fn whereabouts(&self, caller: &Caller) -> Option<Whereabouts> {
        self.host.whereabouts(caller)
    }

    /// The node with this number. The kernel only names nodes that it was told of; `ESTALE` otherwise.
    fn node(&self, id: NodeId) -> Outcome<Arc<Node>> {
        self.nodes.get(id).ok_or(Failure::Kernel(Errno::ESTALE))
    }

    fn decide(&self, node: &Node, operation: Operation) -> Result<Grant, Denial> {
        let name = node.name();
        self.decide_at(node.position(), subject(node, &name), operation)
    }

    fn decide_at(
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

    fn as_policy_sees<'a>(&'a self, position: Position, subject: policy::Subject<'a>) -> policy::Node<'a> {
        let hierarchy = position.hierarchy.and_then(|index| self.view.hierarchy(index));
        policy::Node { kind: hierarchy.map(|hierarchy| &hierarchy.kind), zone: self.view.zone(position), subject }
    }
}

/// What a node is to the policy.
fn subject<'a>(node: &'a Node, name: &'a OsStr) -> policy::Subject<'a> {
    match node.object() {
        Object::Synthetic | Object::Link(_) => policy::Subject::Synthetic,
        Object::Directory => policy::Subject::Directory,
        Object::File(class) => policy::Subject::File { name, class },
    }
}
