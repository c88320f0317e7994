//! A view outlives its server, on kernels that send requests again and on those that don't.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{Hierarchy, Need, hierarchies};

use crate::in_a_machine;
use crate::scene::{Scene, note, soon, told};

/// How many kills a view survives within a minute, less one.
const KILLS: u64 = 4;

/// How long callers load the server between two kills.
const PAUSE: Duration = Duration::from_millis(700);

/// What an operation may take, without hardware that helps a virtual machine.
const OPERATION_MAX: Duration = Duration::from_secs(20);

/// A view that is mounted in the background.
struct Mounted(&'static str);

impl Mounted {
    fn new(scene: &Scene, dir: &'static str) -> Self {
        fs::create_dir_all(dir).expect("a mount point");
        let mut arguments = vec!["mount".to_owned()];
        arguments.extend(scene.options("rooted", "delegate"));
        arguments.push(dir.into());
        told(arguments);
        Self(dir)
    }

    fn record(&self) -> Value {
        let all = serde_json::from_str::<Value>(&told(["list", "--json"])).expect("JSON");
        let views = all.as_array().expect("an array");
        views.iter().find(|view| view["directory"] == self.0).expect("the view").clone()
    }

    /// Kills the server, and waits for the next one.
    fn kill(&self) {
        let restarts = || self.record()["restarts"].as_u64();
        let before = restarts();
        let server = self.record()["pid"].as_i64().expect("a process");
        kill(Pid::from_raw(i32::try_from(server).expect("a number of a process")), Signal::SIGKILL).expect("kill");
        assert!(soon(|| restarts() > before && self.record()["state"] == "live"), "{}", self.record());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        told(["umount", self.0]);
        fs::remove_dir(self.0).expect("an empty directory");
    }
}

/// The directories of the hierarchies in the view, and whether cgroups can be made there.
fn tops(dir: &Path) -> Vec<(PathBuf, bool)> {
    let top = |hierarchy: &Hierarchy| hierarchy.in_view(dir);
    let is_writable = |hierarchy: &Hierarchy| hierarchy.is_unified() || hierarchy.selector() == "name=systemd";
    hierarchies().iter().map(|hierarchy| (top(hierarchy), is_writable(hierarchy))).collect()
}

#[test]
fn open_files_and_cgroups_outlive_a_server() {
    in_a_machine!();
    let scene = Scene::new();
    let view = Mounted::new(&scene, "/tmp/vm-killed");
    let tops = tops(Path::new(view.0));
    let held: Vec<File> = tops.iter().map(|(top, _)| File::open(top.join("cgroup.procs")).expect("a list")).collect();
    for round in 0..KILLS {
        let made = tops.iter().filter(|(_, writable)| *writable).map(|(top, _)| top.join("made"));
        made.clone().for_each(|made| fs::create_dir(made).expect("mkdir"));
        view.kill();
        for file in &held {
            file.read_at(&mut [0; 64], 0).expect("a file that was open");
        }
        for made in made {
            fs::write(made.join("cgroup.procs"), "").expect("a write of nothing");
            fs::remove_dir(made).expect("rmdir");
        }
        assert_eq!(view.record()["restarts"], round + 1);
    }
}

/// What a caller's operations came to.
#[derive(Debug, Default)]
struct Outcomes {
    count: usize,
    failed: Vec<io::Error>,
    longest: Duration,
}

impl Outcomes {
    fn note<T>(&mut self, operation: impl FnOnce() -> io::Result<T>) {
        let start = Instant::now();
        self.failed.extend(operation().err());
        self.longest = self.longest.max(start.elapsed());
        self.count += 1;
    }
}

/// Looks, reads, makes and removes, until it's told to stop.
fn load(top: &Path, name: &str, writes: bool, stop: &AtomicBool) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let made = top.join(name);
    while !stop.load(Ordering::Acquire) {
        outcomes.note(|| fs::metadata(top));
        outcomes.note(|| fs::read(top.join("cgroup.procs")));
        outcomes.note(|| fs::read_dir(top).map(Iterator::count));
        if writes {
            outcomes.note(|| fs::create_dir(&made));
            outcomes.note(|| fs::remove_dir(&made));
        }
    }
    // What was interrupted may have been done or not.
    let _ = fs::remove_dir(&made);
    outcomes
}

#[test]
fn what_a_server_had_in_hand_is_done_or_fails_at_once() {
    in_a_machine!();
    let comes_again = Need::ResentRequests.is_met();
    let scene = Scene::new();
    let view = Mounted::new(&scene, "/tmp/vm-in-hand");
    let tops = tops(Path::new(view.0));
    let stop = AtomicBool::new(false);
    let all: Vec<Outcomes> = thread::scope(|scope| {
        let stop = &stop;
        let loads: Vec<_> = (0..4)
            .zip(tops.iter().cycle())
            .map(|(number, (top, writes))| scope.spawn(move || load(top, &format!("made{number}"), *writes, stop)))
            .collect();
        for _ in 0..KILLS {
            thread::sleep(PAUSE);
            view.kill();
        }
        stop.store(true, Ordering::Release);
        loads.into_iter().map(|load| load.join().expect("a caller")).collect()
    });
    for outcomes in &all {
        let is_expected = |error: &io::Error| {
            // After a mkdir or rmdir of which nobody knows whether it was done.
            let follows = [libc::EEXIST, libc::ENOENT, libc::ECONNABORTED];
            !comes_again && error.raw_os_error().is_some_and(|errno| follows.contains(&errno))
        };
        assert!(outcomes.failed.iter().all(is_expected), "{outcomes:?}");
        assert!(outcomes.count > 10 && outcomes.longest < OPERATION_MAX, "{outcomes:?}");
    }
    let aborted = all.iter().flat_map(|outcomes| &outcomes.failed).count();
    let count: usize = all.iter().map(|outcomes| outcomes.count).sum();
    note(&format!("{KILLS} kills, requests come again: {comes_again}; {aborted} of {count} operations failed"));
}
