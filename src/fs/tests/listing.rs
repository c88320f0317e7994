//! Listings: their content, and that they stay complete while entries come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use nix::errno::Errno;
use proptest::prelude::*;

use super::lookup::{is_shown, is_within, join, objects};
use super::scene::{self, CALLER, CGROUPS, CPUSET, Scene, UNIFIED, errno};
use crate::cgroup::Setup;
use crate::fs::ListedEntry;
use crate::fs::inode::{NodeId, ROOT_ID};
use crate::policy::Policy;
use crate::view::Shape;

fn list(scene: &Scene, id: NodeId) -> Vec<ListedEntry> {
    scene.list(id, 0).unwrap()
}

#[test]
fn listings_show_what_lookups_find() {
    for scene in scene::all() {
        for hierarchy in 0..scene.view.hierarchies.len() {
            for cgroup in CGROUPS.into_iter().filter(|cgroup| is_shown(&scene, hierarchy, cgroup, None)) {
                let path = scene.at(hierarchy, cgroup);
                let id = scene.id(&path);
                let entries = list(&scene, id);
                let is_child = |path: &str| {
                    path != cgroup
                        && path.rsplit_once('/').is_some_and(|(above, _)| above == cgroup.trim_end_matches('/'))
                };
                let files = objects(&scene).into_iter().filter(|(index, directory, file)| {
                    *index == hierarchy
                        && match file {
                            Some(file) => *directory == cgroup && is_shown(&scene, hierarchy, cgroup, Some(file)),
                            None => is_child(directory) && is_shown(&scene, hierarchy, directory, None),
                        }
                });
                let expected: BTreeSet<String> = files
                    .map(|(_, directory, file)| {
                        file.unwrap_or_else(|| directory.rsplit('/').next().unwrap().to_owned())
                    })
                    .collect();
                let names: Vec<String> =
                    entries.iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect();
                assert_eq!(names[..2], [".", ".."], "{} {path}", scene.name());
                let listed: BTreeSet<String> = names[2..].iter().cloned().collect();
                assert_eq!((&listed, listed.len()), (&expected, names.len() - 2), "{} {path}", scene.name());
                for entry in &entries[2..] {
                    let found = scene.fs.lookup(id, &entry.name).unwrap().attributes;
                    assert_eq!(
                        (found.inode, found.mode & libc::S_IFMT),
                        (entry.inode, entry.kind),
                        "{path} {:?}",
                        entry.name
                    );
                }
                let cookies: BTreeSet<u64> = entries.iter().map(|entry| entry.cookie).collect();
                assert!(cookies.len() == entries.len() && !cookies.contains(&0), "{path}: {entries:?}");
            }
        }
    }
}

#[test]
fn the_root_of_a_hybrid_view_lists_the_hierarchies_and_their_links() {
    for shape in scene::SHAPES {
        let scene = Scene::new(Setup::Hybrid, shape, Policy::Strict);
        let entries = list(&scene, ROOT_ID);
        let named: BTreeMap<String, u32> =
            entries.iter().map(|entry| (entry.name.to_string_lossy().into_owned(), entry.kind)).collect();
        let directories = [".", "..", "unified", "memory", "cpu,cpuacct", "systemd", "cpuset"]
            .map(|name| (name.to_owned(), libc::S_IFDIR));
        let links = ["cpu", "cpuacct"].map(|name| (name.to_owned(), libc::S_IFLNK));
        assert_eq!(named, directories.into_iter().chain(links).collect(), "{}", scene.name());
        assert_eq!(entries.len(), named.len());
        // A reader can continue after any entry.
        for (index, entry) in entries.iter().enumerate() {
            assert_eq!(scene.list(ROOT_ID, entry.cookie).unwrap(), entries[index + 1..]);
        }
    }
}

#[test]
fn a_listing_begins_anew_at_offset_0() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let before = scene.list(ROOT_ID, 0).unwrap().len();
    scene.fs.make_directory(&CALLER, ROOT_ID, OsStr::new("new"), 0o755).unwrap();
    assert_eq!(scene.list(ROOT_ID, 0).unwrap().len(), before + 1);
    scene.host.fail("list", Errno::EIO);
    assert_eq!(errno(scene.list(ROOT_ID, 0)), Some(Errno::EIO));
    assert_eq!(scene.list(ROOT_ID, 0).unwrap().len(), before + 1, "an error isn't kept");
}

#[test]
fn a_directory_that_is_removed_while_it_is_open() {
    let scene = Scene::new(Setup::Unified, Shape::HostPath, Policy::Strict);
    let id = scene.id("/lxc/c1/a");
    let first = scene.list(id, 0).unwrap();
    scene.host.state.lock().remove(UNIFIED, "/lxc/c1/a");
    assert_eq!(scene.list(id, first[1].cookie).unwrap(), first[2..], "a listing that was begun can be finished");
    assert_eq!(errno(scene.list(id, 0)), Some(Errno::ENOENT));
}

