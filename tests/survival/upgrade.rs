//! Processes of each kind use views in every way while those are upgraded, there and back, and notice nothing.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use testkit::{Need, next_version, require};

use crate::load::{WARM_UP, seed, work};
use crate::scene::{Configuration, Scene, program};
use crate::usage::Usage;

/// How often each program takes a view over.
const ROUNDS: usize = 10;

fn upgraded(configuration: Configuration) {
    require_survival!();
    require!(Need::UserNamespaces, Need::FuseInUserNamespaces);
    let programs = [next_version(), Path::new(program())];
    let seed = seed();
    println!("{configuration:?}: VCGROUPFS_SEED={seed}");
    let mut scene = Scene::new(configuration);
    let warm_up = work(&mut scene.pairs, seed, WARM_UP, &AtomicBool::new(true));
    assert!(warm_up.is_empty(), "before any upgrade:\n{}", warm_up.join("\n"));
    // The first one makes what the next ones replace.
    let twice = || programs.iter().try_for_each(|with| scene.views.iter().try_for_each(|view| view.upgrade(with)));
    twice().expect("an upgrade");
    let before: Vec<Usage> = scene.views.iter().map(Usage::of).collect();

    let enough = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let (views, pairs) = (scene.views.clone(), &mut scene.pairs);
    thread::scope(|scope| {
        let upgrading = scope.spawn(|| {
            let rounds = (0..ROUNDS).flat_map(|_| programs);
            let mut each = rounds.flat_map(|with| views.iter().map(move |view| (with, view)));
            let done = each.try_for_each(
                |(with, view)| {
                    if enough.load(Ordering::Acquire) { Ok(()) } else { view.upgrade(with) }
                },
            );
            enough.store(true, Ordering::Release);
            done
        });
        let found = work(pairs, seed.wrapping_add(1), 1, &enough);
        enough.store(true, Ordering::Release);
        let mut failures = failures.lock().expect("failures");
        failures.extend(found);
        failures.extend(upgrading.join().expect("the upgrades").err());
    });
    let failures = failures.into_inner().expect("failures");
    assert!(failures.is_empty(), "seed {seed}: {}", failures.join("\n\n"));
    let operations: usize = scene.pairs.iter().map(|pair| pair.statistics.operations).sum();
    println!("{configuration:?}: {operations} operations");
    assert!(scene.views.iter().all(|view| view.restarts() == 0));
    scene.end_callers();
    if configuration != Configuration::Run {
        scene.views.iter().zip(&before).for_each(|(view, before)| Usage::settles(view, before));
    }
    scene.end();
}

#[test]
fn a_mounted_view() {
    upgraded(Configuration::Mounted { passthrough: true });
}

#[test]
fn a_view_without_passthrough() {
    upgraded(Configuration::Mounted { passthrough: false });
}

#[test]
fn attached_views() {
    upgraded(Configuration::Attached);
}

#[test]
fn the_views_of_run() {
    upgraded(Configuration::Run);
}

#[test]
fn a_view_for_each_caller() {
    upgraded(Configuration::PerCaller);
}
