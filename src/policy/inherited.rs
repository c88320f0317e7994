//! Which limits of the host apply to cgroups that a container makes in a v1 hierarchy.
//!
//! If the kernel doesn't apply a controller's limits to descendants, a container escapes them by making a cgroup and
//! migrating there. In such a hierarchy it may change structure and membership only if the controller is delegated,
//! with the consequences.

use super::rules::Rules;
use crate::cgroup::HierarchyKind;

/// The controllers whose limits the kernel applies to descendants, and how. Controllers that aren't listed may not
/// apply them:
///
/// | not listed | why |
/// |---|---|
/// | `blkio` | each cgroup is throttled as if it were a child of the root (`throtl_pd_init`, `sane_behavior` alone is hierarchical) |
/// | `cpuset` | children that hold CPUs keep the host from taking these from the boundary (`validate_change`: EBUSY) |
/// | `net_cls`, `net_prio` | a child copies its parent's settings when it's made, and ignores later changes by the host (`cgrp_css_online`) |
const INHERITED: [(&str, Inherited); 10] = [
    // A group runs within its parent's share, and not at all while an ancestor has used up its quota
    // (`throttle_cfs_rq`).
    ("cpu", Inherited::Always),
    // cpuacct only counts.
    ("cpuacct", Inherited::Always),
    // A child never gets an exception that its parent doesn't have, and loses those that the parent loses
    // (`parent_has_perm`, `propagate_exception`).
    ("devices", Inherited::Always),
    // Descendants of a freezing cgroup freeze, too, and new ones are frozen (`CGROUP_FREEZING_PARENT`,
    // `freezer_css_online`).
    ("freezer", Inherited::Always),
    // Each page is charged to the cgroup and all ancestors (`page_counter_try_charge`; `res_counter_charge` before
    // Linux 3.19).
    ("hugetlb", Inherited::Always),
    // Like hugetlb, if the cgroups are linked (`mem_cgroup_css_alloc`), which is the host's choice before Linux 5.11.
    ("memory", Inherited::WithUseHierarchy),
    // Charged to all ancestors (`misc_cg_try_charge`).
    ("misc", Inherited::Always),
    // perf_event limits nothing.
    ("perf_event", Inherited::Always),
    // A process counts in its cgroup and all ancestors (`pids_try_charge`).
    ("pids", Inherited::Always),
    // Charged to all ancestors (`rdmacg_try_charge`).
    ("rdma", Inherited::Always),
];

/// Whether limits apply to descendants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inherited {
    Always,
    /// Only if `memory.use_hierarchy` is 1 ([`Rules::memory_is_hierarchical`]).
    WithUseHierarchy,
}

/// Whether the container may make cgroups in this hierarchy, and migrate there: each of its controllers is delegated,
/// or applies its limits to descendants.
pub(super) fn limits_hold(rules: &Rules, kind: &HierarchyKind) -> bool {
    let holds = |controller: &str| match INHERITED.iter().find(|(name, _)| *name == controller) {
        Some((_, Inherited::Always)) => true,
        Some((_, Inherited::WithUseHierarchy)) => rules.memory_is_hierarchical,
        None => false,
    };
    kind.controllers().is_some_and(|controllers| {
        controllers.iter().all(|controller| rules.delegate_controllers.contains(controller) || holds(controller))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::ControllerSet;

    fn holds(list: &str, delegated: &str, memory_is_hierarchical: bool) -> bool {
        let delegate_controllers = ControllerSet::parse(delegated);
        limits_hold(
            &Rules { delegate_controllers, memory_is_hierarchical, ..Rules::default() },
            &HierarchyKind::v1(list),
        )
    }

    #[test]
    fn every_controller_counts() {
        let inherited = ["cpu", "cpuacct", "devices", "freezer", "hugetlb", "misc", "perf_event", "pids", "rdma"];
        for controller in inherited {
            assert!(holds(controller, "", false), "{controller}");
        }
        for controller in ["blkio", "cpuset", "net_cls", "net_prio", "debug", "dmem", "io", "ns", "bio", "timer", ""] {
            assert!(controller.is_empty() || !holds(controller, "", true), "{controller}");
            assert!(controller.is_empty() || holds(controller, controller, false), "{controller}");
        }
        for (list, delegated, expected) in [
            ("cpu,cpuacct", "", true),
            ("net_cls,net_prio", "net_cls", false),
            ("net_cls,net_prio", "net_prio,net_cls", true),
            ("cpu,cpuset", "cpu", false),
            ("cpu,cpuset", "cpuset", true),
            ("pids,blkio", "pids", false),
        ] {
            assert_eq!(holds(list, delegated, true), expected, "{list} {delegated}");
        }
    }

    #[test]
    fn memory_only_where_it_is_hierarchical() {
        assert!(holds("memory", "", true));
        assert!(!holds("memory", "", false));
        assert!(holds("memory", "memory", false));
    }
}
