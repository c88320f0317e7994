//! The decision about every operation but a migration.

use std::ffi::OsStr;

use super::denial::{Denial, Rule};
use super::inherited;
use super::operation::{Operation, PolicyNode, Subject, Zone};
use super::rules::{Policy, Rules};
use super::verdict::{Grant, PLAIN, Verdict, deny};
use crate::cgroup::{FileClass, HierarchyClass, HierarchyKind};

/// Decides whether an operation is allowed. An operation that the kernel's cgroupfs doesn't have gets the kernel's
/// errno everywhere.
pub fn decide(rules: &Rules, node: &PolicyNode<'_>, operation: Operation) -> Verdict {
    match operation {
        Operation::Read => Verdict::Allow(Grant::Plain),
        Operation::CreateFile => deny(Rule::NoFileCreation),
        Operation::MakeNode => deny(Rule::NoSuchOperation),
        Operation::Write => decide_write(rules, node),
        Operation::MakeDirectory | Operation::RemoveDirectory | Operation::Rename => {
            decide_structure(rules, node, operation)
        }
        Operation::ChangeAttributes => decide_attributes(rules, node),
        Operation::ChangeXattrs => decide_xattrs(rules, node),
    }
    .without_migration_unless(operation == Operation::Write)
}

/// Returns the permission bits that the view shows for a node with the real bits `mode`. If an open for write, or a
/// mkdir, would be rejected, they have no write bits, so that `ls -l` tells the truth.
pub fn shown_mode(rules: &Rules, node: &PolicyNode<'_>, mode: u32) -> u32 {
    let operation = match node.subject {
        Subject::File { .. } => Operation::Write,
        Subject::Directory | Subject::Synthetic => Operation::MakeDirectory,
    };
    if decide(rules, node, operation).is_allowed() { mode } else { mode & !0o222 }
}

/// The controller that has `cgroup.event_control`.
const MEMORY: &str = "memory";

/// Decides about mkdir in a directory, and rmdir and rename of it.
fn decide_structure(rules: &Rules, node: &PolicyNode<'_>, operation: Operation) -> Verdict {
    let (Some(kind), Subject::Directory) = (node.kind, node.subject) else {
        return deny(Rule::OutsideSubtree);
    };
    match (node.zone, operation) {
        (Zone::Outside, _) => return deny(Rule::OutsideSubtree),
        // Removing or renaming the boundary changes its parent directory.
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

/// Decides about attributes: they may be changed if a file's content or a directory's children may be. Under `strict`
/// those of the boundary belong to the host, since its mode and owner decide who in the container may write there.
fn decide_attributes(rules: &Rules, node: &PolicyNode<'_>) -> Verdict {
    let verdict = match node.subject {
        Subject::File { .. } => decide_write(rules, node),
        Subject::Directory | Subject::Synthetic => decide_structure(rules, node, Operation::MakeDirectory),
    };
    match (rules.policy, node.zone) {
        (Policy::Strict, Zone::Boundary) if verdict.is_allowed() => deny(Rule::BoundaryAttributes),
        _ => verdict,
    }
}

/// Decides about xattrs, which only directories may have. Xattrs on files would multiply the kernel memory that a
/// cgroup can hold by the number of its files, and no program uses them.
fn decide_xattrs(rules: &Rules, node: &PolicyNode<'_>) -> Verdict {
    if !matches!(node.subject, Subject::File { .. }) {
        return decide_attributes(rules, node);
    }
    // A file whose directory's attributes are rejected gets the same rule.
    let directory = PolicyNode { subject: Subject::Directory, ..*node };
    match decide_attributes(rules, &directory) {
        Verdict::Allow(_) => deny(Rule::XattrOnFile),
        verdict => verdict,
    }
}

fn decide_write(rules: &Rules, node: &PolicyNode<'_>) -> Verdict {
    let (Some(kind), Subject::File { name, class }) = (node.kind, node.subject) else {
        return deny(Rule::OutsideSubtree);
    };
    // These affect the host, or carry numbers that only mean something in the writer's process. So they are never
    // writable. Only the memory controller has events.
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
        // A registration changes nothing in the cgroup. But a listener for memory pressure hides the event from
        // listeners further up, at the host's cgroups (`vmpressure_event`). So the host decides by delegating the
        // controller.
        (FileClass::EventControl, _) if rules.delegate_controllers.contains(MEMORY) => {
            Verdict::Allow(Grant::RegisterEvent)
        }
        (FileClass::EventControl, _) => deny(Rule::ControllerNotDelegated),
        (_, Zone::Boundary) => deny(Rule::V1BoundaryLimits),
        (FileClass::Controller(controller), _) if rules.delegate_controllers.contains(controller) => PLAIN,
        (FileClass::Controller(_), _) => deny(Rule::ControllerNotDelegated),
        // Only cpuset acts on it (`cpuset_css_online`), so cpuset's delegation decides.
        (FileClass::CloneChildren, _) if rules.delegate_controllers.contains("cpuset") => PLAIN,
        (FileClass::CloneChildren, _) => deny(Rule::ControllerNotDelegated),
        (FileClass::NotifyOnRelease, _) => deny(Rule::NotifyOnRelease),
        _ => deny(Rule::UnknownFile),
    }
}
