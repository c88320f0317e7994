//! The table of policies in docs/SEMANTICS.md, as data.

use testkit::probe::Op;
use testkit::probe::names::*;

use crate::scene::{Mode, Who};

/// The position of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    Ancestor,
    Sibling,
    Boundary,
    Below,
}

use Zone::{Ancestor, Below, Boundary, Sibling};

impl Zone {
    fn variable(self) -> &'static str {
        match self {
            Ancestor => "$ANCESTOR",
            Sibling => "$SIBLING",
            Boundary => "$BOUNDARY",
            Below => "$BELOW",
        }
    }

    pub(crate) fn is_outside(self) -> bool {
        matches!(self, Ancestor | Sibling)
    }
}

/// An action that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read a file.
    Read(&'static str),
    /// Write to a file what it accepts.
    Write(&'static str, &'static str),
    /// Open a file for writing.
    OpenForWrite(&'static str),
    /// Migrate a process of the container by this file, and back.
    Migrate(&'static str),
    Mkdir,
    /// Remove a child.
    Rmdir,
    /// Rename a child.
    Rename,
    /// Rename the cgroup itself.
    RenameSelf,
    /// Change the directory's mode, owner, times, and an xattr.
    Chmod,
    Chown,
    Utimens,
    Setxattr,
    /// Change a file's mode.
    ChmodFile(&'static str),
}

use Action::{
    Chmod, ChmodFile, Chown, Migrate, Mkdir, OpenForWrite, Read, Rename, RenameSelf, Rmdir, Setxattr, Utimens, Write,
};

/// The policy's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Yes,
    /// EACCES, for a file at open.
    No,
    /// The open succeeds, the write is EPERM.
    Late,
}

use Want::{Late, No, Yes};

/// A line: hierarchies, zones, actions, and the answers of `strict` and `delegate`.
pub(crate) type Rule = (&'static [&'static str], &'static [Zone], &'static [Action], Want, Want);

const V1: &[&str] = &["pids", "memory", "devices"];
const NAMED: &[&str] = &["name=systemd"];
const V2: &[&str] = &["unified"];
const ALL: &[&str] = &["pids", "memory", "devices", "name=systemd", "unified"];
const OUTSIDE: &[Zone] = &[Ancestor, Sibling];
const INSIDE: &[Zone] = &[Boundary, Below];

/// The controllers that `delegate` is given.
pub(crate) const DELEGATED: &[&str] = &["pids"];

/// A trigger that everybody may set.
const TRIGGER: &str = "some 150000 2000000";

/// Nothing but these lines allows anything; that everything else is denied outside is in the lines on `OUTSIDE`.
pub(crate) const RULES: &[Rule] = &[
    // Everywhere: reading.
    (V1, &[Sibling, Boundary, Below], &[Read("cgroup.procs"), Read("tasks"), Read("notify_on_release")], Yes, Yes),
    (&["memory"], &[Sibling, Boundary, Below], &[Read("memory.stat")], Yes, Yes),
    (&["memory"], &[Ancestor, Sibling, Boundary, Below], &[Read("memory.limit_in_bytes")], Yes, Yes),
    (&["pids"], &[Ancestor, Sibling, Boundary, Below], &[Read("pids.max")], Yes, Yes),
    (&["devices"], &[Sibling, Boundary, Below], &[Read("devices.list")], Yes, Yes),
    (V2, &[Sibling, Boundary, Below], &[Read("cgroup.events"), Read("cpu.stat"), Read("cgroup.freeze")], Yes, Yes),
    (
        V2,
        &[Ancestor, Sibling, Boundary, Below],
        &[Read("cgroup.controllers"), Read("cgroup.subtree_control"), Read("cgroup.type")],
        Yes,
        Yes,
    ),
    // Outside the delegated subtree: anything that changes.
    (
        ALL,
        OUTSIDE,
        &[
            Migrate("cgroup.procs"),
            OpenForWrite("cgroup.procs"),
            Mkdir,
            Rmdir,
            Chmod,
            Chown,
            Utimens,
            Setxattr,
            ChmodFile("cgroup.procs"),
        ],
        No,
        No,
    ),
    (
        V1,
        OUTSIDE,
        &[OpenForWrite("tasks"), Write("notify_on_release", "0"), Write("cgroup.clone_children", "0"), Rename],
        No,
        No,
    ),
    (
        NAMED,
        OUTSIDE,
        &[OpenForWrite("tasks"), Write("notify_on_release", "0"), Write("cgroup.clone_children", "0"), Rename],
        No,
        No,
    ),
    (&["pids"], OUTSIDE, &[Write("pids.max", "max")], No, No),
    (
        &["memory"],
        OUTSIDE,
        &[
            Write("memory.limit_in_bytes", "-1"),
            OpenForWrite("memory.force_empty"),
            OpenForWrite("cgroup.event_control"),
        ],
        No,
        No,
    ),
    (&["devices"], OUTSIDE, &[OpenForWrite("devices.allow"), OpenForWrite("devices.deny")], No, No),
    (
        V2,
        OUTSIDE,
        &[
            Write("cgroup.subtree_control", "-hugetlb"),
            Write("cgroup.max.depth", "max"),
            Write("cgroup.freeze", "0"),
            OpenForWrite("cgroup.threads"),
            OpenForWrite("cgroup.kill"),
            OpenForWrite("memory.pressure"),
        ],
        No,
        No,
    ),
    // v1 controller hierarchies: read-only, or below the boundary what was delegated.
    (V1, INSIDE, &[Migrate("cgroup.procs"), Migrate("tasks"), Mkdir, Rmdir], No, Yes),
    (V1, INSIDE, &[Rename, Write("notify_on_release", "0"), Write("cgroup.clone_children", "0")], No, No),
    (V1, &[Below], &[Chmod, Setxattr], No, Yes),
    (V1, &[Boundary], &[Chmod, Chown, Utimens, Setxattr], No, Yes),
    (V1, &[Boundary], &[RenameSelf], No, No),
    (&["pids"], &[Boundary], &[Write("pids.max", "max")], No, No),
    (&["pids"], &[Below], &[Write("pids.max", "max"), ChmodFile("pids.max")], No, Yes),
    (
        &["memory"],
        INSIDE,
        &[
            Write("memory.limit_in_bytes", "-1"),
            Write("memory.oom_control", "0"),
            OpenForWrite("memory.force_empty"),
            OpenForWrite("cgroup.event_control"),
            Write("memory.swappiness", "60"),
        ],
        No,
        No,
    ),
    (&["devices"], INSIDE, &[OpenForWrite("devices.allow"), OpenForWrite("devices.deny")], No, No),
    // The named hierarchy.
    (
        NAMED,
        INSIDE,
        &[
            Read("cgroup.procs"),
            Migrate("cgroup.procs"),
            Migrate("tasks"),
            Write("notify_on_release", "0"),
            Write("cgroup.clone_children", "0"),
            Mkdir,
            Rmdir,
            Rename,
        ],
        Yes,
        Yes,
    ),
    (NAMED, &[Below], &[Chmod, Chown, Utimens, Setxattr, ChmodFile("tasks")], Yes, Yes),
    (NAMED, &[Boundary], &[Chmod, Chown, Utimens, Setxattr, ChmodFile("tasks")], No, Yes),
    (NAMED, &[Boundary], &[RenameSelf], No, No),
    // v2.
    (
        V2,
        INSIDE,
        &[
            Migrate("cgroup.procs"),
            OpenForWrite("cgroup.threads"),
            Write("cgroup.subtree_control", "-hugetlb"),
            Mkdir,
            Rmdir,
            Write("memory.pressure", TRIGGER),
        ],
        Yes,
        Yes,
    ),
    (
        V2,
        &[Boundary],
        &[Write("cgroup.max.depth", "max"), Write("cgroup.max.descendants", "max"), Write("cgroup.freeze", "0")],
        No,
        Late,
    ),
    (V2, &[Boundary], &[OpenForWrite("cgroup.kill")], No, Yes),
    (V2, &[Boundary], &[Chmod, Chown, Utimens, Setxattr, ChmodFile("cgroup.procs")], No, Yes),
    (
        V2,
        &[Below],
        &[
            Write("cgroup.max.depth", "max"),
            Write("cgroup.max.descendants", "max"),
            Write("cgroup.freeze", "0"),
            OpenForWrite("cgroup.kill"),
            OpenForWrite("cgroup.type"),
            Chmod,
            Chown,
            Utimens,
            Setxattr,
            ChmodFile("cgroup.freeze"),
        ],
        Yes,
        Yes,
    ),
    (V2, &[Boundary], &[Write("hugetlb.2MB.max", "max")], No, Late),
    (V2, &[Below], &[Write("hugetlb.2MB.max", "max")], No, Yes),
];

/// Whether an ancestor in `host-path` shows a file: the limits of the scene's controllers, and on v2 what tells of controllers.
pub(crate) fn skeleton_shows(unified: bool, file: &str) -> bool {
    const V1: [&str; 3] = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max"];
    const V2: [&str; 3] = ["cgroup.controllers", "cgroup.subtree_control", "cgroup.type"];
    if unified {
        V2.contains(&file) || file.starts_with("hugetlb.") && file.ends_with(".max")
    } else {
        V1.contains(&file)
    }
}

/// Files that the root of a hierarchy shows besides (Docker's `sysinfo`).
pub(crate) const PROBED_IN_ROOT: [&str; 4] =
    ["memory.kmem.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness"];

impl Action {
    /// The file, if it's about one.
    pub(crate) fn file(self) -> Option<&'static str> {
        match self {
            Read(file) | Write(file, _) | OpenForWrite(file) | Migrate(file) | ChmodFile(file) => Some(file),
            _ => None,
        }
    }

    fn needs_ownership(self) -> bool {
        matches!(self, Chmod | ChmodFile(_) | Chown | Utimens)
    }

    /// The operation; `owner` is the owner of the subtree, and `$P` a process.
    pub(crate) fn op(self, zone: Zone, owner: u32) -> Op {
        let dir = zone.variable();
        let file = |name: &str| format!("{dir}/{name}");
        match self {
            Read(name) => read_file(&file(name)),
            Write(name, data) => write_file(&file(name), data),
            OpenForWrite(name) => open("w", &file(name), &["O_WRONLY"]),
            Migrate(name) => write_file(&file(name), "$P"),
            Mkdir => mkdir(&file("vcgroupfs-made")),
            Rmdir => rmdir(&file("to-remove")),
            Rename => rename(&file("to-rename"), &file("renamed")),
            RenameSelf => rename(dir, "$PARENT/renamed-itself"),
            Chmod => chmod(dir, 0o755),
            Chown => chown(dir, owner),
            Utimens => Op::Utimens { path: dir.into(), sec: Some(1_000_000_000) },
            Setxattr => Op::Setxattr { path: dir.into(), name: "user.vcgroupfs".into(), value: "x".into() },
            ChmodFile(name) => chmod(&file(name), 0o644),
        }
    }
}

