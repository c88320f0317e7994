//! The interface-file table: the class of a file in a cgroup directory, by its name and the kind of its hierarchy.
//!
//! The names are the kernel's (`cgroup_base_files`, `cgroup1_base_files`, and each controller's `cftype` arrays). A name that isn't
//! known to belong to a controller of the hierarchy is [`FileClass::Unknown`] and never writable.

use std::ffi::OsStr;

use super::{HierarchyClass, HierarchyKind};

/// The class of an interface file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileClass {
    /// A list of processes or threads; a write migrates.
    Membership(MembershipFile),
    /// A core file that only concerns its own cgroup: `cgroup.*`.
    Core,
    /// v1 `notify_on_release`, which makes the kernel run the *host's* release agent.
    NotifyOnRelease,
    /// v1 `cgroup.clone_children`: only the cpuset controller acts on it.
    CloneChildren,
    /// `cpu.pressure`, `memory.pressure`, `io.pressure`, `irq.pressure`. A write makes a trigger of the open file,
    /// and doesn't change the cgroup's state.
    Pressure,
    /// A file of this controller.
    Controller(String),
    /// v1 `release_agent`: a program that the host runs as root (CVE-2022-0492).
    ReleaseAgent,
    /// v1 `cgroup.event_control`: takes descriptor numbers of the writer.
    EventControl,
    /// A file that this hierarchy isn't known to have.
    Unknown,
}

/// The files that list a cgroup's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MembershipFile {
    /// `cgroup.procs`: processes.
    Procs,
    /// v2 `cgroup.threads`: threads.
    Threads,
    /// v1 `tasks`: threads.
    Tasks,
}

impl MembershipFile {
    /// Whether the file's numbers name single threads.
    pub fn is_threads(self) -> bool {
        !matches!(self, Self::Procs)
    }
}

impl FileClass {
    /// The class of the file `name` in a hierarchy of this kind.
    pub fn of(kind: &HierarchyKind, name: &OsStr) -> Self {
        let Some(name) = name.to_str() else {
            return Self::Unknown;
        };
        match kind.class() {
            HierarchyClass::Unified => Self::of_unified(name),
            HierarchyClass::V1Controllers | HierarchyClass::V1Named => Self::of_v1(kind, name),
        }
    }

    fn of_unified(name: &str) -> Self {
        match name {
            "cgroup.procs" => Self::Membership(MembershipFile::Procs),
            "cgroup.threads" => Self::Membership(MembershipFile::Threads),
            _ => match name.split_once('.') {
                Some(("cgroup", _)) => Self::Core,
                Some((_, "pressure")) => Self::Pressure,
                Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() => {
                    Self::Controller(controller.to_owned())
                }
                _ => Self::Unknown,
            },
        }
    }

    fn of_v1(kind: &HierarchyKind, name: &str) -> Self {
        match name {
            "cgroup.procs" => Self::Membership(MembershipFile::Procs),
            "tasks" => Self::Membership(MembershipFile::Tasks),
            "notify_on_release" => Self::NotifyOnRelease,
            "release_agent" => Self::ReleaseAgent,
            "cgroup.clone_children" => Self::CloneChildren,
            "cgroup.event_control" => Self::EventControl,
            _ => match name.split_once('.') {
                Some(("cgroup", _)) => Self::Core,
                Some((controller, _)) if kind.controllers().is_some_and(|set| set.contains(controller)) => {
                    Self::Controller(controller.to_owned())
                }
                _ => Self::Unknown,
            },
        }
    }

    /// Whether a write can block. It can wait for memory reclaim (`memory_max_write`, `memory_high_write`,
    /// `memory_reclaim`, `mem_cgroup_resize_max`, `mem_cgroup_force_empty_write`), for outstanding requests of a
    /// device (`blk_throtl_init`, `ioc_qos_write` and others freeze its queue), for pages that move to other nodes
    /// (`cpuset_write_resmask`), or for processors that come and go (`cpus_read_lock`). The files that block differ
    /// between kernels, so this includes all files of controllers.
    pub fn write_may_block(&self) -> bool {
        matches!(self, Self::Controller(_))
    }
}

/// Whether a migration in such a hierarchy can block while the process' memory moves with it: to the nodes of a cpuset
/// (`cpuset_post_attach`), or to the account of a v1 memory cgroup (`mem_cgroup_move_charge`, before Linux 6.14).
pub fn migration_may_block(kind: &HierarchyKind) -> bool {
    kind.controllers().is_some_and(|set| set.contains("cpuset") || set.contains("memory"))
}

/// Whether making a cgroup in such a hierarchy can block for memory reclaim: the kernel charges the structures of a new
/// memory cgroup to the one above (`mem_cgroup_css_alloc`, Linux 5.9). cgroup v2 has the memory controller where no v1
/// hierarchy of the host, `all` of which are given, has it.
pub fn making_may_block<'a>(kind: &HierarchyKind, mut all: impl Iterator<Item = &'a HierarchyKind>) -> bool {
    let has_memory = |kind: &HierarchyKind| kind.controllers().is_some_and(|set| set.contains("memory"));
    has_memory(kind) || (*kind == HierarchyKind::Unified && !all.any(has_memory))
}

/// Whether a write to this file can make other files appear or disappear: `Some(true)` in all child cgroups,
/// `Some(false)` in its own. A threaded cgroup lacks the controllers that need whole processes (`cgroup_control`).
pub fn lets_files_come(name: &OsStr) -> Option<bool> {
    match name.to_str()? {
        "cgroup.subtree_control" => Some(true),
        "cgroup.pressure" | "cgroup.type" => Some(false),
        _ => None,
    }
}

