//! Lookup counts, watches, and invalidations.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::scene::{self, CALLER, READ, Scene, UNIFIED, errno};
use crate::cgroup::Setup;
use crate::fs::cache::Invalidate;
use crate::fs::host::Ready;
use crate::fs::host::{EntryChange, HostEvent};
use crate::fs::inode::{NodeId, ROOT_ID};
use crate::fs::ops::Wake;
use crate::fs::{LookupResult, SetAttr};
use crate::policy::Policy;
use crate::view::Shape;

#[test]
fn a_node_is_known_as_long_as_it_is_counted() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    let boundary = scene.id("/unified");
    let ids: Vec<NodeId> = (0..3).map(|_| scene.fs.lookup(boundary, OsStr::new("a")).unwrap().id).collect();
    assert_eq!(ids, [ids[0]; 3], "one cgroup has one id");
    scene.fs.forget(ids[0], 2);
    assert!(scene.fs.attributes(ids[0], None).is_ok());
    scene.fs.forget(ids[0], 1);
    assert_eq!(errno(scene.fs.attributes(ids[0], None)), Some(Errno::ESTALE));
    assert_eq!(errno(scene.fs.lookup(ids[0], OsStr::new("b"))), Some(Errno::ESTALE));
    scene.fs.forget(ids[0], 1);
    scene.fs.forget(ROOT_ID, 1000);
    assert!(scene.fs.attributes(ROOT_ID, None).is_ok(), "the root is never forgotten");
    assert_eq!(scene.fs.known_nodes(), 1);
    for id in [0, 2, u64::MAX, NodeId::host_path_step(0, 1).unwrap().as_u64()] {
        assert_eq!(errno(scene.fs.attributes(NodeId::from_u64(id), None)), Some(Errno::ESTALE), "{id} was never told");
    }
}

#[test]
fn mkdir_counts_a_lookup() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let made = scene.fs.make_directory(&CALLER, ROOT_ID, OsStr::new("x"), 0o755).unwrap().id;
    assert_eq!(scene.fs.lookup(ROOT_ID, OsStr::new("x")).unwrap().id, made);
    scene.fs.forget(made, 1);
    assert!(scene.fs.attributes(made, None).is_ok());
    scene.fs.forget(made, 1);
    assert_eq!(scene.fs.known_nodes(), 0);
}

#[test]
fn a_child_outlives_the_lookups_of_its_parent() {
    let scene = Scene::new(Setup::Unified, Shape::HostPath, Policy::Strict);
    let a = scene.id("/lxc/c1/a");
    let b = scene.fs.lookup(a, OsStr::new("b")).unwrap().id;
    scene.fs.forget(a, 1);
    assert!(scene.fs.attributes(b, None).is_ok());
    assert_eq!(scene.fs.node(b).unwrap().view_path(), "/lxc/c1/a/b");
    let handle = scene.fs.open(&CALLER, scene.fs.lookup(b, OsStr::new("memory.max")).unwrap().id, READ, false).unwrap();
    assert!(scene.fs.read_by(&CALLER, handle, 0, &mut [0; 8]).is_ok());
}

#[test]
fn nothing_leaks() {
    for scene in scene::all() {
        let mut counted = Vec::new();
        let mut waiting = vec![ROOT_ID];
        while let Some(directory) = waiting.pop() {
            for entry in scene.list(directory, 0).unwrap().into_iter().skip(2) {
                let id = scene.fs.lookup(directory, &entry.name).unwrap().id;
                counted.push(id);
                match entry.kind {
                    libc::S_IFDIR => waiting.push(id),
                    libc::S_IFREG => {
                        let handle = scene.fs.open(&CALLER, id, READ, false).unwrap();
                        scene.fs.release(handle);
                    }
                    _ => {}
                }
            }
        }
        assert!(counted.len() > 30, "{}", scene.name());
        let watched = |scene: &Scene| scene.host.state.lock().watches.values().sum::<i32>();
        assert!(watched(&scene) > 3);
        for id in counted {
            scene.fs.forget(id, 1);
        }
        assert_eq!((scene.fs.known_nodes(), scene.fs.open_handles(), scene.host.state.lock().open), (0, 0, 0));
        let root_is_watched = i32::from(scene.view.setup == Setup::Unified);
        assert_eq!(watched(&scene), root_is_watched, "{}", scene.name());
        assert!(scene.host.state.lock().watches.values().all(|count| *count >= 0));
    }
}

