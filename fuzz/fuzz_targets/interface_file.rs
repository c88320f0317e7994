//! Names of interface files and lists of controllers: what faces the host has one name each, and a controller's file is that of a
//! controller that the hierarchy has.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use vcgroupfs::cgroup::{ControllerSet, FileClass, HierarchyKind};

fuzz_target!(|data: (&str, &[u8])| {
    let (list, name) = data;
    let set = ControllerSet::parse(list);
    assert_eq!(ControllerSet::parse(&set.to_string()), set);
    for controller in set.iter() {
        assert!(set.contains(controller) && !controller.is_empty() && !controller.contains(','));
    }
    let name = OsStr::from_bytes(name);
    for kind in [HierarchyKind::Unified, HierarchyKind::v1(list), HierarchyKind::v1("name=systemd"), HierarchyKind::v1("cpu,cpuacct")] {
        let class = FileClass::of(&kind, name);
        let is = |wanted: &[&str]| wanted.iter().any(|wanted| name == *wanted);
        let is_v1 = kind != HierarchyKind::Unified;
        assert_eq!(class == FileClass::ReleaseAgent, is_v1 && is(&["release_agent"]));
        assert_eq!(class == FileClass::EventControl, is_v1 && is(&["cgroup.event_control"]));
        match class {
            FileClass::Membership(_) => assert!(is(&["cgroup.procs", "cgroup.threads", "tasks"])),
            FileClass::Core => assert!(name.as_bytes().starts_with(b"cgroup.")),
            FileClass::Controller(controller) => {
                assert!(name.as_bytes().starts_with(format!("{controller}.").as_bytes()));
                assert!(kind.controllers().is_none_or(|set| set.contains(&controller)));
            }
            _ => {}
        }
    }
});
