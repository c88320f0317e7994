//! The rules by which operations are rejected, each with its errno and reason, in one table.

use std::fmt;

use nix::errno::Errno;

/// The rule that rejected an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The node doesn't exist in this view.
    Hidden,
    /// The node isn't in the container's delegated subtree.
    OutsideSubtree,
    /// The delegation boundary itself can't be removed or renamed.
    BoundaryItself,
    /// Mode, owner, times and xattrs of the delegation boundary and of its files, under `strict`.
    BoundaryAttributes,
    /// The container can't set xattrs of files.
    XattrOnFile,
    /// The xattrs that were set through this view use up its budget of kernel memory.
    XattrBudget,
    /// v1 controller hierarchies are read-only under `strict`.
    V1ControllersReadOnly,
    /// A cgroup of a v1 controller hierarchy can't be renamed.
    V1ControllersRename,
    /// At the boundary of a v1 controller hierarchy only membership can be written.
    V1BoundaryLimits,
    /// A controller of the v1 hierarchy isn't delegated and doesn't apply its limits to descendants.
    LimitsNotInherited,
    /// The file's controller isn't among the delegated ones.
    ControllerNotDelegated,
    /// Controller files are read-only under `strict`.
    ControllerFile,
    /// At the v2 boundary, a file that isn't in `/sys/kernel/cgroup/delegate`, under `strict`.
    NotDelegatable,
    /// The same under `delegate`, where the open succeeds and the write fails.
    NotDelegatableAtWrite,
    /// v1 `notify_on_release` in a controller hierarchy.
    NotifyOnRelease,
    /// v1 `release_agent`.
    ReleaseAgent,
    /// v1 `cgroup.event_control` where descriptors can't be fetched.
    EventControl,
    /// A file that the interface-file table doesn't know.
    UnknownFile,
    /// No file can be created in a cgroupfs.
    NoFileCreation,
    /// A cgroupfs has no link, symlink, mknod or unlink.
    NoSuchOperation,
    /// The process to migrate isn't in the delegated subtree.
    SourceOutside,
    /// The opener may not write `cgroup.procs` of the common ancestor.
    CommonAncestor,
    /// On v1, the opener is neither root nor the user of the process to migrate.
    AnothersProcess,
    /// The calling process can't be seen from the server's pid namespace.
    CallerInvisible,
    /// In a `mount --per-caller`, the container of the calling process can't be found.
    ContainerUnknown,
    /// The calling process' container has too many pid namespaces, or the host has too many containers.
    TooManyContainers,
    /// In a `mount --per-caller`, the server is in the caller's subtree and can't leave it.
    ServerInside,
}

/// The rejection of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    rule: Rule,
}

impl Denial {
    /// A rejection by this rule.
    pub const fn new(rule: Rule) -> Self {
        Self { rule }
    }

    /// The rule that rejected it.
    pub const fn rule(&self) -> Rule {
        self.rule
    }

    /// The errno that the caller gets.
    pub const fn errno(&self) -> Errno {
        self.rule.row().0
    }

    /// The reason, as a sentence without its full stop.
    pub const fn reason(&self) -> &'static str {
        self.rule.reason()
    }
}

impl Rule {
    /// All rules, in the order of their numbers (`rule as usize`).
    pub const ALL: [Self; 27] = [
        Self::Hidden,
        Self::OutsideSubtree,
        Self::BoundaryItself,
        Self::BoundaryAttributes,
        Self::XattrOnFile,
        Self::XattrBudget,
        Self::V1ControllersReadOnly,
        Self::V1ControllersRename,
        Self::V1BoundaryLimits,
        Self::LimitsNotInherited,
        Self::ControllerNotDelegated,
        Self::ControllerFile,
        Self::NotDelegatable,
        Self::NotDelegatableAtWrite,
        Self::NotifyOnRelease,
        Self::ReleaseAgent,
        Self::EventControl,
        Self::UnknownFile,
        Self::NoFileCreation,
        Self::NoSuchOperation,
        Self::SourceOutside,
        Self::CommonAncestor,
        Self::AnothersProcess,
        Self::CallerInvisible,
        Self::ContainerUnknown,
        Self::TooManyContainers,
        Self::ServerInside,
    ];

