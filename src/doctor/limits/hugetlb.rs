//! Huge pages: a limit for each size, and one for reservations. Both apply to everything below, in v1 as well.

use super::amount::{Unit, bytes_of_v1, number_or_max};
use super::cgroup::{Cgroup, HostFiles, Version, cgroups};
use super::row::{NO_CGROUP, Resource, Row, Source};
use crate::cgroup::Membership;

/// A row for each size, and one for its reservations if these are limited.
pub(crate) fn hugetlb(host: &dyn HostFiles, memberships: &[Membership], sizes: &[String]) -> Vec<Row> {
    let Some((version, cgroups)) = cgroups(host, memberships, "hugetlb") else {
        return vec![Row::unknown(Resource::Hugetlb, Unit::Bytes, NO_CGROUP)];
    };
    let mut rows = Vec::new();
    for size in sizes {
        rows.push(read(&cgroups, version, size, ""));
        let reserved = read(&cgroups, version, size, "rsvd.");
        rows.extend(reserved.effective.is_some().then_some(reserved));
    }
    rows
}

fn read(cgroups: &[Cgroup<'_>], version: Version, size: &str, reserved: &str) -> Row {
    let name = |file: &str| format!("hugetlb.{size}.{reserved}{file}");
    let [file, used, events] = match version {
        Version::V1 => ["limit_in_bytes", "usage_in_bytes", "failcnt"].map(name),
        // There are no events of reservations.
        Version::V2 => [name("max"), name("current"), format!("hugetlb.{size}.events")],
    };
    let key = (version == Version::V2).then_some("max");
    let events = [(events.as_str(), key, "hit_limit")];
    let source = Source {
        resource: Resource::Hugetlb,
        part: Some(if reserved.is_empty() { size.to_owned() } else { format!("{size} reserved") }),
        unit: Unit::Bytes,
        file: &file,
        parse: &|_, text| if version == Version::V1 { bytes_of_v1(text) } else { number_or_max(text) },
        used: Some(&used),
        events: if version == Version::V2 && !reserved.is_empty() { &[] } else { &events },
        binding: usize::MAX,
    };
    Row::read(cgroups, &source)
}