/// A change between two reads of a listing.
#[derive(Clone, Debug)]
enum Event {
    /// By the host.
    Add(u8),
    Remove(u8),
    /// By the container.
    Make(u8),
    Unmake(u8),
}

fn events() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let event = (0u8..12, 0u8..4).prop_map(|(name, kind)| match kind {
        0 => Event::Add(name),
        1 => Event::Remove(name),
        2 => Event::Make(name),
        _ => Event::Unmake(name),
    });
    prop::collection::vec(prop::collection::vec(event, 0..6), 1..20)
}

fn happen(scene: &Scene, directory: NodeId, event: &Event) {
    let above = "/lxc/c1/a";
    let name = |number: &u8| format!("new{number}");
    match event {
        Event::Add(number) => {
            let mut state = scene.host.state.lock();
            if state.find(UNIFIED, &format!("{above}/{}", name(number))).is_none() {
                let above = state.find(UNIFIED, above).unwrap();
                state.add(UNIFIED, above, OsStr::new(&name(number)), libc::S_IFDIR | 0o755);
            }
        }
        Event::Remove(number) => {
            let path = format!("{above}/{}", name(number));
            let mut state = scene.host.state.lock();
            if state.find(UNIFIED, &path).is_some() {
                state.remove(UNIFIED, &path);
            }
        }
        // It may exist already or be gone.
        Event::Make(number) => drop(scene.fs.make_directory(&CALLER, directory, OsStr::new(&name(number)), 0o755)),
        Event::Unmake(number) => drop(scene.fs.remove_directory(&CALLER, directory, OsStr::new(&name(number)))),
    }
}

proptest! {
    /// Whatever comes and goes, and however small the buffer: entries that exist throughout are listed exactly once,
    /// none is listed twice, and none that never existed is listed. The same holds for a reader whose every call is
    /// answered from a new listing.
    #[test]
    fn what_exists_throughout_is_listed_once(
        rounds in events(),
        shape in prop::sample::select(scene::SHAPES.to_vec()),
        size in 1usize..7,
        from_anew in any::<bool>(),
    ) {
        let scene = Scene::new(Setup::Unified, shape, Policy::Strict);
        let directory = scene.id(&scene.at(UNIFIED, "/lxc/c1/a"));
        for number in 0..6 {
            happen(&scene, directory, &Event::Add(number));
        }
        let names = || -> BTreeSet<OsString> { list(&scene, directory).into_iter().map(|entry| entry.name).collect() };
        let mut throughout = names();
        let mut ever = throughout.clone();
        let mut listed: Vec<(OsString, u64)> = Vec::new();
        let mut offset = 0;
        let mut rounds = rounds.iter();
        loop {
            let (mut room, from) = (size, offset);
            let before = listed.len();
            // A buffer with room for this many entries.
            let take = |entry: &ListedEntry| {
                let fits = room > 0;
                if fits {
                    room -= 1;
                    offset = entry.cookie;
                    listed.push((entry.name.clone(), entry.inode));
                }
                fits
            };
            scene.fs.list(directory, from, take).unwrap();
            if listed.len() == before {
                break;
            }
            for event in rounds.next().into_iter().flatten() {
                happen(&scene, directory, event);
                let now = names();
                throughout.retain(|name| now.contains(name));
                ever.extend(now);
            }
            if from_anew {
                // Another reader reaches the end of the listing.
                scene.list(directory, u64::MAX).unwrap();
            }
            prop_assert!(listed.len() < 200, "the listing doesn't end");
        }
        for name in &throughout {
            prop_assert_eq!(listed.iter().filter(|(listed, _)| listed == name).count(), 1, "{:?} in {:?}", name, listed);
        }
        let inodes: BTreeSet<u64> = listed.iter().skip(2).map(|(_, inode)| *inode).collect();
        prop_assert_eq!(inodes.len(), listed.len() - 2, "something is listed twice");
        prop_assert!(listed.iter().all(|(name, _)| ever.contains(name)));
    }
}

#[test]
fn hierarchies_without_a_subtree_list_files_only() {
    for shape in [Shape::HostPath, Shape::Rooted] {
        let scene = Scene::new(Setup::Hybrid, shape, Policy::Delegate);
        let entries = list(&scene, scene.id("/cpuset"));
        assert!(entries.iter().skip(2).all(|entry| entry.kind == libc::S_IFREG), "{entries:?}");
        assert!(entries.iter().any(|entry| entry.name == "cpuset.cpus"));
        assert!(scene.view.hierarchies[CPUSET].delegated.is_none());
        assert!(is_within("/lxc/c1", "/lxc") && !is_within("/lxc/c10", &join("/lxc", Some("c1"))));
    }
}
