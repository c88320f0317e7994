//! Views are upgraded while processes use them in every way, and while servers are killed: no operation fails.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use testkit::{RESTARTS_VARIABLE, hierarchy, next_version};

use crate::view::{Mounted, program, run};

/// How often each program takes the view over.
const ROUNDS: usize = 12;

/// What an operation may take. A program has ten seconds to come up.
const OPERATION_MAX: Duration = Duration::from_secs(8);

/// What a caller's operations came to.
#[derive(Debug, Default)]
struct Outcomes {
    count: usize,
    failed: Vec<String>,
    longest: Duration,
}

impl Outcomes {
    fn note<T>(&mut self, what: &str, operation: impl FnOnce() -> io::Result<T>) -> Option<T> {
        let start = Instant::now();
        let done = operation();
        self.longest = self.longest.max(start.elapsed());
        self.count += 1;
        done.map_err(|error| self.failed.push(format!("{what}: {error}"))).ok()
    }

    fn merge(mut self, other: Self) -> Self {
        self.failed.extend(other.failed);
        Self { count: self.count + other.count, failed: self.failed, longest: self.longest.max(other.longest) }
    }
}

/// A process that is migrated to and fro.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks, reads, makes, removes and migrates below a directory of the view, until it's told to stop.
fn load(top: &Path, real: &Path, name: &str, stop: &AtomicBool) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let [made, other] = ["made", "other"].map(|end| top.join(format!("{name}-{end}")));
    fs::create_dir(&other).expect("mkdir");
    let held = File::open(top.join("cgroup.procs")).expect("a list");
    let places = [top.to_owned(), other.clone()].map(|place| place.join("cgroup.procs"));
    let writers = places.each_ref().map(|place| File::options().write(true).open(place).expect("a writer"));
    let sleeper = Sleeper(Command::new("sleep").arg("1000").spawn().expect("a process"));
    let number = sleeper.0.id().to_string();
    // Nobody takes a process of others.
    fs::write(real.join("cgroup.procs"), &number).expect("a migration");
    for round in 0_usize.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        outcomes.note("stat", || fs::metadata(top));
        outcomes.note("read", || fs::read(top.join("cgroup.procs")));
        outcomes.note("pread of an open file", || held.read_at(&mut [0; 4096], 0));
        outcomes.note("readdir", || fs::read_dir(top).map(Iterator::count));
        outcomes.note("mkdir", || fs::create_dir(&made));
        outcomes.note("rmdir", || fs::remove_dir(&made));
        // The file was opened by a server that may have ended long ago.
        outcomes.note("write to an open file", || writers[round % 2].write_at(number.as_bytes(), 0));
        let there = outcomes.note("read of a list", || fs::read_to_string(&places[round % 2])).unwrap_or_default();
        if !there.lines().any(|line| line == number) {
            outcomes.failed.push(format!("process {number} isn't where it was put: {there:?}"));
        }
    }
    drop((writers, sleeper));
    testkit::wait_until("the cgroup is empty", || fs::remove_dir(&other).is_ok());
    outcomes
}

/// Loads a view from several threads, and does something meanwhile.
fn while_loaded(scene: &Mounted, action: impl FnOnce()) -> Outcomes {
    let stop = AtomicBool::new(false);
    let tops: [(PathBuf, PathBuf); 2] = ["name=systemd", "unified"].map(|selector| {
        let top = scene.view.hierarchy(&hierarchy(selector).expect("a required hierarchy"));
        (top, scene.cgroup.dir(selector))
    });
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|number| {
                let ((top, real), stop) = (&tops[number % 2], &stop);
                scope.spawn(move || load(top, real, &format!("caller{number}"), stop))
            })
            .collect();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
        stop.store(true, Ordering::Release);
        let outcomes = callers.into_iter().map(|caller| caller.join().expect("a caller"));
        let outcomes = outcomes.fold(Outcomes::default(), Outcomes::merge);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        outcomes
    })
}

#[track_caller]
fn assert_unnoticed(outcomes: &Outcomes) {
    println!("{} operations, the longest {:?}", outcomes.count, outcomes.longest);
    let some: Vec<&String> = outcomes.failed.iter().take(9).collect();
    assert!(some.is_empty(), "{} failed: {some:?}", outcomes.failed.len());
    assert!(outcomes.longest < OPERATION_MAX, "{:?}", outcomes.longest);
    assert!(outcomes.count > 100, "{outcomes:?}");
}

#[test]
fn no_operation_fails() {
    require_upgrade!();
    let scene = Mounted::new(|options| options);
    let outcomes = while_loaded(&scene, || {
        for _ in 0..ROUNDS {
            for with in [next_version(), program()] {
                scene.upgrade(with);
                thread::sleep(Duration::from_millis(50));
            }
        }
    });
    assert_unnoticed(&outcomes);
}

#[test]
fn no_operation_fails_without_passthrough() {
    require_upgrade!();
    let scene = Mounted::new(|options| options.flag("--no-passthrough"));
    let outcomes =
        while_loaded(&scene, || [next_version(), program()].into_iter().for_each(|with| scene.upgrade(with)));
    assert_unnoticed(&outcomes);
}

#[test]
fn servers_are_killed_meanwhile() {
    require_upgrade!();
    let scene = Mounted::new(|options| options.environment(RESTARTS_VARIABLE.0, RESTARTS_VARIABLE.1));
    let (target, mut taken) = (scene.target(), 0);
    let outcomes = while_loaded(&scene, || {
        for round in 0..ROUNDS {
            let with = if round % 2 == 0 { next_version() } else { program() };
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Acquire) {
                        let entry = scene.listed.entry().filter(|entry| entry["pid"].is_number());
                        // It may be another one by now, or none.
                        let server = entry.and_then(|entry| i32::try_from(entry["pid"].as_i64()?).ok());
                        let _ = server.map(|server| kill(nix::unistd::Pid::from_raw(server), Signal::SIGKILL));
                        thread::sleep(Duration::from_millis(20));
                    }
                });
                taken += usize::from(run(with, &["upgrade", &target]).status.success());
                stop.store(true, Ordering::Release);
            });
        }
    });
    assert!(taken > 0, "no upgrade has succeeded");
    assert_unnoticed(&outcomes);
}