#[test]
fn what_cannot_be_watched_is_not_kept() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let [unwatched, watched] = ["/a", "/z"].map(|path| scene.id(path));
    scene.host.fail("watch", Errno::ENOSPC);
    let below = scene.fs.lookup(unwatched, OsStr::new("memory.max")).unwrap().ttl;
    assert!(below.attributes.is_zero() && below.entry.is_zero());
    // The kernel discards a directory's listing when the modification time changes.
    let looks_changed = |id| {
        let modified = || scene.fs.attributes(id, None).unwrap().0.times[1];
        modified() != modified()
    };
    assert!(looks_changed(unwatched));
    let first = scene.fs.lookup(watched, OsStr::new("memory.max")).unwrap().ttl;
    assert!(first.attributes.is_zero(), "a change since the lookup can't have been invalidated");
    let below = scene.fs.lookup(watched, OsStr::new("memory.max")).unwrap().ttl;
    assert!(!below.attributes.is_zero() && !below.entry.is_zero() && !looks_changed(watched));
    scene.fs.forget(unwatched, 1);
    assert!(
        scene.host.state.lock().watches.values().all(|count| *count >= 0),
        "an unwatched directory isn't unwatched again"
    );
}

#[test]
fn a_coherent_view_keeps_nothing_of_the_host() {
    let mut scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    let top = scene.id("/unified");
    for _ in 0..2 {
        assert!(!scene.fs.lookup(top, OsStr::new("a")).unwrap().ttl.entry.is_zero(), "the control");
    }
    scene.fs.keep_nothing();
    assert!(!scene.fs.keeps_listings());
    for name in ["a", "cgroup.procs"] {
        for _ in 0..2 {
            let ttl = scene.fs.lookup(top, OsStr::new(name)).unwrap().ttl;
            assert!(ttl.entry.is_zero() && ttl.attributes.is_zero(), "{name}");
        }
        let id = scene.fs.lookup(top, OsStr::new(name)).unwrap().id;
        assert!(scene.fs.attributes(id, None).unwrap().1.is_zero(), "{name}");
    }
    assert!(!scene.fs.lookup(ROOT_ID, OsStr::new("unified")).unwrap().ttl.entry.is_zero(), "the view's own names");
}

/// A kernel that records what it's told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(NodeId, Option<OsString>)>>);

impl Invalidate for Told {
    fn node(&self, node: NodeId, _listing: bool) {
        self.0.lock().push((node, None));
    }

    fn entry(&self, directory: NodeId, name: &OsStr) {
        self.0.lock().push((directory, Some(name.to_owned())));
    }
}

#[test]
fn a_change_is_told_at_every_door() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    let inode = scene.host.state.lock().find(UNIFIED, "/lxc/c1").unwrap();
    let nodes_of = [scene.id("/unified"), scene.id("/unified/lxc/c1")];
    let files = ["/unified/cgroup.type", "/unified/lxc/c1/cgroup.type"].map(|path| scene.id(path));
    let before = nodes_of.map(|entry_path| scene.fs.attributes(entry_path, None).unwrap().0.times[1]);
    let change = HostEvent::Entry {
        hierarchy: UNIFIED,
        directory: inode,
        name: Some("cgroup.type".into()),
        kind: EntryChange::Other,
    };
    let told = Told::default();
    scene.fs.invalidate(&change, &told);
    let told = told.0.into_inner();
    for (entry_path, file) in nodes_of.into_iter().zip(files) {
        assert!(told.contains(&(entry_path, Some("cgroup.type".into()))), "the name: {told:?}");
        assert!(told.contains(&(entry_path, None)) && told.contains(&(file, None)), "listing and attributes: {told:?}");
    }
    let after = nodes_of.map(|entry_path| scene.fs.attributes(entry_path, None).unwrap().0.times[1]);
    assert!(before[0] < after[0] && before[1] < after[1], "a stored listing is discarded");
    // The same number in another hierarchy is another directory.
    let elsewhere = Told::default();
    scene.fs.invalidate(
        &HostEvent::Entry {
            hierarchy: 1,
            directory: inode,
            name: Some("cgroup.type".into()),
            kind: EntryChange::Other,
        },
        &elsewhere,
    );
    assert_eq!(elsewhere.0.into_inner(), []);
}

