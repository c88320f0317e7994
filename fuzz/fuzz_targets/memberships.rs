//! Any text of `/proc/PID/cgroup`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vcgroupfs::cgroup::{HierarchyKind, parse_memberships};

fuzz_target!(|data: &[u8]| {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let memberships = parse_memberships(data);
    assert!(memberships.len() <= lines.len());
    for membership in memberships {
        assert_eq!(membership.kind == HierarchyKind::Unified, {
            let id = membership.id;
            id == 0 && membership.kind.controllers().is_none()
        });
        if let Some(path) = membership.location.path() {
            // What climbs out is never taken for a place.
            assert!(path.components().iter().all(|name| name != "." && name != ".." && !name.is_empty()));
            let climbs = |line: &&[u8]| {
                let path = line.splitn(3, |byte| *byte == b':').nth(2).unwrap_or_default();
                path == b"/.." || path.starts_with(b"/../")
            };
            assert!(!lines.iter().all(climbs));
        }
    }
});
