//! inotify and fanotify on a view: what the kernel tells the watchers of a cgroupfs, those of a view are told as well.

mod elsewhere;
mod ends;
mod storm;
mod watcher;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nix::sys::inotify::AddWatchFlags as Mask;
use testkit::{Container, ContainerOptions, Need, Programs, TestCgroup, View, ViewOptions, hierarchy, require};
use watcher::Watcher;

const UNIFIED: &str = "unified";
const SYSTEMD: &str = "name=systemd";

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vcgroupfs"))
}

/// A view of a cgroup, and the cgroup.
struct Scene {
    view: View,
    ours: TestCgroup,
}

impl Scene {
    fn new(selectors: &[&str], shape: &str, legacy: bool) -> Self {
        let ours = TestCgroup::new(selectors);
        let options = ViewOptions::new().cgroup(&ours).shape(shape).policy("delegate").legacy(legacy);
        Self { view: View::mount(program(), &options), ours }
    }

    fn host(&self, selector: &str) -> PathBuf {
        self.ours.dir(selector)
    }

    /// The directory of the cgroup in the view.
    fn seen(&self, selector: &str) -> PathBuf {
        let top = self.view.hierarchy(&hierarchy(selector).expect("a required hierarchy"));
        let below = top.join(self.ours.name());
        if below.join("cgroup.procs").exists() && !top.join("cgroup.procs").exists() { below } else { top }
    }

    /// The same directory at the host-path alias of a rooted view.
    fn alias(&self, selector: &str) -> PathBuf {
        self.seen(selector).join(self.ours.name())
    }
}

/// A process that sleeps in a cgroup.
fn sleeper(cgroup: &Path) -> Child {
    let child = Command::new(&Programs::find().probe).arg("--sleep").stdin(std::process::Stdio::null()).spawn();
    let child = child.expect("a sleeping process");
    fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).expect("a migration by the host");
    child
}

fn end(mut child: Child) {
    child.kill().expect("kill");
    child.wait().expect("wait");
}

fn of_entries(events: Vec<(Mask, String)>) -> Vec<(Mask, String)> {
    let kinds = Mask::IN_CREATE | Mask::IN_DELETE | Mask::IN_MOVE | Mask::IN_MOVE_SELF;
    events.into_iter().filter(|(mask, _)| mask.intersects(kinds)).collect()
}

fn notifications(legacy: bool) {
    let scene = Scene::new(&[UNIFIED], "rooted", legacy);
    let container = Container::start(ContainerOptions::default());
    let job = scene.ours.child(UNIFIED, "job");
    let (seen, file) = (scene.seen(UNIFIED).join("job"), "cgroup.events");
    let mut view = Watcher::new();
    view.add("directory", &seen);
    view.add("file", seen.join(file));
    view.add("alias", scene.alias(UNIFIED).join("job").join(file));
    let mut inside = Watcher::new();
    inside.add_inside(
        container.init(),
        &scene.seen(UNIFIED),
        Path::new("/mnt"),
        &[("directory", "job"), ("file", "job/cgroup.events")],
    );
    let mut native = Watcher::new();
    native.add("directory", &job);
    native.add("file", job.join(file));
    for round in 1..=4 {
        let child = sleeper(&job);
        both_have(&mut native, &mut view, &["file", "directory", "alias"], 2 * round - 1);
        end(child);
        both_have(&mut native, &mut view, &["file", "directory", "alias"], 2 * round);
    }
    for watcher in [&mut view, &mut inside, &mut native] {
        watcher.settle();
    }
    let modified = |name: &str| vec![(Mask::IN_MODIFY, name.to_owned()); 8];
    assert_eq!(native.at("file"), modified(""));
    let natively: Vec<_> = native.at("directory").into_iter().filter(|(_, name)| name == file).collect();
    assert_eq!(natively, modified(file));
    for (at, watcher) in [("file", &view), ("alias", &view), ("file", &inside)] {
        assert_eq!(watcher.at(at), modified(""), "{at}");
    }
    for watcher in [&view, &inside] {
        assert_eq!(watcher.at("directory"), modified(file));
    }
}

