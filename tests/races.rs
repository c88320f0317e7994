//! Many processes at once, and cgroups that change while somebody looks: each test is made of the bare kernel first.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{
    Caller, Container, ContainerOptions, Need, Session, TIMEOUT, TestCgroup, View, ViewOptions, comes_true, hierarchy,
    require, run_to_end,
};

/// How many processes are stopped and killed.
const MANY: usize = 2000;

/// How long things change while others look.
const CHANGES_DURATION: Duration = Duration::from_secs(3);

/// A container that lives in the `home` of a cgroup. The fields are dropped in their order.
struct Scene {
    container: Container,
    _view: Option<View>,
    /// The cgroup's directory in the container.
    path: PathBuf,
    /// The cgroup's directory on the host.
    backing: PathBuf,
    _cgroup: TestCgroup,
}

impl Scene {
    fn new(selector: &'static str, seen_through: Through) -> Self {
        let cgroup = TestCgroup::new(&[selector]);
        let homes = cgroup.children("home");
        let backing = cgroup.dir(selector);
        let view = (seen_through != Through::Kernel).then(|| {
            let options = ViewOptions::new()
                .cgroup(&cgroup)
                .shape("rooted")
                .policy("delegate")
                .delegate_controllers(if selector == "freezer" { &["freezer"] } else { &[] })
                .legacy(seen_through == Through::OldView);
            View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options)
        });
        let found = hierarchy(selector).expect("the hierarchy that was required");
        let path = view.as_ref().map_or(backing.clone(), |view| view.hierarchy(&found));
        let container = Container::start(ContainerOptions { cgroups: homes, ..ContainerOptions::default() });
        Self { container, _view: view, path, backing, _cgroup: cgroup }
    }

    fn session(&self) -> Session {
        let mut session = self.container.session(Caller::Root);
        session.set("CG", self.path.display());
        session
    }
}

/// How the container sees its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    Kernel,
    View,
    OldView,
}

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(TIMEOUT * 2, condition), "{what} doesn't come");
}

/// Many processes in a cgroup that was made through the view; those who sleep are children of the second session.
fn crowd(scene: &Scene) -> (Session, Session) {
    let mut outside = scene.session();
    outside.expect(&mkdir("$CG/many"));
    let mut inside = scene.container.session_in(Caller::Root, &[scene.backing.join("many")]);
    inside.expect(&Op::SpawnMany { count: MANY });
    let list = outside.expect(&read_file("$CG/many/cgroup.procs"));
    // v2 has a 0 for who started the second session, from outside the container.
    let numbers: BTreeSet<&str> = list.as_str().unwrap_or_default().lines().filter(|line| *line != "0").collect();
    assert_eq!(numbers.len(), MANY + 1, "the crowd and its parent, in the container's numbers");
    (outside, inside)
}

fn content(session: &mut Session, path: &str) -> String {
    session.expect(&read_file(path)).as_str().unwrap_or_default().to_string()
}

/// `cgroup.freeze` and `cgroup.kill`.
fn stops_and_kills_many(through: Through) {
    let scene = Scene::new("unified", through);
    let (mut outside, inside) = crowd(&scene);
    let events = "$CG/many/cgroup.events";
    assert_eq!(content(&mut outside, events), "populated 1\nfrozen 0\n");
    outside.expect(&write_file("$CG/many/cgroup.freeze", "1"));
    wait_until("a frozen crowd", || content(&mut outside, events).contains("frozen 1"));
    outside.expect(&write_file("$CG/many/cgroup.freeze", "0"));
    wait_until("a crowd that runs", || content(&mut outside, events).contains("frozen 0"));
    outside.expect(&write_file("$CG/many/cgroup.freeze", "1"));
    assert_eq!(outside.run(&rmdir("$CG/many")).errno(), Some("EBUSY"));
    // Those who are frozen are killed as well.
    outside.expect(&write_file("$CG/many/cgroup.kill", "1"));
    wait_until("the end of the crowd", || content(&mut outside, events).contains("populated 0"));
    assert_eq!(content(&mut outside, "$CG/many/cgroup.procs"), "");
    outside.expect(&rmdir("$CG/many"));
    assert!(!scene.backing.join("many").exists());
    drop(inside);
}

