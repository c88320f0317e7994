//! The mount for all containers, by the commands of the unit, bound into a container.

use std::fs;
use std::process::{Command, Stdio};

use testkit::{
    Caller, Container, ContainerOptions, Need, TIMEOUT, TestCgroup, kill_view, require, run_to_end, wait_until,
};

use crate::{dist, program};

/// A command of the unit, for another program and directory.
fn command(key: &str, directory: &str) -> Command {
    let unit = fs::read_to_string(dist("systemd/vcgroupfs.service")).expect("the unit");
    let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    let line = line.replace("/usr/bin/vcgroupfs", program()).replace("/var/lib/vcgroupfs/cgroup", directory);
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).stdin(Stdio::null());
    command
}

/// A path that needs quotes in a shell.
fn quoted(key: &str, directory: &str) -> Command {
    let unit = fs::read_to_string(dist("systemd/vcgroupfs.service")).expect("the unit");
    let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    let line = line.trim_start_matches('-').replace("/var/lib/vcgroupfs/cgroup", directory);
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    command
}

/// A container has the mount bound meanwhile, and remains of the last server are there.
#[test]
fn the_unit_starts_again_after_a_crash() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let folder = tempfile::tempdir().expect("a directory");
    let text = folder.path().join("cgroup").display().to_string();
    let cgroup = TestCgroup::new(&["name=systemd"]);
    let mut containers = Vec::new();
    for stops in [true, false, true] {
        let made = run_to_end(&mut quoted("ExecStartPre=", &text), TIMEOUT);
        assert!(made.status.success(), "{made:?}");
        let mut server = command("ExecStart=", &text).spawn().expect("the server");
        wait_until("it's mounted", || {
            assert!(server.try_wait().expect("its state").is_none(), "it has ended");
            fs::read_dir(&text).map_or(0, Iterator::count) > 0
        });
        let cgroups = vec![cgroup.dir("name=systemd")];
        let prepare = format!("mount --bind {text} /sys/fs/cgroup");
        containers.push(Container::start(ContainerOptions { cgroups, prepare, ..ContainerOptions::default() }));
        kill_view(program(), server.id());
        server.wait().expect("its end");
        // Or systemd itself was killed.
        if stops {
            let stopped = run_to_end(&mut quoted("ExecStopPost=", &text), TIMEOUT);
            assert!(stopped.status.success() && !folder.path().join("cgroup").exists(), "{stopped:?}");
        }
    }
}

#[test]
fn the_units_mount_is_bound_into_a_container() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let folder = tempfile::tempdir().expect("a directory");
    let directory = folder.path().join("cgroup");
    fs::create_dir(&directory).expect("a directory");
    let text = directory.display().to_string();
    let mut server = command("ExecStart=", &text).spawn().expect("the server");
    let is_mounted = || fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").contains(&format!(" {text} "));
    wait_until("it's mounted", || {
        assert!(server.try_wait().expect("its state").is_none(), "it has ended");
        is_mounted()
    });
    let cgroup = TestCgroup::new(&["name=systemd"]);
    cgroup.child("name=systemd", "sibling");
    let cgroups = cgroup.children("home");
    let prepare = format!("mount --bind {text} /sys/fs/cgroup");
    let container = Container::start(ContainerOptions { cgroups, prepare, ..ContainerOptions::default() });
    let own = format!("/sys/fs/cgroup/systemd{}", cgroup.path());
    let script =
        format!("ls -d {own}/*/ && mkdir {own}/home/x && rmdir {own}/home/x && ! ls {own}/sibling 2>/dev/null");
    let said = run_to_end(container.command(Caller::Root).args(["sh", "-c", &script]), TIMEOUT);
    drop(container);
    let stopped = run_to_end(&mut command("ExecStop=", &text), TIMEOUT);
    let ended = server.wait().expect("its end");
    assert!(said.status.success(), "{said:?}");
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{own}/home/\n"));
    assert!(stopped.status.success() && ended.success() && !is_mounted(), "{stopped:?} {ended}");
}