/// Waits until a watch of the kernel's own file, and each of the view's, has seen so many events.
fn both_have(native: &mut Watcher, view: &mut Watcher, places: &[&str], count: usize) {
    native.wait("a native event", |seen| seen.iter().filter(|seen| seen.at == "file").count() >= count);
    for at in places {
        view.wait(at, |seen| seen.iter().filter(|seen| seen.at == *at).count() >= count);
    }
}

#[test]
fn a_notification_is_one_event() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    notifications(false);
}

#[test]
fn a_notification_is_one_event_on_old_kernels() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::LegacySyscalls);
    notifications(true);
}

/// systemd does this for each unit: it reads the file once it gets the event.
#[test]
fn after_the_event_the_file_says_that_the_cgroup_is_empty() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "host-path", false);
    let job = scene.ours.child(UNIFIED, "job");
    let file = scene.seen(UNIFIED).join("job/cgroup.events");
    let child = sleeper(&job);
    let mut view = Watcher::new();
    view.add("file", &file);
    assert!(fs::read_to_string(&file).expect("the file").contains("populated 1"));
    end(child);
    view.wait("the end", |seen| seen.iter().any(|seen| seen.mask.contains(Mask::IN_MODIFY)));
    assert!(fs::read_to_string(&file).expect("the file").contains("populated 0"));
}

#[test]
fn notifications_of_v1_files_are_reported() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"));
    let scene = Scene::new(&["pids"], "rooted", false);
    let job = scene.ours.child("pids", "job");
    let mut view = Watcher::new();
    view.add("file", scene.seen("pids").join("job/pids.events"));
    let mut native = Watcher::new();
    native.add("file", job.join("pids.events"));
    // On v1 recent kernels never notify it; an open that truncates makes the same event.
    let truncated = fs::OpenOptions::new().write(true).truncate(true).open(job.join("pids.events"));
    truncated.expect("a capability over the mode");
    both_have(&mut native, &mut view, &["file"], 1);
    view.settle();
    native.settle();
    native.seen.retain(|seen| seen.mask.contains(Mask::IN_MODIFY));
    assert_eq!(view.at("file"), native.at("file"));
    assert_eq!(view.at("file").len(), 1);
}

/// Writes through the view are events of the view's own, and no second ones come after them.
#[test]
fn a_write_through_the_view_is_one_event() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "rooted", false);
    let (there, other) = (scene.ours.child(UNIFIED, "job"), scene.ours.child(UNIFIED, "other"));
    if !there.join("memory.pressure").exists() {
        eprintln!("skipped: no PSI on this machine");
        return;
    }
    let (mut view, mut native) = (Watcher::new(), Watcher::new());
    for (watcher, cgroup) in [(&mut view, scene.seen(UNIFIED).join("job")), (&mut native, other)] {
        let path = cgroup.join("memory.pressure");
        watcher.add("file", &path);
        for _ in 0..3 {
            let mut file = fs::OpenOptions::new().write(true).open(&path).expect("the file");
            std::io::Write::write_all(&mut file, b"some 1999999 2000000").expect("a trigger");
            drop(file);
            // The kernel notifies the file when the trigger goes.
            watcher.settle();
        }
    }
    // The write is one event and the trigger's end another; inotify makes one of two that come at once, on the kernel's tree as well.
    for watcher in [&view, &native] {
        let seen = watcher.at("file");
        let written = seen.iter().filter(|(mask, _)| mask.contains(Mask::IN_MODIFY)).count();
        assert!((3..=6).contains(&written), "{seen:?}");
    }
    let others = |watcher: &Watcher| -> Vec<_> {
        watcher.at("file").into_iter().filter(|(mask, _)| !mask.contains(Mask::IN_MODIFY)).collect()
    };
    assert_eq!(others(&view), others(&native));
}

