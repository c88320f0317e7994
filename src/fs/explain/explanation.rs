//! Questions about a view, and their answers.

use nix::errno::Errno;

use crate::cgroup::CgroupPath;
use crate::policy::{Denial, Operation, Rule};

/// A question about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// An operation on the object that the path names.
    Of(Operation),
    /// An operation in the parent directory, which would make the object that the path names.
    In(Operation),
    /// unlink of the object that the path names.
    Unlink,
    /// truncate of the object that the path names.
    Truncate,
    /// A migration into the cgroup that the path names, or whose membership file it names.
    Migrate,
    /// clone3(2) with CLONE_INTO_CGROUP, into the cgroup that the path names.
    CloneInto,
}

/// The predicted result of an operation, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the policy allows it; the kernel may still refuse.
    pub allowed: bool,
    /// The errno that the caller gets otherwise.
    pub errno: Option<Errno>,
    /// The rule's name; `kernel` if no rule of the view decides.
    pub rule: &'static str,
    /// The reason, as a sentence without a full stop.
    pub reason: String,
    /// The hierarchy and path of the backing object, if the path names one.
    pub backing: Option<(String, CgroupPath)>,
}

impl Explanation {
    /// The verdict in one word.
    pub fn verdict(&self) -> &'static str {
        if self.allowed { "allowed" } else { "rejected" }
    }

    /// Makes the answer of a rule of the view.
    pub fn of_rule(rule: Rule) -> Self {
        Self::denied(&Denial::new(rule))
    }

    pub(super) fn denied(denial: &Denial) -> Self {
        Self {
            allowed: false,
            errno: Some(denial.errno()),
            rule: denial.rule().name(),
            reason: denial.reason().to_owned(),
            backing: None,
        }
    }

    /// Makes an answer that the kernel itself gives.
    pub fn kernel(errno: Errno, reason: &str) -> Self {
        Self { allowed: false, errno: Some(errno), rule: "kernel", reason: reason.to_owned(), backing: None }
    }

    pub(super) fn allowed(reason: &str) -> Self {
        Self { allowed: true, errno: None, rule: "allowed", reason: reason.to_owned(), backing: None }
    }
}