#[test]
fn many_processes_are_stopped_and_killed() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    stops_and_kills_many(Through::Kernel);
    stops_and_kills_many(Through::View);
}

#[test]
fn many_processes_are_stopped_and_killed_on_an_old_kernel() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::LegacySyscalls);
    stops_and_kills_many(Through::OldView);
}

/// v1's freezer.
fn freezes_many(through: Through) {
    let scene = Scene::new("freezer", through);
    let (mut outside, inside) = crowd(&scene);
    for _ in 0..3 {
        outside.expect(&write_file("$CG/many/freezer.state", "FROZEN"));
        wait_until("a frozen crowd", || content(&mut outside, "$CG/many/freezer.state") == "FROZEN\n");
        outside.expect(&write_file("$CG/many/freezer.state", "THAWED"));
        assert_eq!(content(&mut outside, "$CG/many/freezer.state"), "THAWED\n");
    }
    drop(inside);
    wait_until("the end of the crowd", || outside.run(&rmdir("$CG/many")).is_ok());
}

#[test]
fn many_processes_are_frozen_by_v1() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("freezer"));
    freezes_many(Through::Kernel);
    freezes_many(Through::View);
}

/// Operations again and again, until `ends`; what they came to, each by its number.
fn again_and_again(mut session: Session, ops: &[Op], ends: &AtomicBool) -> Vec<BTreeSet<String>> {
    let mut seen = vec![BTreeSet::new(); ops.len()];
    while !ends.load(Ordering::Acquire) {
        session.begin(ops);
        for (outcome, seen) in session.finish(ops).iter().zip(&mut seen) {
            seen.insert(outcome.brief());
        }
    }
    seen
}

/// The outcomes of lookups of a cgroup while the container, or the host, renames it.
fn looks_at_what_is_renamed(through: Through, by_host: bool) -> Vec<BTreeSet<String>> {
    let scene = Scene::new("name=systemd", through);
    let mut renamer = scene.session();
    renamer.expect(&mkdir("$CG/a"));
    renamer.expect(&mkdir("$CG/a/below"));
    let looks = [
        stat("$CG/a"),
        read_file("$CG/b/cgroup.procs"),
        readdir("$CG/a"),
        readdir("$CG/b/below"),
        write_file("$CG/a/notify_on_release", "0"),
        mkdir("$CG/a/new"),
        rmdir("$CG/a/new"),
        rmdir("$CG/b/new"),
        chmod("$CG/b/below", 0o700),
        write_file("$CG/b/below/tasks", "x"),
        rename("$CG/a/below", "$CG/b/below2"),
    ];
    let ends = AtomicBool::new(false);
    let (one, two) = (scene.session(), scene.session());
    let seen = thread::scope(|scope| {
        let lookers = [one, two].map(|session| scope.spawn(|| again_and_again(session, &looks, &ends)));
        let end = Instant::now() + CHANGES_DURATION;
        let names = [("a", "b"), ("b", "a")];
        while Instant::now() < end {
            for (from, to) in names {
                if by_host {
                    fs::rename(scene.backing.join(from), scene.backing.join(to)).expect("a rename by the host");
                } else {
                    renamer.expect(&rename(&format!("$CG/{from}"), &format!("$CG/{to}")));
                }
            }
        }
        ends.store(true, Ordering::Release);
        let both = lookers.map(|looker| looker.join().expect("a looker"));
        both[0].iter().zip(&both[1]).map(|(one, two)| one | two).collect::<Vec<_>>()
    });
    for name in ["a", "a/new", "a/below"] {
        wait_until("the host's state", || {
            let seen = renamer.run(&stat(&format!("$CG/{name}"))).is_ok();
            seen == scene.backing.join(name).exists()
        });
    }
    seen
}

