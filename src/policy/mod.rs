//! Decisions: may this operation be done on that node? Pure: facts in, a [`Verdict`] out.
//!
//! The filesystem and `explain` ask the same function, [`decide`]. Whatever isn't allowed by a line of it is denied.

mod denial;
mod inherited;
mod migration;
#[cfg(test)]
mod properties;

use std::collections::BTreeSet;
use std::ffi::OsStr;

pub use denial::{Denial, Rule};
pub use migration::{MigrationEnds, decide_migration};

use crate::cgroup::{ControllerSet, FileClass, HierarchyClass, HierarchyKind, file::MembershipFile};

/// Who may write what inside the delegated subtree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Structure and membership, no controller file; v1 controller hierarchies are read-only.
    #[default]
    Strict,
    /// On v2 what the kernel's nsdelegate allows; on v1 the named controllers below the boundary.
    Delegate,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Strict, Self::Delegate];

    /// The word that users have for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Delegate => "delegate",
        }
    }

    /// The policy for which users have this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.word() == word)
    }
}

/// A policy with its parameters; fixed when a view is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which policy.
    pub policy: Policy,
    /// v1 controllers whose files are writable below the boundary under [`Policy::Delegate`].
    pub delegate_controllers: ControllerSet,
    /// The files that the kernel lets a delegatee write at the boundary, `/sys/kernel/cgroup/delegate`.
    pub delegatable: BTreeSet<String>,
    /// Whether what the memory cgroups below the boundary use counts there too (`memory.use_hierarchy`).
    pub memory_is_hierarchical: bool,
    /// Whether the server can fetch a writer's descriptors (pidfd_getfd), so that `cgroup.event_control` means what the writer means.
    pub fetches_descriptors: bool,
}

impl Rules {
    /// What `/sys/kernel/cgroup/delegate` held when it appeared (Linux 4.15); for kernels without it.
    pub fn default_delegatable() -> BTreeSet<String> {
        ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"].map(str::to_owned).into()
    }
}

/// Where a node stands in relation to the delegated subtree of its hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Zone {
    /// Above it, beside it, or in a hierarchy that has none.
    Outside,
    /// The top directory of it, and that directory's files.
    Boundary,
    /// Strictly below the boundary.
    Inside,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Something that the view makes itself: its root, a symlink, a step of the alias.
    Synthetic,
    /// A cgroup directory.
    Directory,
    /// An interface file.
    File {
        /// Its name.
        name: &'a OsStr,
        /// What it's for.
        class: &'a FileClass,
    },
}

/// A node as the policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its hierarchy; `None` for what belongs to no hierarchy.
    pub kind: Option<&'a HierarchyKind>,
    /// Where it stands.
    pub zone: Zone,
    /// What it is.
    pub subject: Subject<'a>,
}

/// What a process wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Look at it: lookup, stat, list, read, read an xattr.
    Read,
    /// Open it for writing, or truncate it.
    Write,
    /// Make a cgroup in this directory.
    MakeDirectory,
    /// Remove this cgroup.
    RemoveDirectory,
    /// Rename this cgroup.
    Rename,
    /// chmod, chown, utimens.
    ChangeAttributes,
    /// Set or remove an xattr.
    ChangeXattrs,
    /// Create a regular file in this directory.
    CreateFile,
    /// link, symlink, mknod, unlink.
    MakeNode,
}

/// What to do after a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Hand it to the kernel.
    Plain,
    /// What is written is the number of a process or thread to migrate.
    Migrate(MembershipFile),
    /// What is written registers an event, by numbers of the writer's descriptors.
    RegisterEvent,
    /// The open succeeds and every write fails, as with nsdelegate (`cgroup_file_write`).
    FailsAtWrite(Denial),
}

/// The answer.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, and how.
    Allow(Grant),
    /// No, and why.
    Deny(Denial),
}

