//! Orders and reports of `attach` and `detach`: any bytes are a message or malformed, and no order leads out of where a view belongs.
#![no_main]

use std::ffi::CStr;

use libfuzzer_sys::fuzz_target;
use mount_helper::attach::MountTask;
use mount_helper::attach::layout::{Layout, SentinelSource, Underlay};
use mount_helper::attach::message::{MountRequest, Report};

/// One component that is neither `.` nor `..`.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/') && !matches!(name, b"." | b"..")
}

fn is_below(path: &CStr) -> bool {
    let path = path.to_bytes();
    !path.starts_with(b"/") && path.split(|byte| *byte == b'/').all(|name| name != b"..")
}

fn check(layout: &Layout) {
    match layout {
        Layout::Stack(spec) => {
            for hierarchy in &spec.hierarchies {
                assert!(is_name(hierarchy.directory.to_bytes()));
                match &hierarchy.underlay {
                    Underlay::Bind { point, .. } => panic!("bound from {}", point.display()),
                    Underlay::Mount { options, below } => {
                        assert!(is_below(below));
                        let mut words = options.to_bytes().split(|byte| *byte == b',');
                        assert!(words.all(|word| !word.contains(&b'=') || word.starts_with(b"name=")));
                    }
                    Underlay::None => {}
                }
            }
            let mut names = spec.links.iter().flat_map(|(name, target)| [name, target]);
            assert!(names.all(|name| is_name(name.to_bytes())));
        }
        Layout::Sentinel(sentinel) => {
            assert_eq!(sentinel.underlay, SentinelSource::Namespace);
            assert!(sentinel.own.to_bytes().split(|byte| *byte == b'/').all(is_name));
            assert!(sentinel.files.iter().all(|file| is_name(file.to_bytes())));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(order) = MountRequest::decode(data) {
        assert_eq!(MountRequest::decode(&order.encode()), Ok(order.clone()));
        if let MountRequest::Build(layout) = &order {
            check(layout);
        }
    }
    if let Ok(report) = Report::decode(data) {
        assert_eq!(report.encode(), *data);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(task) = MountTask::from_words(text.split('\0'))
    {
        assert_eq!(MountTask::from_words(task.words().iter().map(String::as_str)), Some(task));
    }
});