/// Neither an error that the kernel wouldn't give, nor only errors.
fn renames(by_host: bool) {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let kernel = looks_at_what_is_renamed(Through::Kernel, by_host);
    let view = looks_at_what_is_renamed(Through::View, by_host);
    // What a race comes to depends on its luck: these are the errors that each operation can meet.
    let possible: [&[&str]; 11] = [
        &["ok", "ENOENT"],
        &["ok", "ENOENT"],
        &["ok", "ENOENT"],
        &["ok", "ENOENT"],
        &["ok", "ENOENT"],
        &["ok", "ENOENT", "EEXIST"],
        &["ok", "ENOENT"],
        &["ok", "ENOENT"],
        &["ok", "ENOENT"],
        &["EINVAL", "ENOENT"],
        &["EIO", "ENOENT", "ok"],
    ];
    for (who, seen) in [("kernel", kernel), ("view", view)] {
        for (number, (seen, possible)) in seen.iter().zip(possible).enumerate() {
            let odd: Vec<_> = seen.iter().filter(|one| !possible.contains(&one.as_str())).collect();
            assert!(odd.is_empty(), "{who}: operation {number} came to {odd:?}");
        }
        assert!(seen[0].len() == 2 && seen[2].contains("ok"), "{who}: nothing raced: {seen:?}");
    }
}

#[test]
fn lookups_work_while_cgroups_are_renamed() {
    renames(false);
}

#[test]
fn lookups_work_while_the_host_renames_cgroups() {
    renames(true);
}

/// What `find -ls` comes to while cgroups come and go: in how many of its runs it failed, and what it complained of.
fn finds(through: Through, by_host: bool) -> (usize, usize, BTreeSet<String>) {
    let scene = Scene::new("unified", through);
    let mut session = scene.session();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let names = ["a", "a/b", "a/b/c", "d"];
            while !ends.load(Ordering::Acquire) {
                for name in names {
                    if by_host {
                        fs::create_dir(scene.backing.join(name)).expect("mkdir by the host");
                    } else {
                        session.expect(&mkdir(&format!("$CG/{name}")));
                    }
                }
                for name in names.iter().rev() {
                    if by_host {
                        fs::remove_dir(scene.backing.join(name)).expect("rmdir by the host");
                    } else {
                        session.expect(&rmdir(&format!("$CG/{name}")));
                    }
                }
            }
        });
        let (mut failed, mut complaints, mut runs) = (0, BTreeSet::new(), 0);
        let start = Instant::now();
        // On a busy machine there are few runs in that time, and any of them may fail.
        while start.elapsed() < CHANGES_DURATION || (failed == runs && start.elapsed() < TIMEOUT) {
            let mut command = scene.container.command(Caller::Root);
            command.env("LC_ALL", "C").arg("find").arg(&scene.path).args(["-ignore_readdir_race", "-ls"]);
            let output = run_to_end(&mut command, TIMEOUT);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), text.is_empty(), "{:?} {text}", output.status);
            failed += usize::from(!output.status.success());
            complaints.extend(text.lines().map(|line| line.rsplit(": ").next().unwrap_or(line).to_string()));
            let lines = String::from_utf8_lossy(&output.stdout).lines().count();
            assert!(lines > 20, "find printed {lines} lines");
            runs += 1;
        }
        ends.store(true, Ordering::Release);
        changer.join().expect("who changes things");
        (failed, runs, complaints)
    })
}

fn find_under_removal(by_host: bool) {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    for through in [Through::Kernel, Through::View] {
        let (failed, runs, complaints) = finds(through, by_host);
        // find doesn't take every directory that vanishes for the race that it was told to ignore.
        let odd: Vec<_> = complaints.iter().filter(|one| *one != "No such file or directory").collect();
        assert!(odd.is_empty(), "{through:?}: in {failed} of {runs} runs: {odd:?}");
        assert!(failed < runs, "{through:?}: all of {runs} runs failed");
    }
}

#[test]
fn find_works_while_cgroups_are_removed() {
    find_under_removal(false);
}

#[test]
fn find_works_while_the_host_removes_cgroups() {
    find_under_removal(true);
}
