//! The table of policies: who may write what, row by row.

use std::ffi::OsStr;

use super::*;
use crate::cgroup::{ControllerSet, FileClass, HierarchyKind};

fn kind(list: &str) -> HierarchyKind {
    if list == "v2" { HierarchyKind::Unified } else { HierarchyKind::v1(list) }
}

fn rules(policy: Policy) -> Rules {
    let mut delegatable = Rules::default_delegatable();
    delegatable.insert("memory.reclaim".to_owned());
    let delegate_controllers = ControllerSet::parse("pids,cpuset,devices");
    Rules { policy, delegate_controllers, delegatable, memory_is_hierarchical: true, fetches_descriptors: true }
}

fn write(policy: Policy, list: &str, zone: Zone, name: &str) -> &'static str {
    let kind = kind(list);
    let name = OsStr::new(name);
    let class = FileClass::of(&kind, name);
    let node = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name, class: &class } };
    match decide(&rules(policy), &node, Operation::Write) {
        Verdict::Allow(Grant::Plain) => "yes",
        Verdict::Allow(Grant::Migrate(_)) => "migrate",
        Verdict::Allow(Grant::RegisterEvent) => "event",
        Verdict::Allow(Grant::FailsAtWrite(_)) => "late",
        Verdict::Deny(_) => "no",
    }
}

#[test]
fn events() {
    use Zone::{Boundary, Inside, Outside};
    let asked = |rules: &Rules, list: &str, zone| {
        let (kind, class, name) = (kind(list), FileClass::EventControl, OsStr::new("cgroup.event_control"));
        let node = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name, class: &class } };
        match decide(rules, &node, Operation::Write) {
            Verdict::Allow(Grant::RegisterEvent) => None,
            Verdict::Allow(grant) => panic!("{grant:?}"),
            Verdict::Deny(denial) => Some(denial.rule()),
        }
    };
    let delegated = Rules { delegate_controllers: ControllerSet::parse("memory"), ..rules(Policy::Delegate) };
    for list in ["memory", "cpu,memory"] {
        assert_eq!(
            [Outside, Boundary, Inside].map(|zone| asked(&delegated, list, zone)),
            [Some(Rule::OutsideSubtree), None, None]
        );
    }
    let on_an_old_kernel = Rules { fetches_descriptors: false, ..delegated.clone() };
    let strict = Rules { policy: Policy::Strict, ..delegated.clone() };
    for zone in [Boundary, Inside] {
        assert_eq!(asked(&on_an_old_kernel, "memory", zone), Some(Rule::EventControl));
        assert_eq!(asked(&strict, "memory", zone), Some(Rule::V1ControllersReadOnly));
        assert_eq!(asked(&rules(Policy::Delegate), "memory", zone), Some(Rule::ControllerNotDelegated));
        for list in ["pids", "name=systemd", "v2"] {
            assert_eq!(asked(&delegated, list, zone), Some(Rule::EventControl), "{list}");
        }
    }
}

fn directory(policy: Policy, list: &str, zone: Zone, operation: Operation) -> bool {
    let kind = kind(list);
    let node = PolicyNode { kind: Some(&kind), zone, subject: Subject::Directory };
    decide(&rules(policy), &node, operation).is_allowed()
}

#[test]
fn files() {
    use Policy::{Delegate, Strict};
    use Zone::{Boundary, Inside, Outside};
    for (list, name, [so, sb, si], [d_o, db, di]) in [
        ("v2", "cgroup.procs", ["no", "migrate", "migrate"], ["no", "migrate", "migrate"]),
        ("v2", "cgroup.subtree_control", ["no", "yes", "yes"], ["no", "yes", "yes"]),
        ("v2", "cgroup.freeze", ["no", "no", "yes"], ["no", "late", "yes"]),
        ("v2", "cgroup.kill", ["no", "no", "yes"], ["no", "late", "yes"]),
        ("v2", "cgroup.events", ["no", "no", "yes"], ["no", "late", "yes"]),
        ("v2", "memory.max", ["no", "no", "no"], ["no", "late", "yes"]),
        ("v2", "memory.reclaim", ["no", "no", "no"], ["no", "yes", "yes"]),
        ("v2", "memory.pressure", ["no", "yes", "yes"], ["no", "yes", "yes"]),
        ("v2", "nodots", ["no", "no", "no"], ["no", "no", "no"]),
        ("pids", "cgroup.procs", ["no", "no", "no"], ["no", "migrate", "migrate"]),
        ("pids", "tasks", ["no", "no", "no"], ["no", "migrate", "migrate"]),
        ("pids", "pids.max", ["no", "no", "no"], ["no", "no", "yes"]),
        ("pids", "notify_on_release", ["no", "no", "no"], ["no", "no", "no"]),
        ("blkio", "cgroup.procs", ["no", "no", "no"], ["no", "no", "no"]),
        ("blkio", "tasks", ["no", "no", "no"], ["no", "no", "no"]),
        ("pids,net_cls", "cgroup.procs", ["no", "no", "no"], ["no", "no", "no"]),
        ("cpuset", "cgroup.procs", ["no", "no", "no"], ["no", "migrate", "migrate"]),
        ("memory", "cgroup.procs", ["no", "no", "no"], ["no", "migrate", "migrate"]),
        ("cpu,cpuset", "cpu.shares", ["no", "no", "no"], ["no", "no", "no"]),
        ("cpu,cpuset", "cgroup.clone_children", ["no", "no", "no"], ["no", "no", "yes"]),
        ("memory", "memory.limit_in_bytes", ["no", "no", "no"], ["no", "no", "no"]),
        ("memory", "cgroup.event_control", ["no", "no", "no"], ["no", "no", "no"]),
        ("devices", "devices.allow", ["no", "no", "no"], ["no", "no", "yes"]),
        ("devices", "devices.deny", ["no", "no", "no"], ["no", "no", "yes"]),
        ("pids", "devices.allow", ["no", "no", "no"], ["no", "no", "no"]),
        ("name=systemd", "devices.allow", ["no", "no", "no"], ["no", "no", "no"]),
        ("name=systemd", "cgroup.procs", ["no", "migrate", "migrate"], ["no", "migrate", "migrate"]),
        ("name=systemd", "notify_on_release", ["no", "yes", "yes"], ["no", "yes", "yes"]),
        ("name=systemd", "cgroup.clone_children", ["no", "yes", "yes"], ["no", "yes", "yes"]),
        ("name=systemd", "release_agent", ["no", "no", "no"], ["no", "no", "no"]),
    ] {
        let row = |policy| [Outside, Boundary, Inside].map(|zone| write(policy, list, zone, name));
        assert_eq!(row(Strict), [so, sb, si], "strict {list} {name}");
        assert_eq!(row(Delegate), [d_o, db, di], "delegate {list} {name}");
    }
}

