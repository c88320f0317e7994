//! How old what a view shows may be: names, attributes and listings are kept by the kernel until the server tells it of a change, while the
//! host and the container change everything all the time. Contents are never kept.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Need, TestCgroup, View, ViewOptions, require};

/// What the README promises is in milliseconds; a machine on which everything else runs as well gets so long. What isn't told at all is kept for
/// a minute.
const STALENESS_MAX: Duration = Duration::from_secs(20);

const NAMED: &str = "name=systemd";
const UNIFIED: &str = "unified";

fn mount(cgroup: &TestCgroup, shape: &str, coherent: bool) -> View {
    let mut options = ViewOptions::new().cgroup(cgroup).shape(shape);
    if coherent {
        options = options.flag("--coherent");
    }
    View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options)
}

fn names(directory: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("an entry").file_name()).collect()
}

/// The attributes of a cgroup that can be cached: its number, mode and owner.
type Kept = (u64, u32, u32);

/// All that can be kept of a directory: who is in it, and what each of them is like.
fn state(directory: &Path) -> Vec<(OsString, Option<Kept>)> {
    let known = ["x", "y", "z"].map(OsString::from);
    let of = |name: &OsString| -> Option<Kept> {
        let found = fs::symlink_metadata(directory.join(name)).ok()?;
        Some((found.ino(), found.mode() & 0o7777, found.uid()))
    };
    let listed: BTreeSet<_> = names(directory).into_iter().filter(|name| known.contains(name)).collect();
    // A name that isn't listed has to be absent for stat, too, and the other way round.
    let mut state: Vec<_> = known.iter().map(|name| (name.clone(), of(name))).collect();
    state.extend(listed.into_iter().map(|name| (name, None)));
    state
}

/// A sequence of changes that the host makes to a cgroup.
fn change(directory: &Path, round: usize) {
    let [x, y, z] = ["x", "y", "z"].map(|name| directory.join(name));
    let done = match round % 8 {
        0 => fs::create_dir(&x),
        1 => fs::set_permissions(&x, fs::Permissions::from_mode(0o700)),
        2 => chown(&x, Some(23456), None),
        3 => fs::create_dir(&y),
        4 => fs::remove_dir(&x),
        // The same name, another cgroup.
        5 => fs::remove_dir(&y).and_then(|()| fs::create_dir(&y)),
        // v1 has a rename, v2 hasn't.
        6 => fs::rename(&y, &z).or_else(|_| fs::remove_dir(&y).and_then(|()| fs::create_dir(&z))),
        _ => fs::remove_dir(&z),
    };
    done.unwrap_or_else(|error| panic!("change {round} of {}: {error}", directory.display()));
}

/// Looks at everything all the time, so that the kernel has everything to keep, and is filling its caches whenever something changes.
fn look_all_the_time(directories: &[PathBuf], stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        for directory in directories {
            let _ = state(directory);
        }
    }
}

fn nothing_is_older_than_the_bound(coherent: bool) {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(NAMED));
    let cgroup = TestCgroup::new(&[UNIFIED, NAMED]);
    let view = mount(&cgroup, "rooted", coherent);
    let pairs = [UNIFIED, NAMED].map(|selector| {
        let real = cgroup.child(selector, "changing");
        let seen = view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy")).join("changing");
        (real, seen)
    });
    let all_seen: Vec<_> = pairs.iter().map(|(_, seen)| seen.clone()).collect();
    let stop = AtomicBool::new(false);
    let mut worst = Duration::ZERO;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| look_all_the_time(&all_seen, &stop))).collect();
        for round in 0..400 {
            for (real, seen) in &pairs {
                change(real, round);
                let (expected, start) = (state(real), Instant::now());
                while state(seen) != expected {
                    let late = start.elapsed();
                    let allowed = if coherent { Duration::ZERO } else { STALENESS_MAX };
                    if late > allowed {
                        stop.store(true, Ordering::Release);
                        panic!("{late:?} after change {round} it's {:?}, not {expected:?}", state(seen));
                    }
                }
                worst = worst.max(start.elapsed());
            }
        }
        stop.store(true, Ordering::Release);
        for reader in readers {
            reader.join().expect("a reader");
        }
    });
    println!("the oldest that was seen: {worst:?}");
}

#[test]
fn nothing_is_staler_than_the_bound_with_caches() {
    nothing_is_older_than_the_bound(false);
}

#[test]
fn nothing_is_stale_in_a_coherent_view() {
    nothing_is_older_than_the_bound(true);
}

/// Files that weren't there and come are found, though they make no event of their own.
#[test]
fn new_files_are_found() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(NAMED));
    let cgroup = TestCgroup::new(&[UNIFIED]);
    let (real, _) = (cgroup.dir(UNIFIED), cgroup.child(UNIFIED, "child"));
    let view = mount(&cgroup, "rooted", false);
    let seen = view.hierarchy(&testkit::hierarchy(UNIFIED).expect("a required hierarchy"));
    let switch = real.join("child/cgroup.pressure");
    for round in 0..40 {
        for (value, is_there) in [("0", false), ("1", true)] {
            fs::write(&switch, value).expect("cgroup.pressure");
            assert_eq!(real.join("child/cpu.pressure").exists(), is_there, "the host's, after {value}");
            let start = Instant::now();
            // Each look leaves the kernel something to keep.
            while seen.join("child/cpu.pressure").exists() != is_there {
                assert!(start.elapsed() < STALENESS_MAX, "in round {round}, after {value}");
            }
        }
    }
}

