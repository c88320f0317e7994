//! Open, read and write by the policy.

use nix::errno::Errno;

use super::lookup::{is_shown, is_within, join, objects};
use super::scene::{self, CALLER, DELEGATED, MEMORY, READ, SYSTEMD, Scene, UNIFIED, WRITE, errno, rule};
use crate::cgroup::{HierarchyClass, Setup};
use crate::fs::inode::ROOT_ID;
use crate::fs::{Caller, HandleId, OpenMode};
use crate::policy::Policy;
use crate::view::Shape;

/// The expected result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    PidArg,
    Migrated,
    /// The open is rejected.
    Rejected,
    /// The open succeeds, the write doesn't.
    RejectedAtWrite,
}

/// The table of the policies, written independently.
pub(super) fn expected(scene: &Scene, hierarchy: usize, cgroup: &str, file: &str) -> Expected {
    use Expected::{Migrated, PidArg, Rejected, RejectedAtWrite};
    let entry = &scene.view.hierarchies[hierarchy];
    let is_delegate = scene.view.rules.policy == Policy::Delegate;
    let is_boundary = cgroup == DELEGATED;
    if entry.delegated.is_none() || !is_within(cgroup, DELEGATED) {
        return Rejected;
    }
    match (entry.kind.class(), file) {
        (_, "release_agent" | "cgroup.event_control" | "odd") => Rejected,
        (HierarchyClass::V1Controllers, _) if !is_delegate => Rejected,
        (_, "cgroup.procs" | "cgroup.threads" | "tasks") => Migrated,
        (HierarchyClass::V1Controllers, "memory.limit_in_bytes") if !is_boundary => PidArg,
        (HierarchyClass::V1Controllers, _) => Rejected,
        (HierarchyClass::V1Named, "notify_on_release" | "cgroup.clone_children") => PidArg,
        (HierarchyClass::V1Named, _) => Rejected,
        (HierarchyClass::Unified, "cgroup.subtree_control" | "memory.pressure") => PidArg,
        (HierarchyClass::Unified, _) if is_boundary && is_delegate => RejectedAtWrite,
        (HierarchyClass::Unified, _) if is_boundary => Rejected,
        (HierarchyClass::Unified, core) if is_delegate || core.starts_with("cgroup.") => PidArg,
        (HierarchyClass::Unified, _) => Rejected,
    }
}

/// A scene with a process in the delegated subtree of every hierarchy.
pub(super) fn with_process(scene: Scene, number: i32) -> Scene {
    let places = (0..scene.view.hierarchies.len()).map(|hierarchy| (hierarchy, vec![Some("/lxc/c1/a")])).collect();
    scene.host.state.lock().processes.insert(number, super::fake::FakeProcess { places, ..Default::default() });
    scene
}

#[test]
fn writes_follow_the_table() {
    for scene in scene::all() {
        let scene = with_process(scene, 42);
        let mut counts = [0; 4];
        for (hierarchy, cgroup, file) in objects(&scene) {
            let Some(file) = file else { continue };
            if !is_shown(&scene, hierarchy, cgroup, Some(&file)) {
                continue;
            }
            let host = join(cgroup, Some(&file));
            let path = scene.at(hierarchy, &host);
            let expected = expected(&scene, hierarchy, cgroup, &file);
            counts[expected as usize] += 1;
            let mode = scene.walk(&path).unwrap().attributes.mode;
            assert_eq!(mode & 0o222 == 0, expected == Expected::Rejected, "{} {path}: {mode:o}", scene.name());
            scene.host.calls();
            let opened = scene.open(&path, WRITE);
            let about = format!("{} {path}: {opened:?}", scene.name());
            let Ok(handle) = opened else {
                assert_eq!((expected, errno(opened)), (Expected::Rejected, Some(Errno::EACCES)), "{about}");
                assert!(scene.host.calls().iter().all(|call| call.name != "open" && !call.changes), "{about}");
                continue;
            };
            let written = scene.fs.write_by(&CALLER, handle, b"42");
            let changes = scene.host.changes();
            match expected {
                Expected::PidArg => {
                    assert_eq!((written, changes.len()), (Ok(2), 1), "{about}");
                    assert_eq!((changes[0].name, &changes[0].path), ("write", &host), "{about}");
                }
                Expected::Migrated => {
                    assert_eq!((written, changes.len()), (Ok(2), 1), "{about}");
                    assert_eq!((changes[0].name, &changes[0].path), ("migrate", &host), "{about}");
                }
                Expected::RejectedAtWrite => {
                    assert_eq!((rule(&written), errno(written)), ("not-delegatable", Some(Errno::EPERM)), "{about}");
                    assert_eq!(changes, [], "{about}");
                }
                Expected::Rejected => panic!("{about} was opened"),
            }
            scene.fs.release(handle);
        }
        let is_unified = scene.view.hierarchies[UNIFIED].kind.class() == HierarchyClass::Unified;
        let at_write = is_unified && scene.view.rules.policy == Policy::Delegate;
        assert!(counts[0] > 2 && counts[1] > 2 && counts[2] > 0, "{}: {counts:?}", scene.name());
        assert_eq!(counts[3] > 0, at_write, "{}: {counts:?}", scene.name());
        assert_eq!(scene.host.state.lock().open, 0);
    }
}