#[test]
fn structure_table() {
    use Operation::{MakeDirectory, RemoveDirectory, Rename};
    use Policy::{Delegate, Strict};
    use Zone::{Boundary, Inside, Outside};
    for list in ["v2", "pids", "name=systemd"] {
        for policy in [Strict, Delegate] {
            for operation in [MakeDirectory, RemoveDirectory, Rename] {
                assert!(!directory(policy, list, Outside, operation), "{list} {operation:?}");
                let read_only = list == "pids" && (policy == Strict || operation == Rename);
                assert_eq!(directory(policy, list, Inside, operation), !read_only, "{list} {policy:?} {operation:?}");
                assert_eq!(
                    directory(policy, list, Boundary, operation),
                    !read_only && operation == MakeDirectory,
                    "{list} {policy:?} {operation:?}"
                );
            }
        }
    }
}

#[test]
fn limits_that_are_not_inherited() {
    use Operation::{ChangeAttributes, MakeDirectory, RemoveDirectory, Rename};
    use Zone::{Boundary, Inside, Outside};
    let rule = |list: &str, zone, operation, rules: &Rules| {
        let kind = kind(list);
        match decide(rules, &PolicyNode { kind: Some(&kind), zone, subject: Subject::Directory }, operation) {
            Verdict::Allow(_) => None,
            Verdict::Deny(denial) => Some(denial.rule()),
        }
    };
    let usual = rules(Policy::Delegate);
    let before_use_hierarchy = Rules { memory_is_hierarchical: false, ..usual.clone() };
    let strict = rules(Policy::Strict);
    for operation in [MakeDirectory, RemoveDirectory, ChangeAttributes] {
        assert_eq!(rule("blkio", Inside, operation, &usual), Some(Rule::LimitsNotInherited), "{operation:?}");
        assert_eq!(rule("memory", Inside, operation, &before_use_hierarchy), Some(Rule::LimitsNotInherited));
        assert_eq!(rule("memory", Inside, operation, &usual), None);
        assert_eq!(rule("cpuset", Inside, operation, &usual), None, "it's delegated");
        assert_eq!(rule("blkio", Outside, operation, &usual), Some(Rule::OutsideSubtree));
        assert_eq!(rule("blkio", Inside, operation, &strict), Some(Rule::V1ControllersReadOnly));
    }
    assert_eq!(rule("blkio", Boundary, MakeDirectory, &usual), Some(Rule::LimitsNotInherited));
    assert_eq!(rule("blkio", Boundary, RemoveDirectory, &usual), Some(Rule::BoundaryItself));
    assert_eq!(rule("blkio", Inside, Rename, &usual), Some(Rule::V1ControllersRename));
    // Hierarchies without a controller have no limits.
    assert_eq!(rule("name=systemd", Inside, MakeDirectory, &usual), None);
}

#[test]
fn modes_tell_the_truth() {
    let unified = kind("v2");
    let shown = |policy, zone, name: &str, mode| {
        let class = FileClass::of(&unified, OsStr::new(name));
        let node =
            PolicyNode { kind: Some(&unified), zone, subject: Subject::File { name: OsStr::new(name), class: &class } };
        shown_mode(&rules(policy), &node, mode)
    };
    assert_eq!(shown(Policy::Strict, Zone::Boundary, "memory.max", 0o644), 0o444);
    assert_eq!(shown(Policy::Strict, Zone::Boundary, "cgroup.kill", 0o200), 0);
    assert_eq!(shown(Policy::Strict, Zone::Boundary, "cgroup.procs", 0o644), 0o644);
    // The intended exception, as with nsdelegate.
    assert_eq!(shown(Policy::Delegate, Zone::Boundary, "memory.max", 0o644), 0o644);
    assert_eq!(shown(Policy::Delegate, Zone::Outside, "cgroup.procs", 0o666), 0o444);
    let directory = PolicyNode { kind: Some(&unified), zone: Zone::Outside, subject: Subject::Directory };
    assert_eq!(shown_mode(&rules(Policy::Delegate), &directory, 0o755), 0o555);
}

#[test]
fn operations_that_a_cgroupfs_lacks() {
    let node = PolicyNode { kind: None, zone: Zone::Outside, subject: Subject::Synthetic };
    for (operation, errno) in
        [(Operation::CreateFile, nix::errno::Errno::EACCES), (Operation::MakeNode, nix::errno::Errno::EPERM)]
    {
        match decide(&rules(Policy::Delegate), &node, operation) {
            Verdict::Deny(denial) => assert_eq!(denial.errno(), errno),
            verdict @ Verdict::Allow(_) => panic!("{verdict:?}"),
        }
    }
}