/// What the view itself changes isn't told, but what the host changes is, even if both have one event.
#[test]
fn own_changes_of_attributes_are_not_told() {
    let scene = Scene::new(Setup::Hybrid, Shape::HostPath, Policy::Strict);
    let (hierarchy, directory) = (UNIFIED, scene.host.state.lock().find(UNIFIED, "/lxc/c1").unwrap());
    let at = scene.host.state.lock().find(UNIFIED, "/lxc/c1/a").unwrap();
    let node = scene.id("/unified/lxc/c1/a");
    scene.fs.attributes(node, None).unwrap();
    let is_told = || {
        let told = Told::default();
        let name = Some("a".into());
        let event = HostEvent::Entry { hierarchy, directory, name, kind: EntryChange::Other };
        scene.fs.invalidate(&event, &told);
        !told.0.into_inner().is_empty()
    };
    let change_on_host = |mode: u32, seconds: u64| {
        let mut state = scene.host.state.lock();
        let attributes = &mut state.trees[hierarchy].get_mut(&at).unwrap().attributes;
        let time = attributes.times[2] + Duration::from_secs(seconds);
        (attributes.mode, attributes.times[2]) = (libc::S_IFDIR | mode, time);
    };
    let set = || scene.fs.set_xattr(&CALLER, node, OsStr::new("user.x"), b"", 0).unwrap();
    assert!(is_told(), "of somebody else's");
    set();
    assert!(!is_told());
    let change = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    scene.fs.set_attributes(&CALLER, node, &change, false).unwrap();
    assert!(!is_told());
    assert!(is_told(), "an event counts for one change");
    // Two changes by the view with one event, and then one by the host.
    set();
    set();
    assert!(!is_told());
    change_on_host(0o755, 1);
    assert!(is_told());
    // The host's comes first.
    change_on_host(0o711, 1);
    set();
    assert!(is_told());
    scene.fs.attributes(node, None).unwrap();
    change_on_host(0o711, 1);
    set();
    assert!(!is_told(), "the kernel asks for the time by itself");
    // One that fails has no event.
    scene.host.fail("set_xattr", Errno::EPERM);
    scene.fs.set_xattr(&CALLER, node, OsStr::new("user.x"), b"", 0).unwrap_err();
    assert!(is_told());
}

#[test]
fn after_lost_events_everything_known_is_told() {
    let scene = Scene::new(Setup::Unified, Shape::HostPath, Policy::Strict);
    let ids = ["/lxc", "/lxc/c1", "/lxc/c1/a", "/lxc/c1/a/memory.max"].map(|path| scene.id(path));
    let told = Told::default();
    scene.fs.invalidate(&HostEvent::Anything, &told);
    let told = told.0.into_inner();
    for (id, (parent, name)) in
        ids.iter().zip([ROOT_ID, ids[0], ids[1], ids[2]].into_iter().zip(["lxc", "c1", "a", "memory.max"]))
    {
        assert!(told.contains(&(*id, None)) && told.contains(&(parent, Some(name.into()))), "{name}: {told:?}");
    }
    assert!(told.contains(&(ROOT_ID, None)));
}

#[test]
fn enabled_controllers_bring_files_to_the_children() {
    let scene = Scene::new(Setup::Unified, Shape::HostPath, Policy::Strict);
    let (boundary, child) = (scene.id("/lxc/c1"), scene.id("/lxc/c1/a"));
    for name in ["memory.max", "cgroup.procs"] {
        scene.fs.lookup(child, OsStr::new(name)).unwrap();
    }
    scene.id("/lxc/c1/memory.max");
    let inode = scene.host.state.lock().find(UNIFIED, "/lxc/c1").unwrap();
    let told = Told::default();
    scene.fs.invalidate(&HostEvent::Files { hierarchy: UNIFIED, directory: inode, of_children: true }, &told);
    let told = told.0.into_inner();
    assert!(told.contains(&(child, None)) && told.contains(&(child, Some("memory.max".into()))), "{told:?}");
    assert!(!told.contains(&(child, Some("cgroup.procs".into()))), "every cgroup has it: {told:?}");
    assert!(!told.iter().any(|(node, _)| *node == boundary), "{told:?}");
}

