//! Containers that use the same names at once and guess each other's paths: none is ever shown, or gets in touch with, what another one has.

use std::process::{Child, Command, Stdio};

use testkit::{Caller, Container, TIMEOUT, ViewOptions, run_to_end};

use super::is_possible;
use super::scene::{Scene, hierarchies, place};

/// How long the rivals race, in seconds.
const RACE_SECONDS: u64 = 4;

fn rival(scene: &Scene, container: &Container, selector: &str, (own, other): (&str, &str), name: &str) -> Child {
    let mut command = container.command(Caller::Root);
    command.arg(container.probe()).arg("--rival");
    command.arg(scene.shown(selector, own)).arg(scene.shown(selector, other)).arg(name).arg(RACE_SECONDS.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("can't start {command:?}: {error}"))
}

fn race(options: ViewOptions) {
    let scene = Scene::with(options);
    let containers = [scene.container("a"), scene.container("b")];
    let sides = [(&containers[0], ("a", "b")), (&containers[1], ("b", "a"))];
    let mut running = Vec::new();
    for &selector in hierarchies() {
        for (container, paths) in sides {
            running.push((selector, paths.0, rival(&scene, container, selector, paths, "job")));
        }
    }
    // Somebody who walks through it all has the kernel look up everything for the host's callers as well.
    let walked = run_to_end(Command::new("ls").arg("-lR").arg(scene.view.dir()), TIMEOUT);
    assert!(walked.status.success(), "{}", String::from_utf8_lossy(&walked.stderr));
    for (selector, own, rival) in running {
        let output = rival.wait_with_output().expect("a rival's end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{selector} {own}: {said}");
        let rounds: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of rounds");
        assert!(rounds > 0, "{selector} {own}");
    }
}

#[test]
fn rivals_use_the_same_names_at_the_same_time() {
    if is_possible() {
        race(ViewOptions::new());
    }
}

#[test]
fn rivals_use_the_same_names_without_passthrough() {
    if is_possible() {
        race(ViewOptions::new().flag("--no-passthrough"));
    }
}

#[test]
fn rivals_use_the_same_names_on_an_old_kernel() {
    if is_possible() && testkit::missing(&[testkit::Need::LegacySyscalls]).is_none() {
        race(ViewOptions::new().legacy(true));
    }
}

/// The host has bound a part of the mount somewhere. There, all callers come with the host's numbers.
#[test]
fn rivals_use_the_same_names_below_a_bound_directory() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let place = |selector: &&str| {
        let found = testkit::hierarchy(selector).expect("a hierarchy of the scene");
        (scene.view.hierarchy(&found), scene.shown(selector, ""))
    };
    let places: Vec<_> = hierarchies().iter().map(place).collect();
    let folder = tempfile::Builder::new().prefix("vcgroupfs-bound-").tempdir().expect("a temporary directory");
    // One bind for both, by the host, which is copied into their mount namespaces.
    let bound: Vec<Bound> = places
        .iter()
        .enumerate()
        .map(|(number, (source, _))| Bound::new(source, folder.path().join(number.to_string())))
        .collect();
    let containers = [scene.container("a"), scene.container("b")];
    let mut running = Vec::new();
    for (bound, (_, shown)) in bound.iter().zip(&places) {
        let name = shown.file_name().expect("the scene's cgroup");
        for (container, own, other) in [(&containers[0], "a", "b"), (&containers[1], "b", "a")] {
            let mut command = container.command(Caller::Root);
            command.arg(container.probe()).arg("--rival");
            command.args([own, other].map(|below| bound.0.join(name).join(below)));
            command.arg("job").arg(RACE_SECONDS.to_string()).stdin(Stdio::null()).stderr(Stdio::piped());
            running.push((own, command.stdout(Stdio::piped()).spawn().expect("a rival")));
        }
    }
    for (own, rival) in running {
        let output = rival.wait_with_output().expect("a rival's end");
        assert!(output.status.success(), "{own}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A bind mount, as long as it's there.
struct Bound(std::path::PathBuf);

impl Bound {
    fn new(source: &std::path::Path, target: std::path::PathBuf) -> Self {
        std::fs::create_dir(&target).expect("a mount point");
        let bound = run_to_end(Command::new("mount").arg("--bind").arg(source).arg(&target), TIMEOUT);
        assert!(bound.status.success(), "{}", String::from_utf8_lossy(&bound.stderr));
        Self(target)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // The containers have copies, which end with them.
        let _ = run_to_end(Command::new("umount").arg("-l").arg(&self.0), TIMEOUT);
    }
}

/// No container learns by inotify what others have or do.
#[test]
fn a_container_gets_no_events_of_others() {
    use std::io::{BufRead, BufReader, Read};
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let containers = [scene.container("a"), scene.container("b")];
    let mut command = containers[1].command(Caller::Root);
    let above = scene.shown(place(), "");
    let folders = [above.clone(), above.parent().expect("the hierarchy").into(), "/sys/fs/cgroup".into()];
    command.arg(containers[1].probe()).arg("--watch").args(&folders);
    let mut watcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a watcher");
    let mut output = BufReader::new(watcher.stdout.take().expect("its output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let mut rival = rival(&scene, &containers[0], place(), ("a", "b"), "job");
    let mut own = scene.session(&containers[1], place(), "b", "a");
    own.expect(&testkit::probe::names::readdir("$OWN"));
    assert!(rival.wait().expect("a rival's end").success());
    drop(watcher.stdin.take());
    let mut seen = String::new();
    output.read_to_string(&mut seen).expect("events");
    watcher.wait().expect("the watcher's end");
    assert!(seen.contains(" b "), "it hasn't even seen its own: {seen}");
    let others: Vec<&str> = seen.lines().filter(|line| line.split(' ').nth(1) == Some("a")).collect();
    assert!(others.is_empty(), "{others:?}");
}