#[test]
fn everything_shown_can_be_read() {
    for scene in scene::all() {
        for (hierarchy, cgroup, file) in objects(&scene) {
            let Some(file) = file.filter(|file| is_shown(&scene, hierarchy, cgroup, Some(file))) else { continue };
            let path = scene.at(hierarchy, &join(cgroup, Some(&file)));
            assert_eq!(scene.read(&path).as_deref(), Ok(file.as_bytes()), "{} {path}", scene.name());
        }
    }
}

#[test]
fn pid_lists_are_read_for_the_caller() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    for path in
        ["/unified/cgroup.procs", "/unified/cgroup.threads", "/memory/tasks", "/memory/cgroup.procs", "/cpuset/tasks"]
    {
        scene.host.calls();
        scene.read(path).unwrap();
        let calls = scene.host.calls();
        let asked = calls.iter().filter(|call| call.name == "read_members").map(|call| call.detail.as_str());
        assert_eq!(asked.collect::<Vec<_>>(), ["7"], "{path}");
    }
    scene.host.calls();
    scene.read("/unified/cgroup.controllers").unwrap();
    assert!(scene.host.calls().iter().all(|call| call.name != "read_members"));
}

#[test]
fn reads_go_on_at_any_offset() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let handle = scene.open("/cgroup.controllers", READ).unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 5];
    loop {
        let count = scene.fs.read_by(&CALLER, handle, text.len() as u64, &mut buffer).unwrap();
        if count == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(text, b"cgroup.controllers");
    assert_eq!(scene.fs.read_by(&CALLER, handle, 1 << 40, &mut buffer), Ok(0));
}

#[test]
fn opens_that_the_kernel_refuses() {
    for scene in scene::all() {
        assert_eq!(errno(scene.fs.open(&CALLER, ROOT_ID, READ, false)), Some(Errno::EISDIR));
        let procs =
            scene.id(&scene.at(SYSTEMD.min(scene.view.hierarchies.len() - 1), &format!("{DELEGATED}/a/cgroup.procs")));
        assert_eq!(errno(scene.fs.open(&CALLER, procs, READ, true)), Some(Errno::EINVAL), "O_DIRECT");
        // A rejection by the policy takes precedence.
        let outside = Scene::new(Setup::Hybrid, Shape::Full, Policy::Strict);
        let file = outside.id("/memory/lxc/c10/tasks");
        assert_eq!(errno(outside.fs.open(&CALLER, file, WRITE, true)), Some(Errno::EACCES));
        assert_eq!(errno(scene.fs.open_directory(procs)), Some(Errno::ENOTDIR));
        scene.host.fail("open", Errno::EMFILE);
        assert_eq!(errno(scene.fs.open(&CALLER, procs, READ, false)), Some(Errno::EMFILE));
        assert_eq!((scene.fs.open_handles(), scene.host.state.lock().open), (0, 0), "a failed open leaves nothing");
    }
}