/// A caller whose write makes files appear or disappear finds the new state, although the kernel has cached the old one.
#[test]
fn a_caller_that_enables_a_controller_finds_its_files() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(NAMED));
    let cgroup = TestCgroup::new(&[UNIFIED]);
    cgroup.child(UNIFIED, "child");
    let view = mount(&cgroup, "rooted", false);
    let seen = view.hierarchy(&testkit::hierarchy(UNIFIED).expect("a required hierarchy")).join("child");
    let file = seen.join("cpu.pressure");
    for round in 0..200 {
        for (value, is_there) in [("0", false), ("1", true)] {
            let _ = fs::metadata(&file);
            fs::write(seen.join("cgroup.pressure"), value).expect("cgroup.pressure");
            assert_eq!(fs::File::open(&file).is_ok(), is_there, "open, in round {round}, after {value}");
            assert_eq!(fs::metadata(&file).is_ok(), is_there, "stat, in round {round}, after {value}");
            assert_eq!(names(&seen).contains(&OsString::from("cpu.pressure")), is_there, "round {round}, {value}");
        }
    }
}

/// Once the host has removed a cgroup, its files aren't found, whether or not the server has heard of it.
#[test]
fn a_name_that_was_just_removed_is_not_found() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(NAMED));
    let cgroup = TestCgroup::new(&[UNIFIED, NAMED]);
    let view = mount(&cgroup, "rooted", false);
    for selector in [UNIFIED, NAMED] {
        let seen = view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy"));
        for round in 0..200 {
            // A name that nobody has asked for yet, so that it's found at once.
            let name = format!("x{round}");
            let real = cgroup.child(selector, &name);
            let file = seen.join(&name).join("cgroup.procs");
            drop(fs::File::open(&file).expect("it's there"));
            fs::remove_dir(real).expect("the removal");
            let opened = fs::File::open(&file).map(drop).map_err(|error| error.kind());
            assert_eq!(opened, Err(std::io::ErrorKind::NotFound), "{selector}, round {round}");
        }
    }
}

/// Once a cgroup is removed, by anybody, its open files aren't found by name any more, also not from a held directory.
#[test]
fn the_names_of_a_removed_cgroup_are_dropped() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(NAMED));
    let cgroup = TestCgroup::new(&[UNIFIED, NAMED]);
    let view = mount(&cgroup, "rooted", false);
    for selector in [UNIFIED, NAMED] {
        let seen = view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy"));
        let doors = [cgroup.dir(selector), seen.clone(), seen.join(cgroup.path().trim_start_matches('/'))];
        for (number, remover) in doors.iter().enumerate() {
            let name = format!("removed{number}");
            fs::create_dir(seen.join(&name)).expect("a cgroup");
            let held = fs::File::open(seen.join(&name)).expect("the directory");
            let file = fs::File::open(seen.join(&name).join("cgroup.procs")).expect("a file");
            let by_name = PathBuf::from(format!("/proc/self/fd/{}/cgroup.procs", held.as_raw_fd()));
            assert!(fs::metadata(&by_name).is_ok(), "the control: {remover:?}");
            fs::remove_dir(remover.join(&name)).expect("the removal");
            let start = Instant::now();
            while fs::metadata(&by_name).is_ok() {
                assert!(start.elapsed() < STALENESS_MAX, "removed by {remover:?}, still found");
            }
            file.metadata().expect("its attributes, by the open file");
        }
    }
}

/// While siblings of the container's cgroup come and go by the same names as its own children, none of them is ever seen.
#[test]
fn a_hidden_cgroup_never_flashes_into_sight() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(NAMED));
    let outer = TestCgroup::new(&[UNIFIED, NAMED]);
    let path = format!("{}/own", outer.path());
    outer.children("own");
    let options = [UNIFIED, NAMED].iter().fold(ViewOptions::new().shape("host-path"), |options, selector| {
        options.option("--cgroup", &format!("{selector}={path}"))
    });
    let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for selector in [UNIFIED, NAMED] {
            let (real, stop) = (outer.dir(selector), &stop);
            scope.spawn(move || {
                let mut round = 0_usize;
                while !stop.load(Ordering::Acquire) || !round.is_multiple_of(8) {
                    change(&real, round);
                    change(&real.join("own"), round);
                    round += 1;
                }
            });
        }
        let above = [UNIFIED, NAMED].map(|selector| {
            view.hierarchy(&testkit::hierarchy(selector).expect("a required hierarchy")).join(outer.name())
        });
        let end = Instant::now() + Duration::from_secs(4);
        let mut inside = 0;
        while Instant::now() < end {
            for above in &above {
                let hidden = ["x", "y", "z"].map(|name| above.join(name));
                let seen = hidden.iter().find(|path| fs::symlink_metadata(path).is_ok());
                let listed = names(above).into_iter().find(|name| ["x", "y", "z"].iter().any(|hidden| *hidden == name));
                if seen.is_some() || listed.is_some() {
                    stop.store(true, Ordering::Release);
                    panic!("{seen:?} or {listed:?} is in sight");
                }
                inside += state(&above.join("own")).iter().filter(|(_, found)| found.is_some()).count();
            }
        }
        stop.store(true, Ordering::Release);
        assert!(inside > 0, "the control: children by the same names are seen");
    });
}