/// The kernel may cache an absent name if a later creation invalidates it: by an event of its own, with a
/// controller's files, or when events were lost.
#[test]
fn what_is_absent_is_kept_until_it_may_have_come() {
    let scene = Scene::new(Setup::Unified, Shape::HostPath, Policy::Strict);
    let (above, boundary, child) = (scene.id("/lxc"), scene.id("/lxc/c1"), scene.id("/lxc/c1/a"));
    let keeps = |directory, name: &str| match scene.fs.lookup_for(&CALLER, directory, OsStr::new(name)) {
        Ok(LookupResult::Negative(ttl)) => !ttl.is_zero(),
        found => panic!("{name}: {found:?}"),
    };
    assert!(keeps(child, "hugetlb.max") && keeps(child, "x") && keeps(boundary, "hugetlb.max"));
    assert!(keeps(above, "c2"), "a hidden name never appears");
    let told_of = |change: &HostEvent| {
        let told = Told::default();
        scene.fs.invalidate(change, &told);
        let named = told.0.into_inner().into_iter().filter_map(|(node, name)| Some((node, name?)));
        named.map(|(node, name)| (node, name.to_string_lossy().into_owned())).collect::<Vec<_>>()
    };
    let inode = scene.host.state.lock().find(UNIFIED, "/lxc/c1").unwrap();
    let told = told_of(&HostEvent::Files { hierarchy: UNIFIED, directory: inode, of_children: true });
    assert!(told.contains(&(child, "hugetlb.max".into())) && told.contains(&(child, "x".into())), "{told:?}");
    assert!(!told.iter().any(|(node, _)| *node == boundary), "{told:?}");
    assert!(told_of(&HostEvent::Anything).contains(&(boundary, "hugetlb.max".into())));
    // No event announces an entry in a directory that is gone or isn't watched.
    scene.host.state.lock().remove(UNIFIED, "/lxc/c1/a");
    told_of(&HostEvent::Entry {
        hierarchy: UNIFIED,
        directory: inode,
        name: Some("a".into()),
        kind: EntryChange::Removed,
    });
    assert!(!keeps(child, "x"));
    let mut coherent = Scene::new(Setup::Unified, Shape::HostPath, Policy::Strict);
    coherent.fs.keep_nothing();
    let found = coherent.fs.lookup_for(&CALLER, coherent.id("/lxc/c1"), OsStr::new("x"));
    assert!(matches!(found, Ok(LookupResult::Negative(Duration::ZERO))), "{found:?}");
}

/// A waiter that counts how often it's woken.
struct Waiter(std::sync::Arc<Mutex<usize>>);

impl Wake for Waiter {
    fn wake(self: Box<Self>) {
        *self.0.lock() += 1;
    }

    fn number(&self) -> u64 {
        1
    }
}

#[test]
fn who_waits_for_a_file_is_woken_once_and_leaves_nothing() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let woken = std::sync::Arc::new(Mutex::new(0));
    let file = scene.id("/memory.pressure");
    let handle = scene.open("/memory.pressure", READ).unwrap();
    scene.host.calls();
    assert_eq!(scene.fs.poll(file, handle, Some(Box::new(Waiter(woken.clone())))), Ok(0));
    let names: Vec<_> = scene.host.calls().into_iter().map(|call| call.name).collect();
    assert_eq!(names, ["poll", "wake_when_ready", "poll"], "armed before it's checked");
    let event = Ready { handle, events: 2 };
    scene.host.state.lock().ready = vec![vec![event], vec![event]];
    assert!(scene.fs.wake_the_ready() && scene.fs.wake_the_ready());
    assert_eq!(*woken.lock(), 1);
    assert_eq!(scene.fs.poll(file, handle, None), Ok(2), "an event that the host reported once isn't lost");
    assert_eq!(scene.fs.poll(file, handle, None), Ok(0));
    scene.host.calls();
    assert_eq!(scene.fs.poll(file, handle, Some(Box::new(Waiter(woken.clone())))), Ok(0));
    let names: Vec<_> = scene.host.calls().into_iter().map(|call| call.name).collect();
    assert_eq!(names, ["poll"], "armed once");
    let another = scene.open("/memory.pressure", READ).unwrap();
    scene.host.fail("wake_when_ready", Errno::ENOSPC);
    assert_eq!(errno(scene.fs.poll(file, another, Some(Box::new(Waiter(woken.clone()))))), Some(Errno::ENOSPC));
    assert_eq!(scene.fs.poll(file, another, Some(Box::new(Waiter(woken)))), Ok(0), "tried again");
    scene.fs.release(another);
    scene.fs.release(handle);
    assert_eq!(errno(scene.fs.poll(file, handle, None)), Some(Errno::EBADF));
    scene.host.state.lock().ready = vec![vec![event]];
    assert!(scene.fs.wake_the_ready(), "the event of a closed file wakes no waiter");
    assert!(!scene.fs.wake_the_ready());
}

