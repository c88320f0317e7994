//! Decisions: may this operation be done on that node? Pure: facts in, a [`Verdict`] out.
//!
//! The filesystem and `explain` call the same function, [`decide()`]. It denies every operation that no line of it
//! allows.

mod decide;
mod denial;
mod inherited;
mod migration;
mod operation;
#[cfg(test)]
mod properties;
mod rules;
#[cfg(test)]
mod tests;
mod verdict;

pub use decide::{decide, shown_mode};
pub use denial::{Denial, Rule};
pub use migration::{MigrationEnds, decide_migration};
pub use operation::{Operation, PolicyNode, Subject, Zone};
pub use rules::{Policy, Rules};
pub use verdict::{Grant, Verdict};
