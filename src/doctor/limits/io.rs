//! Throughput of block devices: `io.max` of v2, `blkio.throttle.*` of v1.

use std::collections::BTreeSet;

use super::amount::{Amount, Parsed, Unit};
use super::cgroup::{Cgroup, HostFiles, Version, cgroups};
use super::row::{NO_CGROUP, Resource, Row, Source};
use crate::cgroup::Membership;

/// What is limited of a device.
struct Operation {
    /// In the row's name.
    name: &'static str,
    /// The key in `io.max`.
    key: &'static str,
    /// The file of v1.
    file: &'static str,
    unit: Unit,
}

const OPERATIONS: [Operation; 4] = [
    Operation { name: "read", key: "rbps", file: "blkio.throttle.read_bps_device", unit: Unit::BytesPerSecond },
    Operation { name: "write", key: "wbps", file: "blkio.throttle.write_bps_device", unit: Unit::BytesPerSecond },
    Operation { name: "reads", key: "riops", file: "blkio.throttle.read_iops_device", unit: Unit::OperationsPerSecond },
    Operation {
        name: "writes",
        key: "wiops",
        file: "blkio.throttle.write_iops_device",
        unit: Unit::OperationsPerSecond,
    },
];

/// A row for each device and operation that some cgroup limits, or else a single one without a limit.
pub(crate) fn io(host: &dyn HostFiles, memberships: &[Membership]) -> Vec<Row> {
    let Some((version, cgroups)) = cgroups(host, memberships, "blkio") else {
        return vec![Row::unknown(Resource::Io, Unit::BytesPerSecond, NO_CGROUP)];
    };
    let mut rows: Vec<Row> = Vec::new();
    for operation in &OPERATIONS {
        let file = if version == Version::V1 { operation.file } else { "io.max" };
        let devices: BTreeSet<String> =
            cgroups.iter().flat_map(|cgroup| devices_in(cgroup.content(file).text().unwrap_or_default())).collect();
        let devices = devices.into_iter().map(|device| read(&cgroups, version, operation, file, &device));
        rows.extend(devices.filter(|row| row.levels.iter().any(|level| level.limit.is_some())));
    }
    if rows.is_empty() {
        rows.extend(OPERATIONS.first().map(|operation| {
            let file = if version == Version::V1 { operation.file } else { "io.max" };
            Row { part: None, ..read(&cgroups, version, operation, file, "") }
        }));
    }
    rows.sort_by(|row, other| row.part.cmp(&other.part));
    rows
}

fn read(cgroups: &[Cgroup<'_>], version: Version, operation: &Operation, file: &str, device: &str) -> Row {
    let parse = |_: &Cgroup<'_>, text: &str| match version {
        Version::V1 => rate_of_v1(text, device),
        Version::V2 => rate(text, device, operation.key),
    };
    let source = Source {
        resource: Resource::Io,
        part: Some(format!("{device} {}", operation.name)),
        unit: operation.unit,
        file,
        parse: &parse,
        used: None,
        events: &[],
        // v1 hangs the queues of all cgroups below the device, and not below each other (blk-throttle.c,
        // throtl_pd_init).
        binding: if version == Version::V1 { 1 } else { usize::MAX },
    };
    Row::read(cgroups, &source)
}

/// The devices at the beginning of the lines.
fn devices_in(text: &str) -> Vec<String> {
    let is_device = |word: &&str| {
        let is_number = |text: &str| text.parse::<u32>().is_ok();
        word.split_once(':').is_some_and(|(major, minor)| is_number(major) && is_number(minor))
    };
    text.lines().filter_map(|line| line.split_ascii_whitespace().next()).filter(is_device).map(str::to_owned).collect()
}

/// A value of `io.max`, with lines as `8:16 rbps=2097152 wbps=max riops=max wiops=120`.
fn rate(text: &str, device: &str, key: &str) -> Parsed {
    let Some(words) = line_of(text, device) else { return Some(None) };
    let word = words.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    if word == "max" { Some(None) } else { Some(Some(Amount::Number(word.parse().ok()?))) }
}

/// A file of v1, with lines as `8:16 2097152`.
fn rate_of_v1(text: &str, device: &str) -> Parsed {
    let Some(rest) = line_of(text, device) else { return Some(None) };
    Some(Some(Amount::Number(rest.trim().parse().ok()?)))
}

/// The rest of the line of a device.
fn line_of<'a>(text: &'a str, device: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(device)?.strip_prefix(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_devices() {
        let text = "8:1 rbps=1 wbps=max riops=max wiops=2\n8:16 rbps=max wbps=3 riops=max wiops=max\nnonsense\n";
        assert_eq!(devices_in(text), ["8:1", "8:16"]);
        let number = |number| Some(Some(Amount::Number(number)));
        assert_eq!(
            (rate(text, "8:1", "rbps"), rate(text, "8:1", "wbps"), rate(text, "8:1", "wiops")),
            (number(1), Some(None), number(2))
        );
        assert_eq!(
            (rate(text, "8:16", "wbps"), rate(text, "8:2", "wbps"), rate("8:2 x", "8:2", "wbps")),
            (number(3), Some(None), None)
        );
        assert_eq!(rate_of_v1("8:16 5\n8:1 6\n", "8:1"), number(6));
        assert_eq!((rate_of_v1("", "8:1"), rate_of_v1("8:1 x\n", "8:1")), (Some(None), None));
    }
}
