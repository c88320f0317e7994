//! Many changes at once, and lost events.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags as Mask, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Need, processor_ticks, require, wait_until};

use super::watcher::Watcher;
use super::{Scene, UNIFIED, end, sleeper};

const STORM_DURATION: Duration = Duration::from_secs(2);

fn cgroups(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Makes and removes cgroups, some of names that others use as well.
fn make_and_remove(dir: &Path, own: &str) {
    let end = Instant::now() + STORM_DURATION;
    let mut state = u64::from(own.as_bytes()[0]);
    while Instant::now() < end {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (state >> 33) % 8;
        let name = if (state >> 40) % 2 == 0 { format!("{own}{number}") } else { format!("all{number}") };
        // It's there, or it isn't: both are what a storm is about.
        let _ = if (state >> 50) % 2 == 0 { fs::create_dir(dir.join(name)) } else { fs::remove_dir(dir.join(name)) };
    }
}

#[test]
fn events_and_listings_agree_after_a_storm() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "rooted", false);
    let (host, main, alias) = (scene.host(UNIFIED), scene.seen(UNIFIED), scene.alias(UNIFIED));
    let mut view = Watcher::new();
    view.add("main", &main);
    view.add("alias", &alias);
    thread::scope(|scope| {
        for (dir, own) in [(&host, "host"), (&main, "main"), (&alias, "alias")] {
            scope.spawn(|| make_and_remove(dir, own));
        }
        let end = Instant::now() + STORM_DURATION;
        while Instant::now() < end {
            view.take();
            // The pace of the reader, which has to empty the queue before it overflows.
            thread::sleep(Duration::from_millis(5));
        }
    });
    let real = cgroups(&host);
    for (at, dir) in [("main", &main), ("alias", &alias)] {
        // Whoever has read all events knows what there is.
        view.wait(&format!("the last event at {at} of {real:?}"), |seen| {
            let mut known = BTreeMap::new();
            for seen in seen.iter().filter(|seen| seen.at == at) {
                if seen.mask.intersects(Mask::IN_CREATE | Mask::IN_DELETE) {
                    known.insert(seen.name.clone(), seen.mask.contains(Mask::IN_CREATE));
                }
            }
            known.into_iter().filter(|(_, exists)| *exists).map(|(name, _)| name).collect::<BTreeSet<_>>() == real
        });
        assert!(!view.seen.iter().any(|seen| seen.at == "overflow"), "the test reads too slowly");
        assert_eq!(cgroups(dir), real, "the listing at {at}");
        for name in ["host", "main", "alias", "all"].iter().flat_map(|own| (0..8).map(move |n| format!("{own}{n}"))) {
            assert_eq!(dir.join(&name).exists(), real.contains(&name), "{at} {name}");
        }
    }
    wait_until("half a second in which the server is idle", || {
        let before = processor_ticks(scene.view.server());
        // The time is what is measured.
        thread::sleep(Duration::from_millis(500));
        processor_ticks(scene.view.server()) == before
    });
}

/// More events than the kernel keeps, while the server can't take them.
#[test]
fn lost_events_are_made_up_for() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "host-path", false);
    let (host, seen) = (scene.host(UNIFIED), scene.seen(UNIFIED));
    let job = scene.ours.child(UNIFIED, "job");
    let quiet = scene.ours.child(UNIFIED, "quiet");
    fs::create_dir(host.join("old")).expect("mkdir");
    assert!(cgroups(&seen).contains("old"));
    let mut view = Watcher::new();
    view.add("top", &seen);
    view.add("file", seen.join("job/cgroup.events"));
    let child = sleeper(&job);
    view.wait("the first event", |seen| seen.iter().any(|seen| seen.at == "file"));
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .expect("a limit")
        .trim()
        .parse()
        .expect("a number");
    let server = Pid::from_raw(scene.view.server().cast_signed());
    assert!(testkit::stop(server), "the server is there");
    for _ in 0..=most / 2 {
        fs::create_dir(host.join("often")).expect("mkdir");
        fs::remove_dir(host.join("often")).expect("rmdir");
    }
    fs::remove_dir(host.join("old")).expect("rmdir");
    fs::create_dir(host.join("new")).expect("mkdir");
    let natively = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    natively.add_watch(&job.join("cgroup.events"), Mask::IN_MODIFY).expect("a watch on the host");
    end(child);
    // The kernel tells of it a little later.
    wait_until("the kernel's notification", || natively.read_events().is_ok());
    kill(server, Signal::SIGCONT).expect("continue");
    view.wait("the last event", |seen| {
        let has = |at: &str, mask: Mask, name: &str| {
            seen.iter().any(|seen| seen.at == at && seen.mask.contains(mask) && seen.name == name)
        };
        let files = seen.iter().filter(|seen| seen.at == "file").count();
        has("top", Mask::IN_CREATE, "new") && has("top", Mask::IN_DELETE, "old") && files > 1
    });
    view.settle();
    assert_eq!(view.count("top", Mask::IN_CREATE, "new"), 1);
    assert_eq!(view.count("top", Mask::IN_DELETE, "old"), 1);
    assert_eq!(cgroups(&seen), cgroups(&host));
    // And it goes on as before.
    view.add("quiet", seen.join("quiet/cgroup.events"));
    end(sleeper(&quiet));
    view.wait("a later event", |seen| seen.iter().any(|seen| seen.at == "quiet"));
}