fn comings_and_goings(legacy: bool) {
    let scene = Scene::new(&[UNIFIED, SYSTEMD], "rooted", legacy);
    let container = Container::start(ContainerOptions::default());
    for selector in [UNIFIED, SYSTEMD] {
        let (host, seen) = (scene.host(selector), scene.seen(selector));
        let (mut view, mut inside, mut native) = (Watcher::new(), Watcher::new(), Watcher::new());
        view.add("main", &seen);
        view.add("alias", scene.alias(selector));
        inside.add_inside(container.init(), &seen, Path::new("/mnt"), &[("main", ".")]);
        native.add("main", &host);
        for (hand, at) in [("host", &host), ("main", &seen), ("alias", &scene.alias(selector))] {
            for name in ["x", "y"].map(|name| format!("{hand}-{name}")) {
                let mut all_have = |kind: Mask| {
                    for (watcher, places) in
                        [(&mut view, &["main", "alias"][..]), (&mut inside, &["main"]), (&mut native, &["main"])]
                    {
                        for place in places {
                            watcher.wait(place, |seen| {
                                seen.iter()
                                    .any(|seen| seen.at == *place && seen.name == name && seen.mask.contains(kind))
                            });
                        }
                    }
                };
                fs::create_dir(at.join(&name)).expect("mkdir");
                all_have(Mask::IN_CREATE);
                assert!(seen.join(&name).is_dir() && scene.alias(selector).join(&name).is_dir());
                fs::remove_dir(at.join(&name)).expect("rmdir");
                all_have(Mask::IN_DELETE);
                assert!(!seen.join(&name).exists() && !scene.alias(selector).join(&name).exists());
            }
        }
        for watcher in [&mut view, &mut inside, &mut native] {
            watcher.settle();
        }
        // The server has looked into the directory, too.
        let natively = of_entries(native.at("main"));
        assert_eq!(natively.len(), 12, "{:?}", native.seen);
        for (at, watcher) in [("main", &view), ("alias", &view), ("main", &inside)] {
            assert_eq!(watcher.at(at), natively, "{selector} {at}");
        }
    }
}

#[test]
fn cgroups_that_anybody_makes_or_removes_are_reported() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(SYSTEMD));
    comings_and_goings(false);
}

#[test]
fn cgroups_that_anybody_makes_or_removes_are_reported_on_old_kernels() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED), Need::Hierarchy(SYSTEMD), Need::LegacySyscalls);
    comings_and_goings(true);
}

/// As natively: watchers of the parent get the event, also of a directory that is removed together with its parent.
#[test]
fn a_tree_that_the_host_removes_is_reported() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "rooted", false);
    let (host, seen) = (scene.host(UNIFIED), scene.seen(UNIFIED));
    let mut before = Watcher::new();
    before.add("top", &seen);
    fs::create_dir_all(host.join("a/b")).expect("mkdir");
    before.wait("mkdir", |seen| !seen.is_empty());
    let (mut view, mut native) = (Watcher::new(), Watcher::new());
    for (watcher, top) in [(&mut view, &seen), (&mut native, &host)] {
        for (label, path) in [("top", "."), ("a", "a"), ("b", "a/b"), ("file", "a/b/cgroup.events")] {
            watcher.add(label, top.join(path));
        }
    }
    for path in ["a/b", "a"] {
        fs::remove_dir(host.join(path)).expect("rmdir");
    }
    for watcher in [&mut view, &mut native] {
        watcher.wait("rmdir", |seen| seen.iter().any(|seen| seen.at == "top"));
        watcher.settle();
    }
    for label in ["top", "a", "b", "file"] {
        // The server has looked into the directories, too.
        assert_eq!(view.at(label), of_entries(native.at(label)), "{label}");
    }
    assert_eq!(view.at("a"), [(Mask::IN_DELETE | Mask::IN_ISDIR, "b".to_owned())]);
}

