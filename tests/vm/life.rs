//! A view comes and goes, and leaves nothing.

use std::fs;
use std::path::Path;

use serde_json::Value;
use testkit::hierarchies;

use crate::in_a_machine;
use crate::scene::{Scene, names, note, soon, told, vcgroupfs};

/// What a server may keep in memory, in KiB, after a walk of many cgroups.
const MEMORY: u64 = 16 * 1024;

/// How many cgroups.
const MANY: usize = 200;

fn is_mounted(dir: &str) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    text.lines().any(|line| line.split(' ').nth(4) == Some(dir))
}

fn live() -> Vec<Value> {
    let text = told(["list", "--json"]);
    serde_json::from_str::<Value>(&text).expect("JSON").as_array().expect("an array").clone()
}

fn mount(scene: &Scene, dir: &str) {
    fs::create_dir_all(dir).expect("a mount point");
    let mut arguments = vec!["mount".to_owned()];
    arguments.extend(scene.options("host-path", "strict"));
    arguments.push(dir.into());
    told(arguments);
}

#[test]
fn umount_leaves_nothing() {
    in_a_machine!();
    let scene = Scene::new();
    let dir = "/tmp/vm-view";
    mount(&scene, dir);
    // `mount` returns when the view is live.
    assert!(is_mounted(dir) && !names(Path::new(dir)).is_empty());
    let views = live();
    assert_eq!(views.len(), 1, "{views:?}");
    assert_eq!(views[0]["directory"], dir);
    let server = views[0]["pid"].as_u64().expect("a process");
    told(["umount", dir]);
    assert!(!is_mounted(dir));
    assert!(soon(|| !Path::new(&format!("/proc/{server}")).exists()), "the server runs on");
    assert_eq!(live(), Vec::<Value>::new());
    // Locks stay.
    let left = names(Path::new("/run/vcgroupfs")).into_iter().filter(|name| !name.ends_with(".lock"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(vcgroupfs(["umount", dir]).status.code(), Some(1));
    fs::remove_dir(dir).expect("an empty directory");
}

#[test]
fn a_server_that_is_told_to_end_unmounts() {
    in_a_machine!();
    let scene = Scene::new();
    let dir = "/tmp/vm-ended";
    mount(&scene, dir);
    let server = live()[0]["pid"].as_i64().expect("a process");
    let server = nix::unistd::Pid::from_raw(i32::try_from(server).expect("a number of a process"));
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGTERM).expect("kill");
    assert!(soon(|| !is_mounted(dir) && live().is_empty()));
    fs::remove_dir(dir).expect("an empty directory");
}

#[test]
fn a_server_stays_small() {
    in_a_machine!();
    let scene = Scene::new();
    let hierarchy = hierarchies().pop().expect("a hierarchy");
    for number in 0..MANY {
        fs::create_dir(scene.real(&hierarchy, "below").join(format!("c{number}"))).expect("mkdir");
    }
    let dir = "/tmp/vm-small";
    mount(&scene, dir);
    let server = live()[0]["pid"].as_u64().expect("a process");
    let resident = || testkit::resident_kib(u32::try_from(server).expect("a process id"));
    let before = resident();
    let mut seen = 0;
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).expect("a directory").flatten() {
            seen += 1;
            if entry.metadata().expect("stat").is_dir() {
                waiting.push(entry.path().display().to_string());
            }
        }
    }
    let after = resident();
    note(&format!("a server has {before} kB at the start, {after} kB after a walk of {seen} nodes"));
    told(["umount", dir]);
    assert!(seen > MANY && after < MEMORY, "{after} kB after {seen} nodes");
}