/// The answer to a caller in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Success,
    /// The error, and the stage if that matters.
    Error(&'static str, Option<&'static str>),
}

/// Whether a view shows it.
pub(crate) fn is_visible(mode: Mode, unified: bool, zone: Zone, action: Action) -> bool {
    match (mode.shape, zone) {
        (_, Boundary | Below) | ("full", _) => true,
        ("host-path", Ancestor) => match action.file() {
            Some(file) => skeleton_shows(unified, file),
            // A child that isn't on the way to the boundary doesn't exist.
            None => !matches!(action, Rmdir | Rename),
        },
        _ => false,
    }
}

/// The expected answer: the visibility, the kernel's own rules on owners and modes, the policy.
pub(crate) fn answer(mode: Mode, who: Who, unified: bool, zone: Zone, action: Action, want: Want) -> Answer {
    if !is_visible(mode, unified, zone, action) {
        return Answer::Error("ENOENT", None);
    }
    if matches!(action, Read(_)) {
        return Answer::Success;
    }
    let may = if zone.is_outside() { who.overrides_outside() } else { who.overrides_inside() };
    let stage = action.file().filter(|_| !matches!(action, ChmodFile(_))).map(|_| "open");
    if !may {
        return if action.needs_ownership() { Answer::Error("EPERM", None) } else { Answer::Error("EACCES", stage) };
    }
    match want {
        Yes => Answer::Success,
        No => Answer::Error("EACCES", stage),
        Late => Answer::Error("EPERM", Some("write")),
    }
}