/// The host's first report is the state that the waiter was told when it began to wait. It counts if the file may
/// have changed since: it was read, and is unread again.
#[test]
fn nobody_is_told_twice() {
    const UNREAD: u16 = (libc::POLLPRI | libc::POLLERR) as u16;
    for (reads, unread_at_last, woken_by_the_first) in [(false, true, 0), (true, false, 0), (true, true, 1)] {
        let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
        let woken = std::sync::Arc::new(Mutex::new(0));
        let (file, handle) = (scene.id("/a/cgroup.type"), scene.open("/a/cgroup.type", READ).unwrap());
        let poll = || scene.fs.poll(file, handle, Some(Box::new(Waiter(woken.clone()))));
        scene.host.state.lock().polled = UNREAD;
        assert_eq!(poll(), Ok(UNREAD));
        if reads {
            scene.fs.read(&scene.fs.transfer(&CALLER, handle).unwrap(), 0, &mut [0; 8]).unwrap();
        }
        scene.host.state.lock().polled = if unread_at_last { UNREAD } else { 0 };
        let event = Ready { handle, events: UNREAD };
        scene.host.state.lock().ready = vec![vec![event], vec![event]];
        assert!(scene.fs.wake_the_ready());
        assert_eq!(*woken.lock(), woken_by_the_first, "{reads} {unread_at_last}");
        poll().unwrap();
        assert!(scene.fs.wake_the_ready());
        assert_eq!(*woken.lock(), woken_by_the_first + 1, "the next report is news");
    }
}

/// The kernel knows of a change through the mount at the entry path that it came through.
#[test]
fn own_changes_are_told_at_the_other_doors_only() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    let inode = scene.host.state.lock().find(UNIFIED, "/lxc/c1").unwrap();
    let [main, alias] = ["/unified", "/unified/lxc/c1"].map(|path| scene.id(path));
    for entry_path in [main, alias] {
        scene.fs.lookup(entry_path, OsStr::new("a")).unwrap();
    }
    let told_of = |kind| {
        let told = Told::default();
        let change = HostEvent::Entry { hierarchy: UNIFIED, directory: inode, name: Some("x".into()), kind };
        scene.fs.invalidate(&change, &told);
        let told = told.0.into_inner();
        [main, alias].map(|entry_path| told.contains(&(entry_path, Some("x".into()))))
    };
    scene.fs.make_directory(&CALLER, main, OsStr::new("x"), 0o755).unwrap();
    assert_eq!(told_of(EntryChange::Made), [false, true]);
    assert_eq!(told_of(EntryChange::Made), [true, true], "one event for one change");
    scene.fs.remove_directory(&CALLER, alias, OsStr::new("x")).unwrap();
    assert_eq!(told_of(EntryChange::Made), [true, true], "another kind of change isn't its own");
    assert_eq!(told_of(EntryChange::Removed), [true, false]);
    for (method, kind) in [("make_directory", EntryChange::Made), ("remove_directory", EntryChange::Removed)] {
        scene.host.fail(method, Errno::ENOSPC);
        assert_eq!(
            errno(scene.fs.make_directory(&CALLER, main, OsStr::new("x"), 0o755)),
            (method == "make_directory").then_some(Errno::ENOSPC)
        );
        if method == "remove_directory" {
            assert_eq!(told_of(EntryChange::Made), [false, true]);
            assert_eq!(errno(scene.fs.remove_directory(&CALLER, main, OsStr::new("x"))), Some(Errno::ENOSPC));
        }
        assert_eq!(told_of(kind), [true, true], "{method}: what failed isn't expected any more");
    }
}
