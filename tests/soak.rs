//! A view under load: many processes in many cgroups, which are killed in the middle, and a container that takes what it can get. Nothing
//! may be answered wrongly, hang, or be left behind, and another view mustn't notice.
//!
//! `VCGROUPFS_SOAK=SECONDS` makes it long, and ten times as many.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{
    Caller, Container, ContainerOptions, Need, TestCgroup, View, ViewOptions, require, wait_until as eventually,
};

const UNIFIED: &str = "unified";

/// A view of a test cgroup on v2, and a container that lives in its `start`.
struct Scene {
    container: Container,
    view: View,
    cgroup: TestCgroup,
}

impl Scene {
    fn new(homes: usize) -> Self {
        let cgroup = TestCgroup::new(&[UNIFIED]);
        let start = cgroup.child(UNIFIED, "start");
        for number in 0..homes {
            cgroup.child(UNIFIED, &format!("home{number}"));
        }
        let options = ViewOptions::new().cgroup(&cgroup).shape("rooted");
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        let container = Container::start(ContainerOptions { cgroups: vec![start], ..ContainerOptions::default() });
        Self { container, view, cgroup }
    }

    fn seen(&self) -> PathBuf {
        self.view.hierarchy(&testkit::hierarchy(UNIFIED).expect("a required hierarchy"))
    }

    /// Starts the probe in the container, in one of its other roles.
    fn start(&self, words: &[&str]) -> Child {
        let mut command = self.container.command(Caller::Root);
        command.arg(self.container.probe()).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the probe")
    }

    fn server_count(&self, what: &str) -> usize {
        fs::read_dir(format!("/proc/{}/{what}", self.view.server())).expect("the server").count()
    }

    fn memory(&self) -> u64 {
        testkit::resident_kib(self.view.server())
    }

    /// One of everything, each of which has to succeed.
    fn works(&self, name: &str) {
        let path = self.seen().join(name);
        fs::create_dir(&path).expect("mkdir in another view");
        assert_eq!(fs::read_to_string(path.join("cgroup.procs")).expect("a read in another view"), "");
        fs::remove_dir(&path).expect("rmdir in another view");
    }
}

#[test]
fn many_processes_in_many_cgroups_get_right_answers() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let long = std::env::var("VCGROUPFS_SOAK").ok().map(|seconds| seconds.parse().expect("VCGROUPFS_SOAK in seconds"));
    let (processes, homes) = if long.is_some() { (1000, 200) } else { (100, 20) };
    let (scene, other) = (Scene::new(homes), Scene::new(1));
    // What a server needs for a while, it has had once.
    let warm_up = scene.start(&["--hammer", &scene.seen().display().to_string(), "10", "2"]).wait_with_output();
    assert!(warm_up.expect("the end of the warm-up").status.success());
    let (descriptors, threads) = (scene.server_count("fd"), scene.server_count("task"));

    let seconds: u64 = long.unwrap_or(8);
    let words = ["--hammer", &scene.seen().display().to_string(), &processes.to_string(), &seconds.to_string()];
    let hammer = scene.start(&words);
    let over = AtomicBool::new(false);
    let mut halfway = 0;
    let output = thread::scope(|scope| {
        // The host has cgroups come and go as well.
        scope.spawn(|| {
            let mut round = 0_usize;
            while !over.load(Ordering::Acquire) {
                let path = scene.cgroup.dir(UNIFIED).join(format!("home{}/host", round % homes));
                fs::create_dir(&path).expect("mkdir by the host");
                fs::remove_dir(&path).expect("rmdir by the host");
                round += 1;
            }
        });
        let waiting = scope.spawn(|| {
            let output = hammer.wait_with_output().expect("the end of the load");
            over.store(true, Ordering::Release);
            output
        });
        let half = Instant::now() + Duration::from_secs(seconds / 2);
        let mut round = 0;
        while !over.load(Ordering::Acquire) {
            other.works(&format!("w{round}"));
            round += 1;
            if halfway == 0 && Instant::now() > half {
                halfway = scene.memory();
            }
        }
        assert!(halfway > 0, "another view kept its caller waiting for half of the time");
        waiting.join().expect("the load")
    });
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "wrong answers, above: {told}");
    assert!(told.contains(" processes, 0 failed"), "{told}");

    // Whoever was killed has left cgroups behind: as many directories may be held open.
    let left =
        |home: usize| fs::read_dir(scene.cgroup.dir(UNIFIED).join(format!("home{home}"))).expect("a home").count();
    let empty = left(0);
    let held: usize = (0..homes).map(|home| 1 + left(home).saturating_sub(empty)).sum();
    eventually("descriptors come back", || scene.server_count("fd") <= descriptors + held.min(64));
    eventually("threads come back", || scene.server_count("task") <= threads);
    eventually("agents end", || agents_of(scene.view.server()) == 0);
    let end = scene.memory();
    assert!(end < halfway + halfway / 2 + 4096, "{halfway} KiB after half of the time, {end} KiB at the end");
    scene.works("afterwards");
}

/// How many agents a server has, by the names of its children.
fn agents_of(pid: u32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let name = |child: &str| fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
    text.split_whitespace().filter(|child| name(child) != "abort guard\n").count()
}

/// Holds a file open so often in a process of the container. Returns how often it could, and why no more.
fn hold(scene: &Scene, file: &str, count: usize) -> (Child, usize, String) {
    let path = scene.seen().join(file).display().to_string();
    let mut holder = scene.start(&["--open-many", &path, &count.to_string()]);
    let mut line = String::new();
    let read = BufReader::new(holder.stdout.as_mut().expect("its output")).read_line(&mut line);
    read.expect("a line of the probe");
    let (count, why) = line.trim().split_once(' ').unwrap_or_else(|| panic!("{file}: {line:?}"));
    (holder, count.parse().expect("a count"), why.to_owned())
}

/// Files that the kernel reads by itself cost the server nothing, however many are open. Of the others each user gets his share.
#[test]
fn a_hundred_thousand_open_files_are_served() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    // As many as a process may have where root isn't allowed to allow itself more, in as many processes as it takes.
    const EACH: usize = 1000;
    let (scene, other) = (Scene::new(1), Scene::new(1));
    scene.works("before");
    let before = scene.memory();
    let mut holders = Vec::new();
    for _ in 0..100_000 / EACH {
        let (holder, count, why) = hold(&scene, "home0/cgroup.procs", EACH);
        holders.push(holder);
        // Where the kernel can't read by itself, the server's descriptors are shared out.
        if count < EACH {
            assert!(why.starts_with("EMFILE"), "{count} {why}");
            break;
        }
    }
    scene.works("while-all-is-open");
    let mut shared = 0;
    for _ in 0..100_000 / EACH {
        let (holder, count, why) = hold(&scene, "home0/cgroup.events", EACH);
        holders.push(holder);
        shared += count;
        if count < EACH {
            assert!(why.starts_with("EMFILE"), "{count} {why}");
            break;
        }
    }
    assert!(shared > 100, "root opened {shared} files");
    scene.works("while-all-is-taken");
    other.works("beside-it");
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for {shared} files that the server holds open");
    for mut holder in holders {
        drop(holder.stdin.take());
        holder.wait().expect("its end");
    }
    scene.works("after");
}
