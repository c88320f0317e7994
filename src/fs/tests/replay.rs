//! The events that the view's watchers see, and the server's own requests.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::fake::FakeHost;
use super::scene::{CALLER, Scene, UNIFIED, errno};
use crate::cgroup::Setup;
use crate::fs::cache::Invalidate;
use crate::fs::host::{EntryChange, HostEvent};
use crate::fs::inode::{NodeId, ROOT_ID};
use crate::fs::inotify::{InjectedOp, Injection, Injector};
use crate::fs::{Caller, CgroupFs, Entry, FsError, FsResult, LookupResult, SetAttr, SysResult};
use crate::policy::Policy;
use crate::view::Shape;

/// The thread that injects operations.
const OWN: Caller = Caller { tid: 4242, uid: 0, gid: 0 };

/// Looks a name up. `ENOENT` if it isn't there.
fn look(fs: &CgroupFs<FakeHost>, caller: &Caller, directory: NodeId, name: &OsStr) -> FsResult<Entry> {
    match fs.lookup_for(caller, directory, name)? {
        LookupResult::Entry(entry) => Ok(entry),
        LookupResult::Negative(_) => Err(Errno::ENOENT.into()),
    }
}

struct Nobody;

impl Invalidate for Nobody {
    fn node(&self, _node: NodeId, _listing: bool) {}
    fn entry(&self, _directory: NodeId, _name: &OsStr) {}
}

type Between<'a> = Box<dyn Fn(&Injection, NodeId) + Sync + 'a>;

/// The kernel, as the thread uses it: it looks up, then requests the operation.
struct Mount<'a> {
    scene: &'a Scene,
    done: Mutex<Vec<Injection>>,
    /// Called with the directory after the lookup.
    between: Between<'a>,
}

impl<'a> Mount<'a> {
    fn new(scene: &'a Scene, between: impl Fn(&Injection, NodeId) + Sync + 'a) -> Self {
        scene.fs.own_thread().store(OWN.tid, Ordering::Release);
        scene.fs.start_replaying(true);
        Self { scene, done: Mutex::default(), between: Box::new(between) }
    }

    /// Replays until `count` operations are done, and a little longer.
    fn replay(&self, count: usize) -> Vec<(String, InjectedOp)> {
        let fs = &self.scene.fs;
        thread::scope(|scope| {
            scope.spawn(|| fs.replay(&Nobody, Some(self)));
            testkit::comes_true(testkit::TIMEOUT, || self.done.lock().len() >= count);
            // A further replay, which would be wrong, gets the time to come.
            thread::sleep(Duration::from_millis(20));
            fs.stop_replaying();
        });
        fs.start_replaying(true);
        let done = std::mem::take(&mut *self.done.lock());
        let path = |injection: &Injection| {
            let names = injection.directory.iter().chain([&injection.name]);
            names.map(|name| format!("/{}", name.display())).collect::<String>()
        };
        done.into_iter().map(|injection| (path(&injection), injection.operation)).collect()
    }
}

impl Injector for Mount<'_> {
    fn inject(&self, injection: &Injection) -> SysResult<()> {
        let fs = &self.scene.fs;
        let kernels = |failure: FsError| failure.errno();
        let mut at = ROOT_ID;
        for name in &injection.directory {
            at = look(fs, &OWN, at, name).map_err(kernels)?.id;
        }
        let looked = look(fs, &OWN, at, &injection.name);
        (self.between)(injection, at);
        if injection.operation == InjectedOp::Look {
            return looked.map(drop).map_err(kernels);
        }
        let outcome: FsResult<()> = match (&injection.operation, looked) {
            (InjectedOp::Make, Ok(_)) => return Err(Errno::EEXIST),
            (InjectedOp::Make, Err(_)) => fs.make_directory(&OWN, at, &injection.name, 0o755).map(drop),
            (_, Err(failure)) => return Err(failure.errno()),
            (InjectedOp::Remove, Ok(_)) => fs.remove_directory(&OWN, at, &injection.name),
            (InjectedOp::Rename(to), Ok(_)) => {
                assert_eq!(errno(look(fs, &OWN, at, to)), Some(Errno::ENOENT), "the new name is free");
                fs.rename(&OWN, at, &injection.name, at, to, 0)
            }
            (InjectedOp::Touch, Ok(entry)) => fs.set_attributes(&OWN, entry.id, &SetAttr::default(), false).map(drop),
            (InjectedOp::Look, Ok(_)) => Ok(()),
        };
        outcome.map_err(kernels)?;
        self.done.lock().push(injection.clone());
        Ok(())
    }
}

