//! The ONE list of what FUSE makes impossible.

use serde_json::Value;
use testkit::probe::{Op, Outcome};

/// An operation, and what came of it on the kernel and on a view.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) op: &'a Op,
    /// The name of the file that it's about, if it's about one.
    pub(crate) file: &'a str,
    pub(crate) kernel: &'a Outcome,
    pub(crate) view: &'a Outcome,
}

/// A step whose outcome on a view can't be the kernel's.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The case.
    pub(crate) case: &'static str,
    /// The id of the step.
    pub(crate) step: &'static str,
    /// Where: with files passed through (true), without (false), or both.
    pub(crate) passed_through: Option<bool>,
    /// The same in any other sequence of operations.
    pub(crate) explains: fn(&Seen) -> bool,
    /// Why.
    #[allow(dead_code, reason = "it's for the reader, and for Debug")]
    pub(crate) reason: &'static str,
}

/// A step that is listed here, and doesn't differ, fails the test.
pub(crate) const KNOWN_DIFFERENCES: &[Difference] = &[
    Difference {
        case: "statfs",
        step: "type",
        passed_through: None,
        explains: |seen| matches!(seen.op, Op::Statfs { .. }) && same_but(seen, "type"),
        reason: "the kernel fills in f_type of a FUSE filesystem, and always with FUSE_SUPER_MAGIC",
    },
    Difference {
        case: "removed-cgroup",
        step: "write of nothing",
        passed_through: None,
        explains: |seen| {
            writes_nothing(seen.op) && seen.kernel.errno() == Some("ENODEV") && *seen.view == gives(0)
                || is_asked_about_nothing(seen.op, seen.kernel, seen.view)
        },
        reason: "FUSE answers a write of 0 bytes by itself, so that nobody notices that the cgroup is gone",
    },
    Difference {
        case: "seek",
        step: "size",
        passed_through: Some(false),
        explains: |_| false,
        reason: "splice(2) and sendfile(2) of a FUSE file end at st_size, unless the file is passed through: so it has one",
    },
    Difference {
        case: "seek-in-a-removed-cgroup",
        step: "size",
        passed_through: Some(false),
        explains: |_| false,
        reason: "as above",
    },
    Difference {
        case: "splice-of-a-writable-handle",
        step: "splice",
        passed_through: Some(true),
        explains: splices_less,
        reason: "a handle that may write is never passed through, because the server has to see what is written, while the file has the size of \
                 those that are",
    },
    Difference {
        case: "map-of-a-notified-file",
        step: "private",
        passed_through: None,
        explains: |seen| maps_privately(seen.op) && is_notified(seen.file) && seen.view.is_ok(),
        reason: "as below; what is notified is never passed through, because the server has to see the reads that poll depends on",
    },
    Difference {
        case: "map",
        step: "private",
        passed_through: Some(false),
        explains: |seen| maps_privately(seen.op) && seen.kernel.errno() == Some("ENODEV") && seen.view.is_ok(),
        reason: "FUSE lets direct I/O files be mapped with MAP_PRIVATE, and asks the server only when a page is touched",
    },
    Difference {
        case: "pwrite-to-a-read-only-handle",
        step: "pwrite",
        passed_through: None,
        explains: |seen| {
            matches!(seen.op, Op::Pwrite { .. })
                && (seen.kernel.errno(), seen.view.errno()) == (Some("ESPIPE"), Some("EBADF"))
        },
        reason: "a seq_file that isn't open for writing has no FMODE_PWRITE; FUSE can take it away only together with lseek and pread",
    },
    Difference {
        case: "xattr-of-a-file",
        step: "set",
        passed_through: None,
        explains: changes_a_files_xattr,
        reason: "the kernel's memory for them is the server's, so only directories have any that a container can set",
    },
    Difference {
        case: "xattr-of-a-file",
        step: "remove",
        passed_through: None,
        explains: changes_a_files_xattr,
        reason: "as above",
    },
    Difference {
        case: "acl-of-another",
        step: "set",
        passed_through: None,
        explains: |seen| {
            names_an_acl(seen.op) && (seen.kernel.errno(), seen.view.errno()) == (Some("EOPNOTSUPP"), Some("EPERM"))
        },
        reason: "the kernel takes every FUSE filesystem for one with ACLs, and asks who owns the file before it asks FUSE",
    },
    Difference {
        case: "seek-in-a-removed-cgroup",
        step: "lseek",
        passed_through: None,
        explains: |seen| matches!(seen.op, Op::Lseek { .. }) && seen.kernel.errno() == Some("ENODEV"),
        reason: "FUSE seeks by itself; for SEEK_END it asks for the attributes, which a removed file still has for fstat",
    },
    Difference {
        case: "poll",
        step: "fresh",
        passed_through: Some(true),
        explains: |seen| matches!(seen.op, Op::Poll { .. }) && !is_notified(seen.file) && differ_in_priority(seen),
        reason: "FUSE passes reads through, but not polls: whether a file was read, the server can't know. No such file is ever notified",
    },
    Difference {
        case: "events-by-threads",
        step: "own descriptors",
        passed_through: Some(false),
        // No random operation registers an event.
        explains: |_| false,
        reason: "before Linux 6.9, which is also when files began to be passed through, only a process' descriptors can be fetched, and not \
                 those that one of its threads has for itself (PIDFD_THREAD)",
    },
];

