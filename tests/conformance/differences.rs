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
pub(crate) const KNOWN_DIFFERENCES: &[Difference] = &[Difference {
    case: "statfs",
    step: "type",
    reason: "the kernel fills in f_type of a FUSE filesystem, and always with FUSE_SUPER_MAGIC",
}];

/// Whether a step is listed.
pub(crate) fn is_known(case: &str, step: &str) -> bool {
    !step.is_empty()
        && KNOWN_DIFFERENCES
            .iter()
            .any(|known| known.case == case && known.step == step)
}