/// Makes a cgroup on the host and returns its event.
fn made(scene: &Scene, above: &str, name: &str) -> HostEvent {
    let mut state = scene.host.state.lock();
    let directory = state.find(UNIFIED, above).unwrap();
    state.add(UNIFIED, directory, OsStr::new(name), libc::S_IFDIR | 0o755);
    HostEvent::Entry { hierarchy: UNIFIED, directory, name: Some(name.into()), kind: EntryChange::Made }
}

fn removed(scene: &Scene, above: &str, name: &str) -> HostEvent {
    let mut state = scene.host.state.lock();
    let directory = state.find(UNIFIED, above).unwrap();
    state.remove(UNIFIED, &format!("{above}/{name}"));
    HostEvent::Entry { hierarchy: UNIFIED, directory, name: Some(name.into()), kind: EntryChange::Removed }
}

fn scene(shape: Shape) -> Scene {
    Scene::new(Setup::Unified, shape, Policy::Delegate)
}

/// The server's own thread has no special rights: without a matching replay under way its requests are refused.
#[test]
fn own_operations_are_the_one_that_is_shown() {
    let scene = scene(Shape::Rooted);
    scene.list(ROOT_ID, 0).unwrap();
    let a = scene.id("/a");
    let (x, other) = (OsStr::new("x"), OsStr::new("other"));
    let all_but = |allowed: Option<&str>, at: NodeId, name: &OsStr| {
        let fs = &scene.fs;
        let outcomes = [
            ("make", (allowed != Some("make")).then(|| errno(fs.make_directory(&OWN, at, name, 0o755)))),
            ("remove", (allowed != Some("remove")).then(|| errno(fs.remove_directory(&OWN, at, name)))),
            ("rename", (allowed != Some("rename")).then(|| errno(fs.rename(&OWN, at, name, at, OsStr::new("y"), 0)))),
        ];
        for (what, outcome) in outcomes {
            assert!(outcome.is_none_or(|errno| errno == Some(Errno::EAGAIN)), "{what} {name:?}: {outcome:?}");
        }
    };
    let mount = Mount::new(&scene, |injection, at| {
        let is = match injection.operation {
            InjectedOp::Make => Some("make"),
            InjectedOp::Remove => Some("remove"),
            _ => None,
        };
        all_but(is, at, &injection.name);
        all_but(None, at, other);
        all_but(None, a, &injection.name);
    });
    all_but(None, ROOT_ID, x);
    scene.fs.invalidate(&made(&scene, "/lxc/c1", "x"), &Nobody);
    assert_eq!(mount.replay(1), [("/x".to_owned(), InjectedOp::Make)]);
    scene.fs.invalidate(&removed(&scene, "/lxc/c1", "x"), &Nobody);
    assert_eq!(mount.replay(1), [("/x".to_owned(), InjectedOp::Remove)]);
    all_but(None, ROOT_ID, x);
    assert_eq!(scene.host.changes(), [], "nothing was done to the host");
    // From any other thread the same request is an operation on the host.
    scene.fs.make_directory(&CALLER, ROOT_ID, x, 0o755).unwrap();
    assert_eq!(scene.host.changes().len(), 1);
}

