//! Processor time: who lists a large directory over and over has the server take little more than it takes itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::probe::names::*;
use testkit::{Container, ContainerOptions, Need, TestCgroup, View, ViewOptions, hierarchy, require};

use super::scene::{COST_FACTOR_MAX, Scene, flood, program, used_by};

const CGROUPS: usize = 3000;
const LISTINGS: usize = 2000;
const CHANGES: usize = 500;

/// A directory with many cgroups is listed over and over, of which hardly anything is read.
fn list_over_and_over(container: &Container, directory: &Path) -> Duration {
    flood(container, "list", directory, LISTINGS)
}

fn fill(cgroup: &TestCgroup, below: &str) {
    let large = cgroup.child("pids", below);
    for number in 0..CGROUPS {
        fs::create_dir(large.join(number.to_string())).expect("a cgroup");
    }
}

#[test]
fn an_unchanged_listing_costs_the_server_little() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let scene = Scene::new(&["pids", "unified"]);
    let container = scene.container("a");
    fill(&scene.cgroup, "a/large");
    let before = used_by(scene.view.server());
    let own = list_over_and_over(&container, &scene.shown("pids", "a/large"));
    let servers = used_by(scene.view.server()) - before;
    assert!(servers < own * COST_FACTOR_MAX, "the server took {servers:?}, its caller {own:?}");
}

#[test]
fn an_unchanged_listing_of_a_coherent_view_costs_the_server_little() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let cgroup = TestCgroup::new(&["pids"]);
    let options = ViewOptions::new().cgroup(&cgroup).shape("rooted").flag("--coherent");
    let view = View::mount(&program(), &options);
    let container = Container::start(ContainerOptions { cgroups: cgroup.children("home"), ..Default::default() });
    fill(&cgroup, "large");
    let before = used_by(view.server());
    let top = view.hierarchy(&hierarchy("pids").expect("a required hierarchy"));
    let own = list_over_and_over(&container, &top.join("large"));
    let servers = used_by(view.server()) - before;
    assert!(servers < own * COST_FACTOR_MAX, "the server took {servers:?}, its caller {own:?}");
}

/// Its container changes it between any two listings, so that none of them is like the one before.
#[test]
fn a_listing_that_changes_all_the_time_costs_the_server_little() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let scene = Scene::new(&["pids", "unified"]);
    let container = scene.container("a");
    fill(&scene.cgroup, "a/large");
    let before = used_by(scene.view.server());
    let own = flood(&container, "make-and-list", &scene.shown("pids", "a/large"), CHANGES);
    let servers = used_by(scene.view.server()) - before;
    assert!(servers < own * COST_FACTOR_MAX, "the server took {servers:?}, its caller {own:?}");
}

#[test]
fn a_listing_that_the_kernel_keeps_costs_the_server_little() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let cgroup = TestCgroup::new(&["pids"]);
    let options = ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate").delegate_controllers(&["pids"]);
    let view = View::mount(&program(), &options);
    let container = Container::start(ContainerOptions { cgroups: cgroup.children("home"), ..Default::default() });
    fill(&cgroup, "large");
    let before = used_by(view.server());
    let top = view.hierarchy(&hierarchy("pids").expect("a required hierarchy"));
    let own = flood(&container, "make-and-list", &top.join("large"), CHANGES);
    let servers = used_by(view.server()) - before;
    assert!(servers < own * COST_FACTOR_MAX, "the server took {servers:?}, its caller {own:?}");
}

/// Every change shows at once, whoever makes it, also in a listing that was answered from memory just before.
#[test]
fn a_change_shows_in_the_next_listing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let scene = Scene::new(&["pids", "unified"]);
    let container = scene.container("a");
    for selector in ["pids", "unified"] {
        let mut session = scene.session(&container, selector, "a");
        let real = scene.cgroup.dir(selector).join("a");
        let names = |session: &mut testkit::Session| {
            let listing = session.expect(&readdir("$OWN"));
            let entries = listing.as_array().expect("a listing").iter().filter_map(|entry| entry.as_str());
            entries.map(str::to_owned).collect::<Vec<_>>()
        };
        for round in 0..50 {
            for _ in 0..3 {
                assert!(!names(&mut session).contains(&"new directory".to_owned()), "{selector} {round}");
            }
            fs::create_dir(real.join("new")).expect("a cgroup");
            assert!(names(&mut session).contains(&"new directory".to_owned()), "{selector} {round}");
            session.expect(&rmdir("$OWN/new"));
            assert!(!names(&mut session).contains(&"new directory".to_owned()), "{selector} {round}");
            session.expect(&mkdir("$OWN/new"));
            assert!(names(&mut session).contains(&"new directory".to_owned()), "{selector} {round}");
            fs::remove_dir(real.join("new")).expect("its removal");
        }
        if selector == "unified" {
            // Files come and go by a write above.
            let had = names(&mut session).contains(&"cpu.pressure file".to_owned());
            let switch = real.join("cgroup.pressure");
            if had && switch.exists() {
                for (value, shown) in [("0", false), ("1", true), ("0", false), ("1", true)] {
                    names(&mut session);
                    names(&mut session);
                    fs::write(&switch, value).expect("a switch");
                    assert_eq!(names(&mut session).contains(&"cpu.pressure file".to_owned()), shown);
                }
            }
        }
    }
}