/// The kernel's FUSE tells a removed directory's own watchers at once (`fuse_rmdir` clears the link count, `d_delete` looks at it); its
/// cgroupfs doesn't on Linux 6.18. What the host removes is silent there as on a cgroupfs, see above.
#[test]
fn a_watched_directory_that_is_removed_through_the_view_is_reported() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "rooted", false);
    let seen = scene.seen(UNIFIED).join("x");
    fs::create_dir(&seen).expect("mkdir");
    let mut view = Watcher::new();
    view.add("itself", &seen);
    fs::remove_dir(&seen).expect("rmdir");
    view.settle();
    assert_eq!(view.at("itself"), [(Mask::IN_DELETE_SELF, String::new()), (Mask::IN_IGNORED, String::new())]);
}

#[test]
fn renames_are_reported() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(SYSTEMD));
    let scene = Scene::new(&[SYSTEMD], "rooted", false);
    let (host, seen, alias) = (scene.host(SYSTEMD), scene.seen(SYSTEMD), scene.alias(SYSTEMD));
    let mut before = Watcher::new();
    before.add("main", &seen);
    before.add("alias", &alias);
    fs::create_dir(host.join("a")).expect("mkdir");
    before.wait("mkdir", |seen| seen.len() == 2);
    let (mut view, mut native) = (Watcher::new(), Watcher::new());
    for (label, itself, path) in [("main", "main a", &seen), ("alias", "alias a", &alias)] {
        view.add(label, path);
        view.add(itself, path.join("a"));
    }
    native.add("main", &host);
    native.add("main a", host.join("a"));
    let mut name = "a";
    for (count, (at, to)) in [(&host, "b"), (&seen, "c"), (&alias, "d"), (&host, "a")].into_iter().enumerate() {
        fs::rename(at.join(name), at.join(to)).expect("rename");
        name = to;
        for itself in ["main a", "alias a"] {
            view.wait("a rename", |seen| seen.iter().filter(|seen| seen.at == itself).count() > count);
        }
        assert!(seen.join(to).is_dir() && alias.join(to).is_dir());
    }
    view.settle();
    native.settle();
    for (at, of) in [("main", "main"), ("alias", "main"), ("main a", "main a"), ("alias a", "main a")] {
        assert_eq!(of_entries(view.at(at)), of_entries(native.at(of)), "{at}");
    }
    assert_eq!(of_entries(view.at("main")).len(), 8);
    fs::remove_dir(host.join(name)).expect("rmdir");
}

/// Before Linux 6.10 a watcher is told of a directory that is opened and closed, though it be by a descriptor of its path alone (O_PATH). So the thread
/// that makes the events opens nothing.
#[test]
fn the_replay_opens_nothing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(SYSTEMD), Need::Program("strace"), Need::LegacySyscalls);
    for legacy in [false, true] {
        let scene = Scene::new(&[SYSTEMD], "rooted", legacy);
        let (host, seen) = (scene.host(SYSTEMD), scene.seen(SYSTEMD));
        let below = scene.ours.child(SYSTEMD, "below");
        let mut view = Watcher::new();
        view.add("top", &seen);
        view.add("below", seen.join("below"));
        let tasks = fs::read_dir(format!("/proc/{}/task", scene.view.server())).expect("the server's threads");
        let is_it = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "own mount\n");
        let thread = tasks.flatten().map(|task| task.path()).find(is_it).expect("the thread that makes the events");
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (log, trace) = (folder.path().join("log"), "trace=open,openat,openat2,open_by_handle_at,mkdirat,renameat");
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-e", trace, "-o"]).arg(&log).arg("-p").arg(thread.file_name().expect("its number"));
        let mut strace = strace.spawn().expect("strace");
        let read = || fs::read_to_string(&log).unwrap_or_default();
        // Something that's traced, so that all that follows is.
        let mut count = 0;
        while read().is_empty() {
            fs::create_dir(host.join(format!("x{count}"))).expect("mkdir");
            count += 1;
            view.wait("mkdir", |seen| seen.iter().filter(|seen| seen.at == "top").count() >= count);
        }
        for (at, label) in [(&host, "top"), (&below, "below")] {
            fs::create_dir(at.join("made")).expect("mkdir");
            fs::rename(at.join("made"), at.join("renamed")).expect("rename");
            fs::remove_dir(at.join("renamed")).expect("rmdir");
            view.wait("rmdir", |seen| seen.iter().any(|seen| seen.at == label && seen.mask.contains(Mask::IN_DELETE)));
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(strace.id().cast_signed()), nix::sys::signal::SIGINT)
            .expect("a signal");
        strace.wait().expect("its end");
        let calls = read();
        assert!(calls.contains("mkdirat(") && calls.contains("renameat("), "the control: {calls}");
        assert!(!calls.contains("open"), "{calls}");
    }
}

