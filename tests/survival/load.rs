//! Processes of each kind use a view in every way while its server is killed, and notice nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Killer, Need, require};

use crate::pair::{Pair, Statistics};
use crate::scene::{Configuration, Scene};
use crate::usage::Usage;

/// How many servers are killed in all, unless `VCGROUPFS_KILLS` says otherwise.
const KILLS: usize = 200;

/// The tests that share the kills.
const SHARES: usize = 5;

/// How many sequences a pair does before anything is measured.
pub(crate) const WARM_UP: u64 = 2;

/// How many sequences a pair does at least, unless `VCGROUPFS_SEQUENCES` says otherwise.
const SEQUENCES: u64 = 4;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

fn kills() -> usize {
    let all = variable("VCGROUPFS_KILLS").map_or(KILLS, |number| usize::try_from(number).unwrap_or(usize::MAX));
    all.div_ceil(SHARES)
}

fn sequences() -> u64 {
    variable("VCGROUPFS_SEQUENCES").unwrap_or(SEQUENCES)
}

/// The same for each run, unless `VCGROUPFS_SEED` says otherwise: a long run says which one it took.
pub(crate) fn seed() -> u64 {
    let fresh = || u64::from(std::process::id()) << 20 ^ u64::from(now());
    variable("VCGROUPFS_SEED").unwrap_or_else(fresh)
}

fn now() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.subsec_micros())
}

fn load(configuration: Configuration) {
    require_survival!();
    require!(Need::UserNamespaces, Need::FuseInUserNamespaces);
    let seed = seed();
    println!("{configuration:?}: VCGROUPFS_SEED={seed}");
    let mut scene = Scene::new(configuration);
    let enough = AtomicBool::new(true);
    let warm_up = work(&mut scene.pairs, seed, WARM_UP, &enough);
    assert!(warm_up.is_empty(), "before any kill:\n{}", warm_up.join("\n"));
    let before: Vec<Usage> = scene.views.iter().map(Usage::of).collect();

    let begun = Instant::now();
    let mut killer = scene.keepers().map(|keepers| Killer::new(keepers, seed));
    if killer.is_none() {
        eprintln!("{configuration:?}: without kills, since there's no keeper");
    }
    let enough = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let killing = scope.spawn(|| {
            let done = killer.as_mut().map_or(Ok(()), |killer| killer.run(kills(), &enough));
            enough.store(true, Ordering::Release);
            done
        });
        let found = work(&mut scene.pairs, seed.wrapping_add(1), sequences(), &enough);
        enough.store(true, Ordering::Release);
        let mut failures = failures.lock().expect("failures");
        failures.extend(found);
        failures.extend(killing.join().expect("the killer").err());
    });
    let failures = failures.into_inner().expect("failures");
    let told = killer.as_ref().map(Killer::told).unwrap_or_default();
    assert!(failures.is_empty(), "seed {seed}: {}\n{told}", failures.join("\n\n"));
    let all = scene.pairs.iter().map(|pair| pair.statistics);
    let all = all.fold(Statistics::default(), |all, one| Statistics {
        operations: all.operations + one.operations,
        longest: all.longest.max(one.longest),
    });
    println!(
        "{configuration:?}: {} operations in {:?}, the longest sequence {:?}; {told}",
        all.operations,
        begun.elapsed(),
        all.longest
    );

    for (number, view) in scene.views.iter().enumerate() {
        view.when_live();
        if let Some(killer) = &killer {
            // The keeper may not have noticed the last one yet.
            let is_counted =
                testkit::comes_true(Duration::from_secs(20), || view.restarts() == killer.counts()[number]);
            assert!(is_counted, "{} restarts, {} kills; {told}", view.restarts(), killer.counts()[number]);
        }
    }
    scene.end_callers();
    // Those of `run` end with their commands.
    if configuration != Configuration::Run {
        scene.views.iter().zip(&before).for_each(|(view, before)| Usage::settles(view, before));
    }
    scene.end();
}

/// Has each pair do sequences of operations until that is enough. Returns what went wrong.
pub(crate) fn work(pairs: &mut [Pair], seed: u64, at_least: u64, is_enough: &AtomicBool) -> Vec<String> {
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for pair in pairs {
            scope.spawn(|| {
                for number in 0.. {
                    let failed = !failures.lock().expect("failures").is_empty();
                    if failed || number >= at_least && is_enough.load(Ordering::Acquire) {
                        return;
                    }
                    if let Err(failure) = pair.run(seed) {
                        failures.lock().expect("failures").push(failure);
                        is_enough.store(true, Ordering::Release);
                        return;
                    }
                }
            });
        }
    });
    failures.into_inner().expect("failures")
}

#[test]
fn a_mounted_view_outlives_its_servers() {
    load(Configuration::Mounted { passthrough: true });
}

#[test]
fn a_view_without_passthrough_outlives_its_servers() {
    load(Configuration::Mounted { passthrough: false });
}

#[test]
fn attached_views_outlive_their_servers() {
    load(Configuration::Attached);
}

#[test]
fn the_views_of_run_outlive_their_servers() {
    load(Configuration::Run);
}

#[test]
fn a_view_for_each_caller_outlives_its_servers() {
    load(Configuration::PerCaller);
}
