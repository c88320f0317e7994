//! The answers of the policy.

use super::denial::{Denial, Rule};
use crate::cgroup::file::MembershipFile;

/// The way in which an allowed operation is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The kernel executes it unchanged.
    Plain,
    /// The bytes are the number of a process or thread to migrate.
    Migrate(MembershipFile),
    /// The bytes register an event, by numbers of the writer's descriptors.
    RegisterEvent,
    /// The open succeeds and every write fails, as with nsdelegate (`cgroup_file_write`).
    FailsAtWrite(Denial),
}

/// The decision about an operation.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It's allowed, and done this way.
    Allow(Grant),
    /// It's rejected for this reason.
    Deny(Denial),
}

impl Verdict {
    /// Whether it's allowed. That includes an open whose writes will fail.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

impl Verdict {
    pub(super) fn without_migration_unless(self, is_write: bool) -> Self {
        match self {
            Self::Allow(_) if !is_write => PLAIN,
            verdict => verdict,
        }
    }
}

pub(super) fn deny(rule: Rule) -> Verdict {
    Verdict::Deny(Denial::new(rule))
}

pub(super) const PLAIN: Verdict = Verdict::Allow(Grant::Plain);
