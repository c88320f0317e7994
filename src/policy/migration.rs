//! The decision about migrations, by source and destination.

use super::denial::{Denial, Rule};
use super::operation::Zone;
use super::verdict::{Grant, Verdict};
use crate::cgroup::CgroupPath;

/// The two ends of a migration in one hierarchy.
#[derive(Clone, Copy, Debug)]
pub struct MigrationEnds<'a> {
    /// The container's delegated subtree.
    pub delegated: &'a CgroupPath,
    /// The process' current cgroup; `None` if it's outside the server's cgroup namespace and has no path.
    pub source: Option<&'a CgroupPath>,
    /// The zone of the written file.
    pub destination: Zone,
}

/// Decides about a migration: both ends have to be inside the delegated subtree. On v2 the kernel demands the same
/// with nsdelegate (`cgroup_attach_permissions`, ENOENT); on v1 only this function does.
pub fn decide_migration(ends: &MigrationEnds<'_>) -> Verdict {
    if ends.destination == Zone::Outside {
        return Verdict::Deny(Denial::new(Rule::OutsideSubtree));
    }
    match ends.source {
        Some(source) if source.is_within(ends.delegated) => Verdict::Allow(Grant::Plain),
        _ => Verdict::Deny(Denial::new(Rule::SourceOutside)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> CgroupPath {
        CgroupPath::parse(text).unwrap()
    }

    #[test]
    fn both_ends_must_be_inside() {
        let delegated = path("/lxc/c1");
        for (source, destination, allowed) in [
            (Some("/lxc/c1"), Zone::Boundary, true),
            (Some("/lxc/c1/a/b"), Zone::Inside, true),
            (Some("/lxc/c10"), Zone::Inside, false),
            (Some("/lxc"), Zone::Inside, false),
            (Some("/"), Zone::Boundary, false),
            (None, Zone::Inside, false),
            (Some("/lxc/c1"), Zone::Outside, false),
        ] {
            let source = source.map(path);
            let ends = MigrationEnds { delegated: &delegated, source: source.as_ref(), destination };
            assert_eq!(decide_migration(&ends).is_allowed(), allowed, "{ends:?}");
        }
    }
}
