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
            // A number that the program doesn't read at all in one of the places counts as missing there.
            let lacked = before.or(after)?.missing.is_some() || before.is_none();
            let (before, after) = (before.and_then(|taken| taken.value), after.and_then(|taken| taken.value));
            let differs = before != after;
            let remedy = (differs && !(lacked && before.is_none())).then_some(remedy);
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
}