/// Whether the kernel keeps state for each open file of this name besides its position: whether it has changed since
/// the last read (`cgroup_file_notify`, `kernfs_generic_poll`), a PSI trigger, or a reset of `memory.peak`. Reads,
/// writes and polls of such a file have to use the same open file.
pub fn has_state_per_open_file(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return true };
    is_notified(name) || matches!(name, "memory.peak" | "memory.swap.peak" | "cgroup.event_control" | "cgroup.pressure")
}

/// Whether the kernel ever notifies of a change of this file (`kernfs_notify`): for poll(2), and as IN_MODIFY.
pub fn is_notified(name: &str) -> bool {
    name == "cpuset.cpus.partition" || is_events(name) || name.ends_with(".pressure") && name != "cgroup.pressure"
}

/// Whether it's a file of events. A missed event may be the last one, above all `populated 0` in `cgroup.events`.
pub fn is_events(name: &str) -> bool {
    name.ends_with(".events") || name.ends_with(".events.local")
}

/// Whether cgroups of such a hierarchy have files with notifications. On v1 these are files that a controller shares
/// with v2 (`pids.events`, `misc.events`, `rdma.events`).
pub fn has_notified_files(kind: &HierarchyKind) -> bool {
    const V1: [&str; 3] = ["pids", "misc", "rdma"];
    kind.controllers().is_none_or(|set| V1.iter().any(|name| set.contains(name)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn state() {
        for (name, has) in [
            ("cgroup.events", true),
            ("pids.events", true),
            ("memory.events.local", true),
            ("memory.swap.events", true),
            ("cpu.pressure", true),
            ("memory.peak", true),
            ("cgroup.procs", false),
            ("memory.max", false),
            ("cgroup.pressure", true),
            ("events", false),
        ] {
            assert_eq!(has_state_per_open_file(OsStr::new(name)), has, "{name}");
        }
    }

    #[test]
    fn notified() {
        for (name, notified) in [
            ("cgroup.events", true),
            ("memory.swap.events", true),
            ("hugetlb.2MB.events.local", true),
            ("io.pressure", true),
            ("cpuset.cpus.partition", true),
            ("cgroup.pressure", false),
            ("memory.peak", false),
            ("cgroup.procs", false),
        ] {
            assert_eq!(is_notified(name), notified, "{name}");
        }
        assert!(is_events("pids.events") && !is_events("cpu.pressure"));
        let v1 = |list| HierarchyKind::v1(list);
        assert!(has_notified_files(&HierarchyKind::Unified) && has_notified_files(&v1("pids")));
        assert!(!has_notified_files(&v1("name=systemd")) && !has_notified_files(&v1("cpu,cpuacct")));
    }

    use super::*;
    use crate::cgroup::ControllerSet;

    fn class(list: &str, name: &str) -> FileClass {
        let kind = if list == "unified" { HierarchyKind::Unified } else { HierarchyKind::v1(list) };
        FileClass::of(&kind, OsStr::new(name))
    }

    #[test]
    fn table() {
        use FileClass::*;
        let controller = |name: &str| Controller(name.to_owned());
        for (list, name, expected) in [
            ("unified", "cgroup.procs", Membership(MembershipFile::Procs)),
            ("unified", "cgroup.threads", Membership(MembershipFile::Threads)),
            ("unified", "tasks", Unknown),
            ("unified", "cgroup.subtree_control", Core),
            ("unified", "cgroup.kill", Core),
            ("unified", "cgroup.pressure", Core),
            ("unified", "memory.pressure", Pressure),
            ("unified", "memory.max", controller("memory")),
            ("unified", "hugetlb.2MB.rsvd.max", controller("hugetlb")),
            ("unified", ".pressure", Pressure),
            ("unified", "release_agent", Unknown),
            ("cpu,cpuacct", "cpu.shares", controller("cpu")),
            ("cpu,cpuacct", "cpuset.cpus", Unknown),
            ("memory", "memory.pressure_level", controller("memory")),
            ("memory", "cgroup.event_control", EventControl),
            ("memory", "tasks", Membership(MembershipFile::Tasks)),
            ("memory", "cgroup.threads", Core),
            ("devices", "devices.allow", controller("devices")),
            ("devices", "devices.list", controller("devices")),
            ("name=systemd", "devices.deny", Unknown),
            ("name=systemd", "notify_on_release", NotifyOnRelease),
            ("name=systemd", "release_agent", ReleaseAgent),
            ("name=systemd", "cgroup.clone_children", CloneChildren),
            ("name=systemd", "cgroup.sane_behavior", Core),
            ("cpuset", "cpus", Unknown),
        ] {
            assert_eq!(class(list, name), expected, "{list} {name}");
        }
    }

    #[test]
    fn where_memory_is_charged_for_a_cgroup() {
        let v1 = |word: &str| HierarchyKind::V1 { controllers: ControllerSet::parse(word), name: None };
        let (memory, pids, unified) = (v1("memory"), v1("pids"), HierarchyKind::Unified);
        let hybrid = [&memory, &pids, &unified];
        assert_eq!(hybrid.map(|kind| making_may_block(kind, hybrid.into_iter())), [true, false, false]);
        assert!(making_may_block(&unified, [&unified].into_iter()));
    }
}
