//! Limits that the host has set hold for what the container makes below them.

use std::path::Path;

use testkit::probe::names::*;
use testkit::{Caller, Container, ContainerOptions, Need, TestCgroup, View, ViewOptions, hierarchy, require};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vcgroupfs");

/// The lists of devices are the host's to write at the boundary, and everywhere unless `devices` is delegated.
#[test]
fn device_lists_are_writable_only_below_the_boundary_and_only_delegated() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("devices"));
    for (policy, delegated, below) in
        [("delegate", &["devices"][..], "ok"), ("delegate", &[], "EACCES"), ("strict", &[], "EACCES")]
    {
        let cgroup = TestCgroup::new(&["devices"]);
        let home = cgroup.child("devices", "home");
        let options = ViewOptions::new().cgroup(&cgroup).shape("rooted").policy(policy);
        let view = View::mount(Path::new(PROGRAM), &options.delegate_controllers(delegated));
        let container = Container::start(ContainerOptions { cgroups: vec![home], ..ContainerOptions::default() });
        let mut session = container.session(Caller::Root);
        session.set("CG", view.hierarchy(&hierarchy("devices").expect("a required hierarchy")).display());
        for list in ["devices.allow", "devices.deny"] {
            let name = format!("{policy} {delegated:?} {list}");
            let boundary = session.run(&write_file(&format!("$CG/{list}"), "c 240:4 r"));
            assert_eq!(boundary.brief(), "EACCES", "{name} at the boundary");
            let inside = session.run(&write_file(&format!("$CG/home/{list}"), "c 240:4 r"));
            assert_eq!(inside.brief(), below, "{name} below it");
            // What mode bits say.
            let bits = |path: &str| {
                let found = std::fs::metadata(view.hierarchy(&hierarchy("devices").expect("devices")).join(path));
                std::os::unix::fs::PermissionsExt::mode(&found.expect("a file").permissions()) & 0o222
            };
            assert_eq!(bits(list), 0, "{name} at the boundary");
            assert_eq!(bits(&format!("home/{list}")), if below == "ok" { 0o200 } else { 0 }, "{name} below it");
        }
        drop((session, container, view));
    }
}