impl Verdict {
    /// Whether it's a yes (also one whose writes will fail).
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Decides. An operation that the kernel's cgroupfs doesn't have gets the kernel's errno everywhere.
pub fn decide(rules: &Rules, node: &Node<'_>, operation: Operation) -> Verdict {
    match operation {
        Operation::Read => Verdict::Allow(Grant::Plain),
        Operation::CreateFile => deny(Rule::NoFileCreation),
        Operation::MakeNode => deny(Rule::NoSuchOperation),
        Operation::Write => decide_write(rules, node),
        Operation::MakeDirectory | Operation::RemoveDirectory | Operation::Rename => structure(rules, node, operation),
        Operation::ChangeAttributes => decide_attributes(rules, node),
        Operation::ChangeXattrs => decide_xattrs(rules, node),
    }
    .without_migration_unless(operation == Operation::Write)
}

/// The permission bits to show for a node whose real ones are `mode`: without write bits wherever an open for write, or a mkdir, is
/// rejected, so that `ls -l` tells the truth.
pub fn shown_mode(rules: &Rules, node: &Node<'_>, mode: u32) -> u32 {
    let operation = match node.subject {
        Subject::File { .. } => Operation::Write,
        Subject::Directory | Subject::Synthetic => Operation::MakeDirectory,
    };
    if decide(rules, node, operation).is_allowed() { mode } else { mode & !0o222 }
}

impl Verdict {
    fn without_migration_unless(self, is_write: bool) -> Self {
        match self {
            Self::Allow(_) if !is_write => PLAIN,
            verdict => verdict,
        }
    }
}

fn deny(rule: Rule) -> Verdict {
    Verdict::Deny(Denial::new(rule))
}

const PLAIN: Verdict = Verdict::Allow(Grant::Plain);

/// The controller that has `cgroup.event_control`.
const MEMORY: &str = "memory";

/// mkdir in it, rmdir of it, rename of it.
fn structure(rules: &Rules, node: &Node<'_>, operation: Operation) -> Verdict {
    let (Some(kind), Subject::Directory) = (node.kind, node.subject) else {
        return deny(Rule::OutsideSubtree);
    };
    match (node.zone, operation) {
        (Zone::Outside, _) => return deny(Rule::OutsideSubtree),
        // Removing or renaming the boundary changes the directory above it.
        (Zone::Boundary, Operation::RemoveDirectory | Operation::Rename) => return deny(Rule::BoundaryItself),
        (Zone::Boundary | Zone::Inside, _) => {}
    }
    match (kind.class(), rules.policy) {
        (HierarchyClass::V1Controllers, Policy::Strict) => deny(Rule::V1ControllersReadOnly),
        (HierarchyClass::V1Controllers, Policy::Delegate) if operation == Operation::Rename => {
            deny(Rule::V1ControllersRename)
        }
        (HierarchyClass::V1Controllers, Policy::Delegate) if !inherited::limits_hold(rules, kind) => {
            deny(Rule::LimitsNotInherited)
        }
        _ => PLAIN,
    }
}

/// Whoever may change a file's content or a directory's children may change its attributes, since nothing else is its own. Under `strict` the
/// boundary's are the host's: whoever could set its mode or owner would decide who of the container may write there.
fn decide_attributes(rules: &Rules, node: &Node<'_>) -> Verdict {
    let verdict = match node.subject {
        Subject::File { .. } => decide_write(rules, node),
        Subject::Directory | Subject::Synthetic => structure(rules, node, Operation::MakeDirectory),
    };
    match (rules.policy, node.zone) {
        (Policy::Strict, Zone::Boundary) if verdict.is_allowed() => deny(Rule::BoundaryAttributes),
        _ => verdict,
    }
}

/// Xattrs are a directory's. Those of a file would multiply what a cgroup can hold of the kernel's memory by the number of its files, and no
/// client of cgroups has any there.
fn decide_xattrs(rules: &Rules, node: &Node<'_>) -> Verdict {
    if !matches!(node.subject, Subject::File { .. }) {
        return decide_attributes(rules, node);
    }
    // What may be changed nowhere around it is rejected as everything else there is.
    let directory = Node { subject: Subject::Directory, ..*node };
    match decide_attributes(rules, &directory) {
        Verdict::Allow(_) => deny(Rule::XattrOnFile),
        verdict => verdict,
    }
}

fn decide_write(rules: &Rules, node: &Node<'_>) -> Verdict {
    let (Some(kind), Subject::File { name, class }) = (node.kind, node.subject) else {
        return deny(Rule::OutsideSubtree);
    };
    // These face the host or carry what only means something in the writer's process: never, wherever they stand. Only the memory controller
    // has events.
    let has_events = || kind.controllers().is_some_and(|controllers| controllers.contains(MEMORY));
    match class {
        FileClass::ReleaseAgent => return deny(Rule::ReleaseAgent),
        FileClass::EventControl if !rules.fetches_descriptors || !has_events() => return deny(Rule::EventControl),
        FileClass::Unknown => return deny(Rule::UnknownFile),
        _ => {}
    }
    if node.zone == Zone::Outside {
        return deny(Rule::OutsideSubtree);
    }
    match kind.class() {
        HierarchyClass::Unified => write_unified(rules, node.zone, name, class),
        HierarchyClass::V1Named => write_v1_named(class),
        HierarchyClass::V1Controllers => match rules.policy {
            Policy::Strict => deny(Rule::V1ControllersReadOnly),
            Policy::Delegate => write_v1_delegated(rules, kind, node.zone, class),
        },
    }
}

fn write_unified(rules: &Rules, zone: Zone, name: &OsStr, class: &FileClass) -> Verdict {
    let delegatable = name.to_str().is_some_and(|name| rules.delegatable.contains(name));
    match (class, zone, rules.policy) {
        // A trigger belongs to the open file and changes no state of the cgroup.
        (FileClass::Pressure, _, _) => PLAIN,
        (FileClass::Membership(file), Zone::Inside, _) => Verdict::Allow(Grant::Migrate(*file)),
        (FileClass::Membership(file), _, _) if delegatable => Verdict::Allow(Grant::Migrate(*file)),
        (FileClass::Core, _, _) if delegatable || zone == Zone::Inside => PLAIN,
        (FileClass::Controller(_), Zone::Boundary, Policy::Delegate) if delegatable => PLAIN,
        (_, Zone::Boundary, Policy::Delegate) => {
            Verdict::Allow(Grant::FailsAtWrite(Denial::new(Rule::NotDelegatableAtWrite)))
        }
        (FileClass::Controller(_), Zone::Inside, Policy::Delegate) => PLAIN,
        (FileClass::Controller(_), _, Policy::Strict) => deny(Rule::ControllerFile),
        _ => deny(Rule::NotDelegatable),
    }
}

fn write_v1_named(class: &FileClass) -> Verdict {
    match class {
        FileClass::Membership(file) => Verdict::Allow(Grant::Migrate(*file)),
        FileClass::NotifyOnRelease | FileClass::CloneChildren => PLAIN,
        _ => deny(Rule::UnknownFile),
    }
}

fn write_v1_delegated(rules: &Rules, kind: &HierarchyKind, zone: Zone, class: &FileClass) -> Verdict {
    match (class, zone) {
        (FileClass::Membership(_), _) if !inherited::limits_hold(rules, kind) => deny(Rule::LimitsNotInherited),
        (FileClass::Membership(file), _) => Verdict::Allow(Grant::Migrate(*file)),
        // It changes nothing of the cgroup. But a listener for memory pressure keeps the news from those that listen further up, at the host's
        // cgroups (`vmpressure_event`), so it's for the host to delegate.
        (FileClass::EventControl, _) if rules.delegate_controllers.contains(MEMORY) => {
            Verdict::Allow(Grant::RegisterEvent)
        }
        (FileClass::EventControl, _) => deny(Rule::ControllerNotDelegated),
        (_, Zone::Boundary) => deny(Rule::V1BoundaryLimits),
        (FileClass::Controller(controller), _) if rules.delegate_controllers.contains(controller) => PLAIN,
        (FileClass::Controller(_), _) => deny(Rule::ControllerNotDelegated),
        // Only cpuset acts on it (`cpuset_css_online`), so it goes with cpuset.
        (FileClass::CloneChildren, _) if rules.delegate_controllers.contains("cpuset") => PLAIN,
        (FileClass::CloneChildren, _) => deny(Rule::ControllerNotDelegated),
        (FileClass::NotifyOnRelease, _) => deny(Rule::NotifyOnRelease),
        _ => deny(Rule::UnknownFile),
    }
}

#[cfg(test)]
mod tests;