/// No other thread finds placeholders, and none is taken for another.
#[test]
fn placeholders_are_for_the_own_thread_and_for_once() {
    let scene = scene(Shape::Rooted);
    scene.list(ROOT_ID, 0).unwrap();
    let before = scene.id("/a");
    let found = Mutex::new(Vec::new());
    let mount = Mount::new(&scene, |injection, at| {
        let placeholder = look(&scene.fs, &OWN, at, &injection.name).map(|entry| (entry.id, entry.ttl.entry));
        if injection.operation == InjectedOp::Remove {
            let (id, ttl) = placeholder.unwrap();
            assert!(ttl.is_zero());
            assert_eq!(errno(scene.fs.attributes(id, None)), Some(Errno::ESTALE), "a placeholder isn't a node");
            found.lock().push(id);
        }
        let real = scene.host.state.lock().find(UNIFIED, &format!("/lxc/c1/{}", injection.name.display()));
        let seen = look(&scene.fs, &CALLER, at, &injection.name).map(|entry| (entry.attributes.inode, entry.ttl.entry));
        match real {
            Some(inode) => {
                assert_eq!(seen.unwrap(), (inode, Duration::ZERO), "the existing directory, not to be cached")
            }
            None => assert_eq!(errno(seen), Some(Errno::ENOENT)),
        }
    });
    for _ in 0..2 {
        scene.fs.invalidate(&removed(&scene, "/lxc/c1", "a"), &Nobody);
        assert_eq!(mount.replay(1), [("/a".to_owned(), InjectedOp::Remove)]);
        scene.fs.invalidate(&made(&scene, "/lxc/c1", "a"), &Nobody);
        assert_eq!(mount.replay(1), [("/a".to_owned(), InjectedOp::Make)]);
    }
    let found = found.lock().clone();
    assert!(found.len() == 2 && found[0] != found[1] && !found.contains(&before), "{found:?}");
}

#[test]
fn what_is_hidden_is_never_shown() {
    let scene = scene(Shape::HostPath);
    for path in ["/lxc", "/lxc/c1"] {
        let id = scene.id(path);
        scene.list(id, 0).unwrap();
    }
    let mount = Mount::new(&scene, |_, _| {});
    let lxc = scene.host.state.lock().find(UNIFIED, "/lxc").unwrap();
    for change in [
        made(&scene, "/lxc", "c2"),
        removed(&scene, "/lxc", "c10"),
        made(&scene, "/", "other2"),
        HostEvent::Renamed { hierarchy: UNIFIED, directory: lxc, from: "c11".into(), to: "c12".into() },
        HostEvent::Anything,
        made(&scene, "/lxc/c1", "ours"),
    ] {
        scene.fs.invalidate(&change, &Nobody);
    }
    let shown: Vec<_> = mount.replay(1).into_iter().filter(|(_, operation)| *operation != InjectedOp::Touch).collect();
    assert!(!shown.is_empty() && shown.iter().all(|(path, _)| path == "/lxc/c1/ours"), "{shown:?}");
}

/// Events that were shown already, or that the kernel made itself, aren't shown again.
#[test]
fn lost_events_are_made_up_for_by_what_was_told() {
    let scene = scene(Shape::Rooted);
    let mount = Mount::new(&scene, |_, _| {});
    scene.list(ROOT_ID, 0).unwrap();
    scene.fs.make_directory(&CALLER, ROOT_ID, OsStr::new("through"), 0o755).unwrap();
    scene.fs.remove_directory(&CALLER, ROOT_ID, OsStr::new("z")).unwrap();
    scene.fs.invalidate(&made(&scene, "/lxc/c1", "known"), &Nobody);
    assert_eq!(mount.replay(1), [("/known".to_owned(), InjectedOp::Make)]);
    made(&scene, "/lxc/c1", "lost");
    // Made through the view and removed by the host: the kernel told only of the creation.
    scene.fs.make_directory(&CALLER, ROOT_ID, OsStr::new("half"), 0o755).unwrap();
    removed(&scene, "/lxc/c1", "half");
    scene.fs.invalidate(&HostEvent::Anything, &Nobody);
    let mut shown = mount.replay(2);
    shown.retain(|(_, operation)| *operation != InjectedOp::Touch);
    assert_eq!(shown, [("/half".to_owned(), InjectedOp::Remove), ("/lost".to_owned(), InjectedOp::Make)]);
    scene.fs.invalidate(&HostEvent::Anything, &Nobody);
    assert_eq!(mount.replay(0), []);
}

