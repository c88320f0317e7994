//! Compares the numbers that clients take at two moments.

use serde::Serialize;

use super::clients::Client;
use super::facts::Facts;
use super::reading::{LimitValue, Quantity};
use super::verdict::readings;

/// A number that a client takes, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    pub(crate) client: &'static str,
    pub(crate) quantity: Quantity,
    pub(crate) before: Option<u64>,
    pub(crate) after: Option<u64>,
    /// Whether they differ.
    pub(crate) differs: bool,
    /// The remedy if the program reads a worse number than before. `None` if it finds its files only now.
    pub(crate) remedy: Option<&'static str>,
}

/// Compares every number of every client; changes that differ get `remedy`.
pub(crate) fn compare(before: &Facts, after: &Facts, remedy: &'static str) -> Vec<Change> {
    let (before, after) = (readings(&before.system(), before), readings(&after.system(), after));
    let pairs = before.iter().zip(&after).flat_map(|((client, before), (_, after))| {
        let parts = before.parts().into_iter().zip(after.parts());
        parts.map(move |((quantity, before), (_, after))| (*client, quantity, before, after))
    });
    let change =
        |(client, quantity, before, after): (&'static Client, Quantity, Option<&LimitValue>, Option<&LimitValue>)| {
            before.or(after)?;
            // A number that the program doesn't read at all in one of the places counts as missing there.
            let is_missing = |taken: Option<&LimitValue>| taken.is_none_or(|taken| taken.missing.is_some());
            let is_found_now = is_missing(before) && !is_missing(after);
            let (before, after) = (before.and_then(|taken| taken.value), after.and_then(|taken| taken.value));
            let differs = before != after;
            let remedy = (differs && !is_found_now).then_some(remedy);
            Some(Change { client: client.name, quantity, before, after, differs, remedy })
        };
    pairs.filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::layouts::{Kind, Variant, legacy};

    #[test]
    fn what_a_view_changes() {
        let of = |kind| legacy(kind, Variant::default());
        let same = compare(&of(Kind::Real), &of(Kind::Real), "-");
        assert!(same.len() > 15 && same.iter().all(|change| !change.differs && change.remedy.is_none()), "{same:?}");
        // With the kernel's hierarchies beneath, all programs find the same numbers.
        let stack = compare(&of(Kind::Real), &of(Kind::Stack), "-");
        assert!(!stack.iter().any(|change| change.differs), "{stack:?}");
        let bare = compare(&of(Kind::Real), &of(Kind::Fuse), "remedy");
        let lost: Vec<_> = bare.iter().filter(|change| change.differs).collect();
        let jvm = lost.iter().find(|change| change.client.starts_with("JVM") && change.quantity == Quantity::Memory);
        assert_eq!(
            jvm.map(|change| (change.before, change.after, change.remedy)),
            Some((Some(512 << 20), None, Some("remedy")))
        );
        assert!(!lost.iter().any(|change| change.client.starts_with("Node.js 20")), "{lost:?}");
    }

    /// Without a quota Go takes all CPUs, with one of 1 CPU it takes 2.
    #[test]
    fn a_quota_that_is_found_only_now_is_no_loss() {
        let of = |kind| {
            let mut facts = legacy(kind, Variant::default());
            (facts.process.affinity, facts.process.online) = (4, 4);
            facts
        };
        let go = |changes: &[Change]| {
            let is_it = |change: &&Change| change.client == "Go >= 1.25" && change.quantity == Quantity::Cpus;
            changes.iter().find(is_it).map(|change| (change.before, change.after, change.remedy))
        };
        let found = compare(&of(Kind::Fuse), &of(Kind::Stack), "remedy");
        assert_eq!(go(&found), Some((Some(4), Some(2), None)));
        assert!(found.iter().all(|change| change.remedy.is_none()), "{found:?}");
        let lost = compare(&of(Kind::Stack), &of(Kind::Fuse), "remedy");
        assert_eq!(go(&lost), Some((Some(2), Some(4), Some("remedy"))));
    }
}