#[test]
fn hidden_cgroups_make_no_event() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "host-path", false);
    let top = scene.view.hierarchy(&hierarchy(UNIFIED).expect("a required hierarchy"));
    let mut view = Watcher::new();
    view.add("above", &top);
    view.add("ours", scene.seen(UNIFIED));
    let sibling = TestCgroup::new(&[UNIFIED]);
    end(sleeper(&sibling.dir(UNIFIED)));
    drop(sibling);
    fs::create_dir(scene.host(UNIFIED).join("x")).expect("mkdir");
    view.wait("what is shown", |seen| seen.iter().any(|seen| seen.name == "x"));
    view.settle();
    assert_eq!(view.at("above"), []);
    assert_eq!(view.at("ours"), [(Mask::IN_CREATE | Mask::IN_ISDIR, "x".to_owned())]);
}

/// With file handles and not descriptors, which the kernel can't open for an event that it makes by itself, on no filesystem.
#[test]
fn fanotify_reports_a_notification_once() {
    const FAN_REPORT_FID: u32 = 0x200;
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let scene = Scene::new(&[UNIFIED], "rooted", false);
    let job = scene.ours.child(UNIFIED, "job");
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_NONBLOCK | InitFlags::from_bits_retain(FAN_REPORT_FID);
    let mark = |path: &Path| {
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY)?;
        group.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_MODIFY, nix::fcntl::AT_FDCWD, Some(path))?;
        Ok::<_, nix::errno::Errno>(group)
    };
    let native = mark(&job.join("cgroup.events")).expect("a mark on a cgroupfs");
    let view = match mark(&scene.seen(UNIFIED).join("job/cgroup.events")) {
        Ok(view) => view,
        // Before Linux 6.8 it takes a filesystem with an id, which FUSE's have not.
        Err(nix::errno::Errno::ENODEV) => return eprintln!("skipped: no fanotify by handle on FUSE here"),
        Err(errno) => panic!("a mark on a view: {errno}"),
    };
    let count = |group: &Fanotify| {
        let mut buffer = [0; 4096];
        let read = nix::unistd::read(group, &mut buffer).unwrap_or(0);
        let (mut at, mut masks) = (0, Vec::new());
        while at < read {
            // struct fanotify_event_metadata: its length at 0, the mask at 8.
            let length = u32::from_ne_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
            masks.push(u64::from_ne_bytes(buffer[at + 8..at + 16].try_into().expect("eight bytes")));
            at += length as usize;
        }
        masks
    };
    let (mut natively, mut seen) = (Vec::new(), Vec::new());
    let child = sleeper(&job);
    testkit::wait_until("an event natively and one in the view", || {
        natively.extend(count(&native));
        seen.extend(count(&view));
        !natively.is_empty() && !seen.is_empty()
    });
    // Gives a second event, which shouldn't come, the time to come.
    std::thread::sleep(std::time::Duration::from_millis(200));
    natively.extend(count(&native));
    seen.extend(count(&view));
    end(child);
    assert_eq!((natively, seen), (vec![MaskFlags::FAN_MODIFY.bits()], vec![MaskFlags::FAN_MODIFY.bits()]));
}