/// A difference that is there for a moment, and may not be seen. It's of no case: `tests/staleness.rs` says how long it may last.
pub(crate) struct Momentary {
    explains: fn(&Seen) -> bool,
    /// Why.
    #[allow(dead_code, reason = "it's for the reader")]
    reason: &'static str,
}

const MOMENTARY_DIFFERENCES: &[Momentary] = &[Momentary {
    explains: |seen| seen.kernel.errno() == Some("ENOENT") && seen.view.is_ok() && is_in_a_held_directory(seen.op),
    reason: "a file of a removed cgroup that is open keeps its name there until the kernel is told to drop it, for which it takes the lock that \
             rmdir holds until it's answered. The lock-free way (FUSE_NOTIFY_INC_EPOCH, Linux 6.16) drops every name of the view",
}];

/// Whether it's about a name in a directory that is open.
fn is_in_a_held_directory(op: &Op) -> bool {
    if let Op::On { then, .. } = op {
        return is_in_a_held_directory(then);
    }
    let op = serde_json::to_value(op).unwrap_or_default();
    let path = op.get("path").and_then(Value::as_str);
    path.and_then(|path| path.strip_prefix("/proc/self/fd/")).is_some_and(|rest| rest.contains('/'))
}

fn gives(value: impl Into<Value>) -> Outcome {
    Outcome::Ok(value.into())
}

fn writes_nothing(op: &Op) -> bool {
    match op {
        Op::Write { data, .. } | Op::Pwrite { data, .. } | Op::WriteFile { data, .. } => data.is_empty(),
        Op::Writev { data, .. } => data.iter().all(String::is_empty),
        Op::On { then, .. } => writes_nothing(then),
        _ => false,
    }
}

/// Whether cgroupfs refused a write of nothing (EINVAL), as on Linux 4.4; later ones answer 0 by themselves.
pub(crate) fn is_asked_about_nothing(op: &Op, kernel: &Outcome, view: &Outcome) -> bool {
    writes_nothing(op) && kernel.errno() == Some("EINVAL") && *view == gives(0)
}

/// st_size is 0, or where the last write through the view ended.
fn splices_less(seen: &Seen) -> bool {
    let is_less = |view: &str| view.is_empty() || seen.kernel.text().is_some_and(|kernel| kernel.starts_with(view));
    matches!(seen.op, Op::Splice { .. }) && seen.view.text().is_some_and(is_less)
}

fn names_an_acl(op: &Op) -> bool {
    matches!(op, Op::Setxattr { name, .. } | Op::Removexattr { name, .. } if name.starts_with("system.posix_acl_"))
}

fn changes_a_files_xattr(seen: &Seen) -> bool {
    let is_one = matches!(seen.op, Op::Setxattr { .. } | Op::Removexattr { .. });
    is_one && !seen.file.is_empty() && seen.view.errno() == Some("EOPNOTSUPP")
}

fn maps_privately(op: &Op) -> bool {
    matches!(op, Op::Mmap { shared: false, .. })
}

/// Whether both succeed, with values that differ in this field only.
fn same_but(seen: &Seen, field: &str) -> bool {
    let rest = |outcome: &Outcome| match outcome {
        Outcome::Ok(Value::Object(fields)) => {
            Some(fields.iter().filter(|(name, _)| *name != field).map(|(_, value)| value.clone()).collect::<Vec<_>>())
        }
        _ => None,
    };
    rest(seen.kernel).is_some_and(|kernel| Some(kernel) == rest(seen.view))
}

/// Whether a file is one whose pollers are ever woken.
pub(crate) fn is_notified(file: &str) -> bool {
    file.ends_with(".events") || file.ends_with(".pressure")
}

fn differ_in_priority(seen: &Seen) -> bool {
    let rest = |outcome: &Outcome| match outcome {
        Outcome::Ok(Value::Array(events)) => Some(
            events.iter().filter(|event| !matches!(event.as_str(), Some("PRI" | "ERR"))).cloned().collect::<Vec<_>>(),
        ),
        _ => None,
    };
    rest(seen.kernel).is_some_and(|kernel| Some(kernel) == rest(seen.view))
}

/// Whether a listed difference explains what was seen.
pub(crate) fn is_explained(seen: &Seen, passed_through: bool) -> bool {
    let holds = |known: &Difference| known.passed_through.is_none_or(|only| only == passed_through);
    KNOWN_DIFFERENCES.iter().any(|known| holds(known) && (known.explains)(seen))
        || MOMENTARY_DIFFERENCES.iter().any(|known| (known.explains)(seen))
}

/// Whether the kernel passes files of a view through (Linux 6.9), where nothing keeps the server from asking for it.
pub(crate) fn passes_through() -> bool {
    is_at_least(6, 9)
}

/// Whether splice(2) of a FUSE file ends at its size (Linux 6.5).
pub(crate) fn splice_ends_at_size() -> bool {
    is_at_least(6, 5)
}

fn is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|one: char| !one.is_ascii_digit()).map(|word| word.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Whether a step is listed.
pub(crate) fn is_known(case: &str, step: &str, passed_through: bool) -> bool {
    // An unprivileged owner runs some cases too.
    let case = case.strip_suffix("-by-owner").unwrap_or(case);
    let holds = |known: &Difference| known.passed_through.is_none_or(|only| only == passed_through);
    let is_there = step != "size" || splice_ends_at_size();
    is_there
        && !step.is_empty()
        && KNOWN_DIFFERENCES.iter().any(|known| known.case == case && known.step == step && holds(known))
}