#[test]
fn the_kernel_reads_what_it_may() {
    let mut scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let [plain, notified, directory] = ["/a/cgroup.procs", "/memory.pressure", "/a"].map(|path| scene.id(path));
    assert!(scene.fs.passthrough(plain).is_some());
    assert!(scene.fs.passthrough(notified).is_none() && scene.fs.passthrough(directory).is_none());
    scene.fs.disable_passthrough();
    assert!(scene.fs.passthrough(plain).is_none());
}

/// The host is asked whether a file still exists, whatever events it has sent: if the kernel finds it gone, it
/// returns EIO.
#[test]
fn what_is_gone_is_not_passed_through() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let [file, other] = ["/a/b/cgroup.procs", "/a/cgroup.procs"].map(|path| scene.id(path));
    let without = |mode: OpenMode, direct| scene.fs.opens_without_a_handle(file, mode, direct);
    assert!(without(READ, false) && !without(READ, true) && !without(WRITE, false));
    assert!(!without(OpenMode { truncate: true, ..READ }, false));
    scene.host.state.lock().remove(UNIFIED, "/lxc/c1/a/b");
    assert!(!without(READ, false) && scene.fs.opens_without_a_handle(other, READ, false));
    // The kernel looks the name up again. When the caller comes back, no name leads here any more.
    assert_eq!(errno(scene.fs.open(&CALLER, file, READ, false)), Some(Errno::ESTALE));
    assert_eq!(errno(scene.fs.open(&CALLER, file, WRITE, false)), Some(Errno::ENODEV));
    assert_eq!(errno(scene.fs.open(&CALLER, file, READ, true)), Some(Errno::ENODEV));
}

#[test]
fn handles_are_what_they_were_opened_as() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let reader = scene.open("/a/cgroup.type", READ).unwrap();
    assert_eq!(errno(scene.fs.write_by(&CALLER, reader, b"threaded")), Some(Errno::EBADF));
    let nobody = HandleId(4711);
    for handle in [HandleId::NONE, nobody] {
        assert_eq!(errno(scene.fs.transfer(&CALLER, handle).map(drop)), Some(Errno::EBADF));
    }
    assert_eq!(errno(scene.fs.sync(nobody)), Some(Errno::EBADF));
    assert_eq!(scene.fs.sync(HandleId::NONE), Ok(()));
    let file = scene.id("/a/cgroup.type");
    assert_eq!(errno(scene.list(file, 0)), Some(Errno::ENOTDIR));
    assert_eq!((scene.fs.open_handles(), scene.host.state.lock().open), (1, 1));
    for handle in [reader, HandleId::NONE, nobody, reader] {
        scene.fs.release(handle);
    }
    assert_eq!((scene.fs.open_handles(), scene.host.state.lock().open), (0, 0));
    assert_eq!(errno(scene.fs.read_by(&CALLER, reader, 0, &mut [0; 8])), Some(Errno::EBADF), "it's closed");
}

#[test]
fn files_are_opened_for_writing_with_the_openers_rights() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Delegate);
    let caller = Caller { tid: 9, uid: 1000, gid: 1000 };
    let open = |path: &str, mode: OpenMode| {
        let id = scene.id(path);
        scene.host.calls();
        let handle = scene.fs.open(&caller, id, mode, false).unwrap();
        scene.fs.release(handle);
        let calls = scene.host.calls();
        calls.into_iter().find(|call| call.name == "open").unwrap().detail
    };
    assert_eq!(open("/a/memory.max", WRITE), "read=false write=true as=Some(1000)");
    assert_eq!(open("/a/memory.max", READ), "read=true write=false as=None");
    let both = OpenMode { read: true, write: true, truncate: true };
    assert_eq!(open("/a/memory.max", both), "read=true write=true as=Some(1000)");
    // At the boundary the open succeeds, but the host's file isn't opened for writing.
    assert_eq!(open("/memory.max", both), "read=true write=false as=Some(1000)");
}