    /// Its stable name, for logs and scripts.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Why it rejects, as a sentence without its full stop.
    pub const fn reason(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (Errno, &'static str, &'static str) {
        use Errno::{EACCES, ENOENT, ENOSPC, EOPNOTSUPP, EPERM};
        match self {
            Self::Hidden => (
                ENOENT,
                "hidden",
                "this view doesn't show it: it's neither in the container's delegated subtree nor on the way to it",
            ),
            Self::OutsideSubtree => (
                EACCES,
                "outside-subtree",
                "it's outside the container's delegated subtree, where everything is read-only",
            ),
            Self::BoundaryItself => (
                EACCES,
                "boundary-itself",
                "the delegation boundary belongs to the host: only what is below it can be removed or renamed",
            ),
            Self::BoundaryAttributes => (
                EACCES,
                "boundary-attributes",
                "under the policy 'strict' mode, owner, times and xattrs of the delegation boundary and its files are the host's",
            ),
            // cp, rsync and tar treat this as a filesystem without xattrs, and continue.
            Self::XattrOnFile => (EOPNOTSUPP, "xattr-on-file", "only directories have xattrs that a container can set"),
            Self::XattrBudget => (
                ENOSPC,
                "xattr-budget",
                "the xattrs that were set through this view have used up their share of the host kernel's memory",
            ),
            Self::V1ControllersReadOnly => (
                EACCES,
                "v1-controllers-read-only",
                "resource controllers aren't safe to delegate on cgroup v1, so the policy 'strict' keeps their hierarchies read-only",
            ),
            Self::V1ControllersRename => (
                EACCES,
                "v1-controllers-rename",
                "cgroups of v1 controller hierarchies can't be renamed by the container",
            ),
            Self::V1BoundaryLimits => (
                EACCES,
                "v1-boundary-limits",
                "at the delegation boundary of a v1 controller hierarchy only membership can be written: the limits there are the host's",
            ),
            Self::LimitsNotInherited => (
                EACCES,
                "limits-not-inherited",
                "this hierarchy has a controller that isn't delegated and whose limits don't hold for cgroups below (blkio, cpuset, net_cls, net_prio; \
                 memory where memory.use_hierarchy is 0): name it in --delegate-controllers, or use 'all'",
            ),
            Self::ControllerNotDelegated => (
                EACCES,
                "controller-not-delegated",
                "the file's controller isn't delegated (see --delegate-controllers)",
            ),
            Self::ControllerFile => {
                (EACCES, "controller-file", "controller files are read-only under the policy 'strict'")
            }
            Self::NotDelegatable => (
                EACCES,
                "not-delegatable",
                "at the delegation boundary only core files that the kernel lists in /sys/kernel/cgroup/delegate can be written",
            ),
            Self::NotDelegatableAtWrite => (
                EPERM,
                "not-delegatable",
                "at the delegation boundary only files that the kernel lists in /sys/kernel/cgroup/delegate can be written (nsdelegate)",
            ),
            Self::NotifyOnRelease => (
                EACCES,
                "notify-on-release",
                "it would make the kernel run the host's release agent for the container's cgroups",
            ),
            Self::ReleaseAgent => {
                (EACCES, "release-agent", "it names a program that the host runs as root (CVE-2022-0492)")
            }
            Self::EventControl => (
                EACCES,
                "event-control",
                "the file takes numbers of the writer's descriptors, which this server can't fetch (pidfd_getfd, Linux 5.6)",
            ),
            Self::UnknownFile => (EACCES, "unknown-file", "it isn't a file that this policy knows to be safe"),
            Self::NoFileCreation => (EACCES, "no-file-creation", "no file can be created in a cgroupfs"),
            Self::NoSuchOperation => (EPERM, "no-such-operation", "a cgroupfs has no link, symlink, mknod and unlink"),
            Self::SourceOutside => (
                EACCES,
                "source-outside-subtree",
                "the process to migrate isn't in the container's delegated subtree of this hierarchy",
            ),
            Self::CommonAncestor => (
                EACCES,
                "common-ancestor",
                "the user who opened the file may not write cgroup.procs of the nearest common ancestor of source and destination",
            ),
            Self::AnothersProcess => {
                (EACCES, "anothers-process", "on cgroup v1 only root can migrate the processes of other users")
            }
            Self::CallerInvisible => {
                (EACCES, "caller-invisible", "the calling process is in a pid namespace that the server can't see")
            }
            Self::ContainerUnknown => (
                EACCES,
                "container-unknown",
                "the server can't find the container of the calling process, whose pid namespace has no process 1 that it knows",
            ),
            Self::TooManyContainers => (
                EACCES,
                "too-many-containers",
                "the calling process' container, or the user who made it, has too many pid namespaces, or the host has too many containers",
            ),
            Self::ServerInside => (
                EACCES,
                "server-inside",
                "the server is in the container's delegated subtree, where the container could stop it, and can't leave",
            ),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.name(), self.reason())
    }
}
