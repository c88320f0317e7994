//! The ONE list of what FUSE makes impossible.

/// A step whose outcome on a view can't be the kernel's.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The case.
    pub(crate) case: &'static str,
    /// The id of the step.
    pub(crate) step: &'static str,
    /// Where: with files passed through (true), without (false), or both.
    pub(crate) passed_through: Option<bool>,
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
        reason: "the kernel fills in f_type of a FUSE filesystem, and always with FUSE_SUPER_MAGIC",
    },
    Difference {
        case: "removed-cgroup",
        step: "write of nothing",
        passed_through: None,
        reason: "FUSE answers a write of 0 bytes by itself, so that nobody notices that the cgroup is gone",
    },
    Difference {
        case: "odd-calls",
        step: "splice",
        passed_through: Some(false),
        reason: "splice(2) and sendfile(2) of a FUSE file end at st_size, which is 0, unless the file is passed through",
    },
    Difference {
        case: "poll",
        step: "fresh",
        passed_through: Some(true),
        reason: "FUSE passes reads through, but not polls: whether a file was read, the server can't know. No such file is ever notified",
    },
    Difference {
        case: "events-by-threads",
        step: "own descriptors",
        passed_through: Some(false),
        reason: "before Linux 6.9, which is also when files began to be passed through, only a process' descriptors can be fetched, and not \
                 those that one of its threads has for itself (PIDFD_THREAD)",
    },
];

/// Whether the kernel passes files of a view through (Linux 6.9), where nothing keeps the server from asking for it.
pub(crate) fn passes_through() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|one: char| !one.is_ascii_digit()).map(|word| word.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(9))
}

/// Whether a step is listed.
pub(crate) fn is_known(case: &str, step: &str, passed_through: bool) -> bool {
    // An unprivileged owner runs some cases too.
    let case = case.strip_suffix("-by-owner").unwrap_or(case);
    let holds = |known: &Difference| known.passed_through.is_none_or(|only| only == passed_through);
    !step.is_empty() && KNOWN_DIFFERENCES.iter().any(|known| known.case == case && known.step == step && holds(known))
}