/// A change on the host is shown only after one of the same name came through the view.
#[test]
fn the_last_event_of_a_name_is_true() {
    for lost in [false, true] {
        let scene = scene(Shape::Rooted);
        let mount = Mount::new(&scene, |_, _| {});
        scene.list(ROOT_ID, 0).unwrap();
        scene.fs.invalidate(&made(&scene, "/lxc/c1", "x"), &Nobody);
        scene.fs.remove_directory(&CALLER, ROOT_ID, OsStr::new("x")).unwrap();
        assert_eq!(mount.replay(1), [("/x".to_owned(), InjectedOp::Make)]);
        let directory = scene.host.state.lock().find(UNIFIED, "/lxc/c1").unwrap();
        let removed =
            HostEvent::Entry { hierarchy: UNIFIED, directory, name: Some("x".into()), kind: EntryChange::Removed };
        if lost {
            scene.fs.invalidate(&HostEvent::Anything, &Nobody);
        } else {
            // The order holds however many events were shown since.
            for number in 0..300 {
                scene.fs.invalidate(&made(&scene, "/lxc/c1", &format!("n{number}")), &Nobody);
            }
            assert_eq!(mount.replay(300).len(), 300);
            scene.fs.invalidate(&removed, &Nobody);
        }
        assert_eq!(mount.replay(1), [("/x".to_owned(), InjectedOp::Remove)], "{lost}");
    }
}

/// Repeated changes through the view aren't each shown again because an event of that name was shown.
#[test]
fn what_is_late_is_settled_once() {
    let scene = scene(Shape::Rooted);
    let mount = Mount::new(&scene, |_, _| {});
    scene.list(ROOT_ID, 0).unwrap();
    scene.fs.invalidate(&made(&scene, "/lxc/c1", "x"), &Nobody);
    let directory = scene.host.state.lock().find(UNIFIED, "/lxc/c1").unwrap();
    for _ in 0..50 {
        for kind in [EntryChange::Removed, EntryChange::Made] {
            match kind {
                EntryChange::Removed => scene.fs.remove_directory(&CALLER, ROOT_ID, OsStr::new("x")).unwrap(),
                _ => drop(scene.fs.make_directory(&CALLER, ROOT_ID, OsStr::new("x"), 0o755).unwrap()),
            }
            let event = HostEvent::Entry { hierarchy: UNIFIED, directory, name: Some("x".into()), kind };
            scene.fs.invalidate(&event, &Nobody);
        }
    }
    assert_eq!(mount.replay(1), [("/x".to_owned(), InjectedOp::Make)], "it's the true state already");
    scene.fs.remove_directory(&CALLER, ROOT_ID, OsStr::new("x")).unwrap();
    let event = HostEvent::Entry { hierarchy: UNIFIED, directory, name: Some("x".into()), kind: EntryChange::Removed };
    scene.fs.invalidate(&event, &Nobody);
    assert_eq!(mount.replay(0), [], "the kernel has reported it");
}

/// If callers' lookups keep filling the kernel's cache, the event is shown later.
#[test]
fn what_cannot_be_shown_at_once_is_shown_later() {
    struct Stubborn<'a>(&'a Mount<'a>, Mutex<usize>);
    impl Injector for Stubborn<'_> {
        fn inject(&self, injection: &Injection) -> SysResult<()> {
            let mut left = self.1.lock();
            if *left > 0 && injection.operation == InjectedOp::Make {
                *left -= 1;
                return Err(Errno::EEXIST);
            }
            drop(left);
            self.0.inject(injection)
        }
    }
    let scene = scene(Shape::Rooted);
    let mount = Mount::new(&scene, |_, _| {});
    scene.list(ROOT_ID, 0).unwrap();
    scene.fs.invalidate(&made(&scene, "/lxc/c1", "x"), &Nobody);
    let stubborn = Stubborn(&mount, Mutex::new(6));
    thread::scope(|scope| {
        scope.spawn(|| scene.fs.replay(&Nobody, Some(&stubborn)));
        testkit::comes_true(testkit::TIMEOUT, || !mount.done.lock().is_empty());
        scene.fs.stop_replaying();
    });
    let done: Vec<OsString> = mount.done.lock().iter().map(|injection| injection.name.clone()).collect();
    assert_eq!(done, ["x"]);
}