#[test]
fn an_invisible_caller_writes_nothing() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Delegate);
    let nobody = Caller { tid: 0, uid: 0, gid: 0 };
    for path in ["/a/memory.max", "/a/cgroup.procs"] {
        let opened = scene.fs.open(&nobody, scene.id(path), WRITE, false);
        assert_eq!(rule(&opened), "caller-invisible", "{path}");
    }
    let handle = scene.open("/a/cgroup.procs", WRITE).unwrap();
    let written = scene.fs.write_by(&nobody, handle, b"42");
    assert_eq!(rule(&written), "caller-invisible");
    assert_eq!(scene.host.changes(), []);
    assert!(scene.fs.open(&nobody, scene.id("/memory.max"), READ, false).is_ok());
}

#[test]
fn the_ladder_of_a_file_that_fails_at_write() {
    let scene = Scene::new(Setup::Hybrid, Shape::HostPath, Policy::Delegate);
    let handle = scene.open("/unified/lxc/c1/memory.max", WRITE).unwrap();
    let write = |data: &[u8]| scene.fs.write_by(&CALLER, handle, data);
    let long = vec![b'1'; 4097];
    assert_eq!(errno(write(&long)), Some(Errno::E2BIG));
    assert_eq!(write(b""), Ok(0));
    assert_eq!(errno(write(b"1")), Some(Errno::EPERM));
    assert_eq!(errno(write(&long[..4096])), Some(Errno::EPERM));
    scene.host.state.lock().remove(UNIFIED, DELEGATED);
    assert_eq!(errno(write(&long)), Some(Errno::E2BIG));
    assert_eq!(errno(write(b"")), Some(Errno::ENODEV));
    assert_eq!(errno(write(b"1")), Some(Errno::ENODEV));
    assert_eq!(scene.host.changes(), []);
}

#[test]
fn the_kernel_judges_what_is_written() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Delegate);
    let handle = scene.open("/memory/a/memory.limit_in_bytes", WRITE).unwrap();
    assert!(scene.fs.transfer(&CALLER, handle).unwrap().takes_long());
    assert_eq!(errno(scene.fs.write_by(&CALLER, handle, &[b'1'; 5000])), Some(Errno::E2BIG));
    for fault in [Errno::EINVAL, Errno::EBUSY, Errno::EINTR, Errno::ENOMEM] {
        scene.host.fail("write", fault);
        assert_eq!(errno(scene.fs.write_by(&CALLER, handle, b"1")), Some(fault));
    }
    let user = Caller { tid: 8, uid: 1000, gid: 1000 };
    scene.host.calls();
    assert_eq!(scene.fs.write_by(&user, handle, b"4096"), Ok(4));
    assert_eq!(scene.host.changes()[0].detail, "4096 by 1000");
    scene.host.state.lock().remove(MEMORY, "/lxc/c1/a");
    assert_eq!(errno(scene.fs.write_by(&CALLER, handle, b"1")), Some(Errno::ENODEV));
    assert_eq!(errno(scene.fs.read_by(&CALLER, handle, 0, &mut [0; 8])), Some(Errno::ENODEV));
    let id = scene.fs.attributes(ROOT_ID, None).unwrap().0.inode;
    assert_ne!(id, 0);
    let (attributes, _) = scene.fs.attributes(scene.id("/memory/memory.limit_in_bytes"), Some(handle)).unwrap();
    assert_eq!(attributes.mode & libc::S_IFMT, libc::S_IFREG, "an open file has attributes when its cgroup is gone");
    for (path, takes_long) in [
        ("/systemd/a/notify_on_release", false),
        ("/systemd/a/cgroup.procs", false),
        ("/unified/a/cgroup.procs", false),
        ("/unified/a/cgroup.subtree_control", true),
        ("/unified/a/pids.max", true),
    ] {
        let handle = scene.open(path, WRITE).unwrap();
        assert_eq!(scene.fs.transfer(&CALLER, handle).unwrap().takes_long(), takes_long, "{path}");
    }
}
