//! The ONE list of what FUSE makes impossible.

/// A step whose outcome on a view can't be the kernel's.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The case.
    pub(crate) case: &'static str,
    /// The id of the step.
    pub(crate) step: &'static str,
    /// Why.
    #[allow(dead_code, reason = "it's for the reader, and for Debug")]
    pub(crate) reason: &'static str,
}

/// A step that is listed here, and doesn't differ, fails the test.
pub(crate) const KNOWN_DIFFERENCES: &[Difference] = &[
    Difference {
        case: "statfs",
        step: "type",
        reason: "the kernel fills in f_type of a FUSE filesystem, and always with FUSE_SUPER_MAGIC",
    },
    Difference {
        case: "removed-cgroup",
        step: "write of nothing",
        reason: "FUSE answers a write of 0 bytes by itself, so that nobody notices that the cgroup is gone",
    },
    Difference {
        case: "odd-calls",
        step: "splice",
        reason: "splice(2) and sendfile(2) of a FUSE file end at st_size, which is 0, unless the file is passed through",
    },
];

/// Whether a step is listed.
pub(crate) fn is_known(case: &str, step: &str) -> bool {
    // An unprivileged owner runs some cases too.
    let case = case.strip_suffix("-by-owner").unwrap_or(case);
    !step.is_empty() && KNOWN_DIFFERENCES.iter().any(|known| known.case == case && known.step == step)
}
