//! The hook of LXC: a view before the container's init is started.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::{Need, TIMEOUT, TestCgroup, comes_true, require};

use crate::{SCRIPT, dist, is_contained, is_unserved, output, program, root};

/// A container of this name whose process 1 runs [`SCRIPT`]. It shares the host's cgroup namespace, unless it's given one.
fn configure(folder: &Path, name: &str, hook: &str, has_namespace: bool) {
    let root = root(folder);
    let init = root.join("bin/init");
    testkit::write_program(&init, &format!("#!/bin/sh\nexec > /tmp/said 2>&1\n{SCRIPT}"));
    let kept = if has_namespace { "user net" } else { "user net cgroup" };
    let text = format!(
        "lxc.uts.name = {name}\nlxc.rootfs.path = dir:{root}\nlxc.mount.auto = proc:mixed sys:mixed\n\
         lxc.apparmor.profile = unconfined\nlxc.init.cmd = /bin/init\nlxc.namespace.keep = {kept}\n\
         lxc.cgroup.relative = 1\nlxc.cgroup.dir.monitor = {name}-monitor\nlxc.cgroup.dir.container = {name}\nlxc.cgroup.dir.monitor.pivot = {name}-pivot\n\
         {hook}\n",
        root = root.display()
    );
    fs::write(folder.join("config"), text).expect("a configuration");
}

/// The line that is shipped, with this checkout's hook.
fn shipped_line(options: &str) -> String {
    let text = fs::read_to_string(dist("lxc/80-vcgroupfs.conf")).expect("the configuration");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["lxc.hook.start-host = /usr/share/vcgroupfs/lxc/start-host"]);
    format!("lxc.hook.start-host = {} {options}", dist("lxc/start-host").display())
}

/// A cgroup to run LXC in: in the root it would hand controllers on to all of the host's cgroups.
fn place() -> TestCgroup {
    let selectors: Vec<String> = testkit::hierarchies().iter().map(testkit::Hierarchy::selector).collect();
    TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The exit status of LXC, and the output of the container.
fn start(folder: &Path, place: &TestCgroup, name: &str) -> (bool, String, String) {
    let mut command = Command::new("sh");
    let lists = place.hierarchies().iter().map(|one| one.mountpoint.join(place.name()).join("cgroup.procs"));
    command
        .args([
            "-c",
            "until [ \"$1\" = -- ]; do echo $$ > \"$1\" && shift || exit; done; shift; exec lxc-start \"$@\"",
            "sh",
        ])
        .args(lists)
        .args(["--", "--lxcpath"])
        .arg(folder)
        .args(["--name", name, "--foreground", "--rcfile"])
        .arg(folder.join("config"));
    let output = output(command.env("VCGROUPFS", program()), folder);
    let said = fs::read_to_string(folder.join("rootfs/tmp/said")).unwrap_or_default();
    (output.status.success(), said, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The cgroups of a container that are left. LXC always leaves the one to which its monitor migrates at the end; that one is removed here.
fn left(place: &TestCgroup, name: &str) -> Vec<String> {
    let mut left = Vec::new();
    for hierarchy in place.hierarchies() {
        let place = hierarchy.mountpoint.join(place.name());
        let pivot = place.join(format!("{name}-pivot"));
        // It has one more in it. Until its last process has ended.
        let remove = || {
            for inside in fs::read_dir(&pivot).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(inside.path());
            }
            fs::remove_dir(&pivot)
        };
        comes_true(TIMEOUT, || !pivot.exists() || remove().is_ok());
        let there = |suffix: &&&str| place.join(format!("{name}{suffix}")).exists();
        let suffixes = ["", "-monitor", "-pivot"];
        left.extend(suffixes.iter().filter(there).map(|suffix| format!("{}{suffix}", hierarchy.selector())));
    }
    left
}

#[test]
fn a_container_has_its_view_from_the_start() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("pids"),
        Need::Program("lxc-start"),
        Need::StaticProgram("busybox")
    );
    let (name, place, folder) = ("c1", place(), tempfile::tempdir().expect("a directory"));
    configure(folder.path(), name, &shipped_line("--policy delegate"), false);
    let (ended, said, complaint) = start(folder.path(), &place, name);
    assert!(ended, "{complaint}");
    is_contained(&said, "host-path", place.name());
    is_unserved(&format!("{}/{name}", place.name()));
    assert_eq!(left(&place, name), Vec::<String>::new());
}

#[test]
fn a_container_is_not_started_without_its_view() {
    require!(Need::Root, Need::Hierarchy("pids"), Need::Program("lxc-start"), Need::StaticProgram("busybox"));
    let (name, place, folder) = ("c1", place(), tempfile::tempdir().expect("a directory"));
    configure(folder.path(), name, &shipped_line("--cgroup /vcgroupfs-no-such-cgroup"), false);
    let (ended, said, complaint) = start(folder.path(), &place, name);
    assert_eq!((ended, said.as_str()), (false, ""), "{complaint}");
    assert_eq!(left(&place, name), Vec::<String>::new());
}

#[test]
fn a_container_with_a_cgroup_namespace_is_left_alone() {
    require!(Need::Root, Need::Hierarchy("pids"), Need::Program("lxc-start"), Need::StaticProgram("busybox"));
    let (name, place, folder) = ("c1", place(), tempfile::tempdir().expect("a directory"));
    configure(folder.path(), name, &shipped_line(""), true);
    let (_, said, complaint) = start(folder.path(), &place, name);
    assert!(said.starts_with("views 0\n"), "{said}{complaint}");
    assert_eq!(left(&place, name), Vec::<String>::new());
}

/// Without LXC the hook refuses wrong arguments, and says so.
#[test]
fn the_hook_refuses_callers_other_than_lxc() {
    for (pid, words, expected) in [
        (None, &["c1", "lxc", "start-host"][..], "LXC_PID isn't set"),
        (Some("1; true"), &["c1", "lxc", "start-host"], "is no number"),
        (Some("1"), &["c1"], "too few arguments"),
    ] {
        let mut command = Command::new(dist("lxc/start-host"));
        command.args(words).env("LXC_NAME", "c1").env_remove("LXC_PID");
        let said = command.envs(pid.map(|pid| ("LXC_PID", pid))).output().expect("the hook");
        let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.code() == Some(1) && complaint.contains(expected), "{complaint}");
        assert!(complaint.starts_with("vcgroupfs: lxc.hook.start-host: container c1: "), "{complaint}");
    }
}
