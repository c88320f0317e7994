//! Properties that hold for every path, name, zone and policy.

use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;
use crate::cgroup::{CgroupPath, FileClass, HierarchyKind};

fn operations() -> impl Strategy<Value = Operation> {
    prop::sample::select(vec![
        Operation::Write,
        Operation::MakeDirectory,
        Operation::RemoveDirectory,
        Operation::Rename,
        Operation::ChangeAttributes,
        Operation::ChangeXattrs,
        Operation::CreateFile,
        Operation::MakeNode,
    ])
}

fn kinds() -> impl Strategy<Value = HierarchyKind> {
    prop::sample::select(vec![
        "v2",
        "memory",
        "cpu,cpuacct",
        "devices",
        "cpuset",
        "blkio",
        "net_cls,net_prio",
        "name=systemd",
        "pids,name=x",
    ])
    .prop_map(|list| if list == "v2" { HierarchyKind::Unified } else { HierarchyKind::v1(list) })
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "cgroup.procs",
            "tasks",
            "cgroup.threads",
            "cgroup.subtree_control",
            "memory.max",
            "memory.reclaim",
            "release_agent",
            "devices.allow",
            "cgroup.event_control",
            "notify_on_release",
            "cgroup.clone_children",
            "cpu.pressure",
            "pids.max",
            "cgroup.kill",
        ])
        .prop_map(str::to_owned),
        "[a-z.]{0,20}",
        "(cgroup|memory|pids|devices)[.][a-z._]{0,12}",
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    (
        any::<[bool; 3]>(),
        prop::collection::vec("memory|devices|blkio|[a-z]{1,8}", 0..3),
        prop::collection::btree_set(names(), 0..4),
    )
        .prop_map(|([strict, fetches_descriptors, memory_is_hierarchical], controllers, mut delegatable)| {
            delegatable.extend(Rules::default_delegatable());
            Rules {
                policy: if strict { Policy::Strict } else { Policy::Delegate },
                delegate_controllers: controllers.iter().map(String::as_str).collect(),
                delegatable,
                memory_is_hierarchical,
                fetches_descriptors,
            }
        })
}

