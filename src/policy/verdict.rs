//! The answers.

use super::denial::{Denial, Rule};
use crate::cgroup::file::MembershipFile;

/// What to do after a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Hand it to the kernel.
    Plain,
    /// What is written is the number of a process or thread to migrate.
    Migrate(MembershipFile),
    /// What is written registers an event, by numbers of the writer's descriptors.
    RegisterEvent,
    /// The open succeeds and every write fails, as with nsdelegate (`cgroup_file_write`).
    FailsAtWrite(Denial),
}

/// The answer.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, and how.
    Allow(Grant),
    /// No, and why.
    Deny(Denial),
}

impl Verdict {
    /// Whether it's a yes (also one whose writes will fail).
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
