//! Hierarchies without a delegated subtree, and files that are never delegated.

use std::path::Path;

use testkit::probe::names::*;
use testkit::{Need, View, ViewOptions};

use crate::scene::{BOUNDARY, EVERYBODY, Mode, Scene, hierarchies};

/// Hierarchies in which no scene has a cgroup.
const UNDELEGATED: [&str; 3] = ["freezer", "cpuset", "blkio"];

/// Files that face the host, with the hierarchy that has them. Those of `devices` are delegated below the boundary.
const HOSTS: [(&str, &str); 3] =
    [("devices", "devices.allow"), ("devices", "devices.deny"), ("memory", "cgroup.event_control")];

/// Everything that can be changed, or isn't shown, and should be otherwise.
pub(crate) fn breaches(mode: Mode) -> Vec<String> {
    let mut found = Vec::new();
    for who in EVERYBODY {
        let scene = Scene::with(who, |cgroup| Some(mount_with_everything_delegated(mode, cgroup)));
        let view = scene.view();
        let mut session = scene.session();
        let mut check = |what: String, right: bool| {
            if !right {
                found.push(format!("{mode:?} {who:?}: {what}"));
            }
        };
        for selector in UNDELEGATED {
            let Some(hierarchy) = testkit::hierarchy(selector) else {
                continue;
            };
            session.set("ROOT", view.hierarchy(&hierarchy).display());
            session.set("BARE", hierarchy.mountpoint.display());
            check(format!("{selector} can't be read"), session.run(&read_file("$ROOT/cgroup.procs")).is_ok());
            for op in [
                open("f", "$ROOT/cgroup.procs", &["O_WRONLY"]),
                write_file("$ROOT/tasks", "0"),
                mkdir("$ROOT/vcgroupfs-made"),
            ] {
                let outcome = session.run(&op);
                check(format!("{selector} {op:?}: {outcome:?}"), outcome.errno() == Some("EACCES"));
            }
            // The breach isn't left behind.
            if hierarchy.mountpoint.join("vcgroupfs-made").exists() {
                std::fs::remove_dir(hierarchy.mountpoint.join("vcgroupfs-made")).expect("rmdir of a test cgroup");
            }
            if mode.shape != "full" {
                let seen = session.expect(&readdir("$ROOT")).to_string();
                check(
                    format!("{selector} has children: {seen}"),
                    !seen.contains(" directory") && seen.contains("cgroup.procs file"),
                );
            }
        }
        // With memory delegated, events can be registered where the writer's descriptors can be fetched.
        let has_events = mode.is_delegate() && !mode.legacy && Need::FetchedDescriptors.is_met();
        let there = HOSTS.into_iter().filter(|(selector, _)| hierarchies().contains(selector));
        for (selector, file) in there.filter(|(_, file)| *file != "cgroup.event_control" || !has_events) {
            for below in ["", "below/"] {
                if mode.is_delegate() && selector == "devices" && !below.is_empty() {
                    continue;
                }
                let boundary = mode.paths(view, &scene.cgroup, selector).boundary;
                session.set("X", boundary.join(below).join(file).display());
                session.set("BARE", scene.bare(selector).boundary.join(below).join(file).display());
                let outcome = session.run(&open("f", "$X", &["O_WRONLY"]));
                check(format!("{selector} {below}{file}: {outcome:?}"), outcome.errno() == Some("EACCES"));
                if who.overrides_inside() {
                    let native = session.run(&open("f", "$BARE", &["O_WRONLY"]));
                    check(format!("{selector} {below}{file} is denied natively: {native:?}"), native.is_ok());
                }
            }
        }
    }
    found
}

fn mount_with_everything_delegated(mode: Mode, cgroup: &testkit::TestCgroup) -> View {
    let mut options = ViewOptions::new().shape(mode.shape).policy(mode.policy).legacy(mode.legacy);
    if mode.is_delegate() {
        let controllers = ["pids", "memory", "devices"].into_iter().filter(|name| hierarchies().contains(name));
        options = options.delegate_controllers(&controllers.collect::<Vec<_>>());
    }
    for &selector in hierarchies() {
        options = options.option("--cgroup", &format!("{selector}={}/{BOUNDARY}", cgroup.path()));
    }
    View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options)
}