proptest! {
    #[test]
    fn nothing_outside_the_subtree_changes(rules in any_rules(), kind in kinds(), name in names(), operation in operations()) {
        let class = FileClass::of(&kind, OsStr::new(&name));
        let file = Subject::File { name: OsStr::new(&name), class: &class };
        for subject in [Subject::Synthetic, Subject::Directory, file] {
            for kind in [Some(&kind), None] {
                let node = PolicyNode { kind, zone: Zone::Outside, subject };
                prop_assert!(!decide(&rules, &node, operation).is_allowed());
                prop_assert_eq!(shown_mode(&rules, &node, 0o777) & 0o222, 0);
            }
        }
    }

    #[test]
    fn files_that_affect_the_host_are_never_writable(rules in any_rules(), kind in kinds(), inside in any::<bool>()) {
        let zone = if inside { Zone::Inside } else { Zone::Boundary };
        for class in [FileClass::ReleaseAgent, FileClass::Unknown] {
            let node = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name: OsStr::new("x"), class: &class } };
            prop_assert!(!decide(&rules, &node, Operation::Write).is_allowed());
            prop_assert!(!decide(&rules, &node, Operation::ChangeAttributes).is_allowed());
        }
    }

    #[test]
    fn device_lists_are_writable_where_a_child_stays_within_its_parent(
        rules in any_rules(),
        kind in kinds(),
        name in prop::sample::select(vec!["devices.allow", "devices.deny"]),
        zone in prop::sample::select(vec![Zone::Outside, Zone::Boundary, Zone::Inside]),
    ) {
        let name = OsStr::new(name);
        let class = FileClass::of(&kind, name);
        let node = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name, class: &class } };
        let of_v1 = kind.controllers().is_some_and(|controllers| controllers.contains("devices"));
        let delegated = rules.policy == Policy::Delegate && rules.delegate_controllers.contains("devices");
        if kind != HierarchyKind::Unified && decide(&rules, &node, Operation::Write).is_allowed() {
            prop_assert!(of_v1 && delegated && zone == Zone::Inside);
        }
    }

    #[test]
    fn no_file_has_xattrs_to_set_and_strict_keeps_the_boundary(
        rules in any_rules(), kind in kinds(), name in names(), inside in any::<bool>()
    ) {
        let zone = if inside { Zone::Inside } else { Zone::Boundary };
        let class = FileClass::of(&kind, OsStr::new(&name));
        let file = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name: OsStr::new(&name), class: &class } };
        let directory = PolicyNode { subject: Subject::Directory, ..file };
        prop_assert!(!decide(&rules, &file, Operation::ChangeXattrs).is_allowed());
        for (node, operation) in [
            (&file, Operation::ChangeAttributes),
            (&directory, Operation::ChangeAttributes),
            (&directory, Operation::ChangeXattrs),
        ] {
            let allowed = decide(&rules, node, operation).is_allowed();
            prop_assert!(!allowed || inside || rules.policy == Policy::Delegate);
        }
    }

    #[test]
    fn limits_that_are_not_inherited_cannot_be_escaped(
        rules in any_rules(),
        kind in kinds(),
        inside in any::<bool>(),
        operation in prop::sample::select(vec![Operation::MakeDirectory, Operation::RemoveDirectory, Operation::ChangeAttributes, Operation::ChangeXattrs]),
    ) {
        let zone = if inside { Zone::Inside } else { Zone::Boundary };
        let escapes = |controller: &str| {
            let is_flat = matches!(controller, "blkio" | "cpuset" | "net_cls" | "net_prio");
            (is_flat || controller == "memory" && !rules.memory_is_hierarchical) && !rules.delegate_controllers.contains(controller)
        };
        if kind.controllers().is_some_and(|controllers| controllers.iter().any(escapes)) {
            let directory = PolicyNode { kind: Some(&kind), zone, subject: Subject::Directory };
            prop_assert!(!decide(&rules, &directory, operation).is_allowed());
            prop_assert_eq!(shown_mode(&rules, &directory, 0o755), 0o555);
            for name in ["cgroup.procs", "tasks"].map(OsStr::new) {
                let class = FileClass::of(&kind, name);
                let file = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name, class: &class } };
                prop_assert!(!decide(&rules, &file, Operation::Write).is_allowed());
                prop_assert_eq!(shown_mode(&rules, &file, 0o644), 0o444);
            }
        }
    }

    #[test]
    fn events_are_never_granted_as_a_plain_write(rules in any_rules(), kind in kinds(), inside in any::<bool>()) {
        let zone = if inside { Zone::Inside } else { Zone::Boundary };
        let (name, class) = (OsStr::new("cgroup.event_control"), FileClass::EventControl);
        let node = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name, class: &class } };
        let delegated = rules.policy == Policy::Delegate && rules.delegate_controllers.contains("memory");
        match decide(&rules, &node, Operation::Write) {
            Verdict::Deny(_) => {}
            verdict => {
                prop_assert_eq!(verdict, Verdict::Allow(Grant::RegisterEvent));
                prop_assert!(delegated && rules.fetches_descriptors);
            }
        }
    }

    #[test]
    fn a_membership_file_is_never_granted_as_a_plain_write(rules in any_rules(), kind in kinds(), inside in any::<bool>()) {
        let zone = if inside { Zone::Inside } else { Zone::Boundary };
        for name in ["cgroup.procs", "cgroup.threads", "tasks"] {
            let class = FileClass::of(&kind, OsStr::new(name));
            if !matches!(class, FileClass::Membership(_)) {
                continue;
            }
            let node = PolicyNode { kind: Some(&kind), zone, subject: Subject::File { name: OsStr::new(name), class: &class } };
            prop_assert_ne!(decide(&rules, &node, Operation::Write), Verdict::Allow(Grant::Plain));
        }
    }

    #[test]
    fn no_migration_from_outside(delegated in "(/[a-c]{1,2}){1,3}", source in "(/[a-c]{1,2}){0,5}", inside in any::<bool>()) {
        let delegated = CgroupPath::parse(&delegated).unwrap();
        let source = CgroupPath::parse(format!("/{source}")).unwrap();
        let destination = if inside { Zone::Inside } else { Zone::Boundary };
        let ends = MigrationEnds { delegated: &delegated, source: Some(&source), destination };
        let below = source.components().iter().zip(delegated.components()).filter(|(a, b)| a == b).count() == delegated.depth()
            && source.depth() >= delegated.depth();
        prop_assert_eq!(decide_migration(&ends).is_allowed(), below);
    }
}
