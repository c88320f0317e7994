//! Any text of `/proc/PID/mountinfo`; what is read comes back when it's written the kernel's way.
#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use vcgroupfs::cgroup::{mountinfo, parse_mountinfo};

/// As `mangle()` of the kernel escapes a field.
fn escape(field: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in field {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => escaped.extend(format!("\\{byte:03o}").bytes()),
            other => escaped.push(*other),
        }
    }
    escaped
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(mountinfo::unescape(&escape(data)).as_bytes(), data);
    let entries = parse_mountinfo(data);
    assert!(entries.len() <= data.split(|byte| *byte == b'\n').count());
    for entry in entries {
        let kind = entry.hierarchy();
        assert_eq!(kind.is_some(), matches!(entry.fstype.as_str(), "cgroup" | "cgroup2"));
        let (major, minor) = entry.device;
        let mut line = format!("{} {} {major}:{minor} ", entry.id, entry.parent).into_bytes();
        line.extend(escape(entry.root.as_bytes()));
        line.push(b' ');
        line.extend(escape(entry.mount_point.as_bytes()));
        line.extend(format!(" {} - ", entry.options).bytes());
        line.extend(escape(entry.fstype.as_bytes()));
        line.push(b' ');
        line.extend(escape(entry.source.as_bytes()));
        line.extend(format!(" {}", entry.super_options).bytes());
        assert_eq!(parse_mountinfo(&line), [entry]);
    }
});
