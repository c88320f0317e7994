//! Processes and threads: `pids.max`, with the same files in v1 and v2.

use super::amount::{Unit, number_or_max};
use super::cgroup::{HostFiles, cgroups};
use super::row::{NO_CGROUP, Resource, Row, Source};
use crate::cgroup::Membership;

pub(crate) fn pids(host: &dyn HostFiles, memberships: &[Membership]) -> Row {
    let Some((_, cgroups)) = cgroups(host, memberships, "pids") else {
        return Row::unknown(Resource::Pids, Unit::Processes, NO_CGROUP);
    };
    let source = Source {
        resource: Resource::Pids,
        part: None,
        unit: Unit::Processes,
        file: "pids.max",
        parse: &|_, text| number_or_max(text),
        used: Some("pids.current"),
        events: &[("pids.events", Some("max"), "hit_limit")],
        binding: usize::MAX,
    };
    Row::read(&cgroups, &source)
}
