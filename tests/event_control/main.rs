//! Events of v1 memory cgroups (`cgroup.event_control`): that they come, when, and for how long; and what a container can do with the writes
//! that register them. Formats and errnos are in the conformance table.

mod hostile;
mod scene;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::probe::names::*;
use testkit::{Caller, Container, ContainerOptions, MAPPED_ROOT, Need, require};

use scene::{Files, MEMORY, Scene, event, is_signalled, number, use_memory, wait_until};

/// What the kernel does, and what a view does.
fn on_both(test: impl Fn(&Scene)) {
    test(&Scene::kernel());
    test(&Scene::view());
}

#[test]
fn a_threshold_is_signalled_when_usage_crosses_it() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    on_both(|scene| {
        let dir = scene.child("a");
        let files = Files::open(&dir);
        let [low, high, oom] = [event(), event(), event()];
        files.at_threshold(&low, 16 << 20).expect("a threshold");
        files.at_threshold(&high, 1 << 30).expect("another one");
        files.at_oom(&oom).expect("an OOM event");
        assert!(use_memory(&scene.bare("a"), 1));
        assert!(![&low, &high, &oom].into_iter().any(is_signalled), "far below all");
        assert!(use_memory(&scene.bare("a"), 64));
        wait_until("the lower threshold", || is_signalled(&low));
        assert!(!is_signalled(&high) && !is_signalled(&oom));
        // Up and down, once each.
        let mut count = low.read().expect("the eventfd's count");
        if count == 1 {
            wait_until("the way down", || is_signalled(&low));
            count += low.read().expect("the eventfd's count");
        }
        assert_eq!(count, 2);
    });
}

#[test]
fn an_oom_is_signalled() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    on_both(|scene| {
        let dir = scene.child("a");
        fs::write(dir.join("memory.limit_in_bytes"), "20M").expect("a limit");
        // It isn't there without swap accounting.
        let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), "20M");
        let files = Files::open(&dir);
        let [oom, other] = [event(), event()];
        files.at_oom(&oom).expect("an OOM event");
        files.at_threshold(&other, 1 << 30).expect("a threshold");
        assert!(!is_signalled(&oom));
        assert!(!use_memory(&scene.bare("a"), 64), "more than the limit");
        wait_until("the OOM event", || is_signalled(&oom));
        assert!(!is_signalled(&other));
    });
}

/// The event is the eventfd's: whoever registered it, and by which open files, may be gone.
#[test]
fn an_event_lasts_as_long_as_its_eventfd() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    on_both(|scene| {
        let dir = scene.child("a");
        let threshold = event();
        let files = Files::open(&dir);
        files.at_threshold(&threshold, 16 << 20).expect("a threshold");
        drop(files);
        assert!(use_memory(&scene.bare("a"), 64));
        wait_until("the threshold", || is_signalled(&threshold));
    });
}

/// As many as one likes, one after the other; at a time there's a limit, which the kernel's memory is natively.
#[test]
fn closed_eventfds_make_room() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a higher one");
    let scene = Scene::view();
    let files = Files::open(&scene.child("a"));
    files.at_oom(&event()).expect("the first");
    let before = scene.server_files();
    let register_all = |count: usize| {
        let events: Vec<_> = (0..count).map(|_| event()).collect();
        let registered = events.iter().map_while(|event| files.at_oom(event).ok()).count();
        let next = files.at_oom(&event());
        (events, registered, next)
    };
    let (events, registered, next) = register_all(1100);
    assert_eq!((registered, next), (1024, Err(Errno::ENOMEM)));
    drop(events);
    // One eventfd many times counts as often.
    let one = event();
    let again = (0..1100).map_while(|_| files.at_oom(&one).ok()).count();
    assert_eq!((again, files.at_oom(&event())), (1024, Err(Errno::ENOMEM)));
    drop(one);
    let (_events, registered, _) = register_all(3);
    assert_eq!(registered, 3);
    wait_until("the descriptors' end", || scene.server_files() <= before);
    wait_until("the helpers' end", || scene.helpers() == 0);
}

#[test]
fn a_container_registers_by_its_own_numbers_and_rights() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors, Need::UserNamespaces);
    for user_namespace in [false, true] {
        let scene = Scene::view();
        let dir = scene.cgroup.child(MEMORY, "a");
        let owner = if user_namespace { MAPPED_ROOT } else { 0 };
        for entry in fs::read_dir(&dir).expect("a test cgroup").flatten() {
            chown(entry.path(), Some(owner), Some(owner)).expect("chown of an interface file");
        }
        let container = Container::start(ContainerOptions {
            cgroups: vec![dir.clone()],
            user_namespace,
            ..ContainerOptions::default()
        });
        let mut session = container.session(Caller::Root);
        session.set("CG", scene.dir().join("a").display());
        wait_until("the view's news of the owner", || {
            session.run(&open("ec", "$CG/cgroup.event_control", &["O_WRONLY"])).is_ok()
        });
        session.expect(&eventfd("e"));
        session.expect(&open("usage", "$CG/memory.usage_in_bytes", &["O_RDONLY"]));
        session.expect(&write("ec", "$FDE $FDUSAGE 32M"));
        assert_eq!(session.run(&read("e", 8)).errno(), Some("EAGAIN"));
        assert!(use_memory(&scene.bare("a"), 64));
        assert_eq!(session.expect(&await_poll("e", "IN")), true);
        let mut stranger = container.session(Caller::Stranger);
        stranger.set("CG", scene.dir().join("a").display());
        // On kernels before 6.18 everybody may write to it.
        let mode = fs::metadata(dir.join("cgroup.event_control")).expect("the file").permissions().mode();
        let opened = stranger.run(&open("ec", "$CG/cgroup.event_control", &["O_WRONLY"]));
        assert_eq!(opened.is_ok(), mode & 0o002 != 0, "user namespace: {user_namespace}");
    }
}

#[test]
fn event_control_is_read_only_unless_memory_is_delegated() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::LegacySyscalls);
    let denied = [
        Scene::with(|options| options.policy("strict")),
        Scene::with(|options| options.policy("delegate").delegate_controllers(&["pids"])),
        // A kernel without pidfd_getfd.
        Scene::with(|options| options.policy("delegate").delegate_controllers(&[MEMORY]).legacy(true)),
    ];
    for scene in &denied {
        scene.cgroup.child(MEMORY, "a");
        for dir in [scene.dir(), scene.dir().join("a")] {
            let file = dir.join("cgroup.event_control");
            assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o222, 0);
            let opened = File::options().write(true).open(&file).map(drop);
            assert_eq!(opened.err().and_then(|error| error.raw_os_error()), Some(Errno::EACCES as i32));
        }
    }
    let allowed = Scene::view();
    let files = Files::open(&allowed.dir());
    let event = event();
    files.at_oom(&event).expect("at the boundary, where memory is delegated");
    let read_only = files.write(&format!("{} {}", number(&event), number(&files.event_control)));
    assert_eq!(read_only, Err(Errno::EINVAL));
}
