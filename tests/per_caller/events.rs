//! Events that a container gets of its own cgroups.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use testkit::probe::Outcome;
use testkit::probe::names::*;
use testkit::{Caller, Need, require};

use super::is_possible;
use super::scene::{Scene, place};

/// The kernel drops the names of a watched directory whenever another container comes by; the watch stays.
#[test]
fn a_watch_survives_lookups_by_other_containers() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let containers = [scene.container("a"), scene.container("b")];
    let own = scene.shown(place(), "a");
    let mut command = containers[0].command(Caller::Root);
    command.arg(containers[0].probe()).arg("--watch").arg(&own);
    let mut watcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a watcher");
    let mut output = BufReader::new(watcher.stdout.take().expect("its output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let mut first = scene.session(&containers[0], place(), "a", "b");
    let mut second = scene.session(&containers[1], place(), "b", "a");
    for number in 0..20 {
        second.expect(&readdir("$OWN"));
        first.expect(&mkdir(&format!("$OWN/w{number}")));
        second.expect(&stat("$OWN"));
        first.expect(&rmdir(&format!("$OWN/w{number}")));
    }
    drop(watcher.stdin.take());
    let mut seen = String::new();
    output.read_to_string(&mut seen).expect("events");
    watcher.wait().expect("the watcher's end");
    for what in ["IN_CREATE", "IN_DELETE"] {
        let count = seen.lines().filter(|line| line.contains(" w") && line.contains(what)).count();
        assert_eq!(count, 20, "{what}: {seen}");
    }
}

/// Each caller that waits for a file is woken, by its own file's events only.
#[test]
fn a_caller_that_polls_is_woken() {
    if !is_possible() {
        return;
    }
    require!(Need::Hierarchy("unified"));
    let scene = Scene::new();
    let containers = [scene.container("a"), scene.container("b")];
    let mut sessions = [("a", "b"), ("b", "a")].map(|(own, other)| {
        let number = usize::from(own == "b");
        scene.session(&containers[number], "unified", own, other)
    });
    for session in &mut sessions {
        session.expect(&mkdir("$OWN/job"));
        session.expect(&open("E", "$OWN/job/cgroup.events", &["O_RDONLY"]));
        session.expect(&read("E", 100));
    }
    let waits = [poll_pri("E", 20_000)];
    let briefly = [poll_pri("E", 300)];
    sessions[0].begin(&waits);
    sessions[1].begin(&briefly);
    for session in &sessions {
        testkit::wait_in_kernel(session.pid(), &["poll"]);
    }
    let procs = scene.real("unified", "a/job/cgroup.procs");
    fs::write(&procs, containers[0].init().to_string()).expect("a migration by the host");
    let told = |outcomes: &[Outcome]| format!("{outcomes:?}").contains("PRI");
    assert!(told(&sessions[0].finish(&waits)), "it isn't woken");
    assert!(!told(&sessions[1].finish(&briefly)), "it's woken by another's event");
}
