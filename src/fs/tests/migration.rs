//! Migrations: the order of checks, both ends, users, and the writes.

use nix::errno::Errno;

use super::fake::{FakeProcess, root_credentials};
use super::scene::{CALLER, DELEGATED, MEMORY, SYSTEMD, Scene, UNIFIED, WRITE, errno, rule};
use super::tree::PidNs;
use crate::cgroup::Setup;
use crate::fs::host::Credentials;
use crate::fs::{Caller, FsResult, HandleId, Owner};
use crate::policy::Policy;
use crate::view::Shape;

const USER: Caller = Caller { tid: 8, uid: 1000, gid: 1000 };

fn user() -> Credentials {
    Credentials { owner: Owner { uid: 1000, gid: 1000 }, capabilities: 0, permitted: 0, ..root_credentials() }
}

/// The processes: 7 and 8 (callers) and 20 are in the subtree, 21 is outside, 22 has a thread outside, 23 is outside
/// the server's cgroup namespace, 24 is another user's, 25 is at the boundary.
fn scene(shape: Shape) -> Scene {
    let scene = Scene::new(Setup::Hybrid, shape, Policy::Delegate);
    let everywhere = |places: Vec<Option<&'static str>>, users| FakeProcess {
        places: [UNIFIED, MEMORY, SYSTEMD].into_iter().map(|hierarchy| (hierarchy, places.clone())).collect(),
        users,
        permitted: 1,
    };
    let mut state = scene.host.state.lock();
    state.processes = [
        (7, everywhere(vec![Some("/lxc/c1/a")], [0, 0])),
        (8, everywhere(vec![Some("/lxc/c1/a")], [1000, 1000])),
        (20, everywhere(vec![Some("/lxc/c1/a/b"), Some("/lxc/c1/a/b")], [1000, 0])),
        (21, everywhere(vec![Some("/lxc/c10")], [1000, 1000])),
        (22, everywhere(vec![Some("/lxc/c1/a"), Some("/lxc")], [1000, 1000])),
        (23, everywhere(vec![None], [1000, 1000])),
        (24, everywhere(vec![Some("/lxc/c1/a")], [1001, 1002])),
        (25, everywhere(vec![Some(DELEGATED)], [1000, 1000])),
    ]
    .into();
    state.credentials.insert(8, user());
    drop(state);
    scene
}

const LISTS: [(usize, &str); 6] = [
    (UNIFIED, "/unified/z/cgroup.procs"),
    (UNIFIED, "/unified/z/cgroup.threads"),
    (MEMORY, "/memory/z/cgroup.procs"),
    (MEMORY, "/memory/z/tasks"),
    (SYSTEMD, "/systemd/z/cgroup.procs"),
    (SYSTEMD, "/systemd/z/tasks"),
];

fn open(scene: &Scene, path: &str) -> HandleId {
    let handle = scene.open(path, WRITE).unwrap_or_else(|failure| panic!("{path}: {failure:?}"));
    scene.host.calls();
    handle
}

fn migrate(scene: &Scene, path: &str, data: &str) -> FsResult<usize> {
    let handle = open(scene, path);
    let written = scene.fs.write_by(&CALLER, handle, data.as_bytes());
    scene.fs.release(handle);
    written
}

/// Returns the numbers that were written to the host.
fn migrated(scene: &Scene) -> Vec<String> {
    scene.host.changes().into_iter().filter(|call| call.name == "migrate").map(|call| call.detail).collect()
}

#[test]
fn inside_to_inside() {
    let scene = scene(Shape::Rooted);
    for (_, path) in LISTS {
        for text in ["20", "20\n", "0x14", " 024 "] {
            assert_eq!(migrate(&scene, path, text), Ok(text.len()), "{path}");
            let nice = path.starts_with("/memory").then_some(true);
            assert_eq!(migrated(&scene), [format!("20 nice={nice:?}")], "{path}: a plain decimal number");
        }
        assert_eq!(migrate(&scene, path, "0\n"), Ok(2), "{path}");
        assert_eq!(migrated(&scene), ["caller 7"], "{path}");
        assert_eq!(migrate(&scene, path, "25"), Ok(2), "{path}: from the boundary");
    }
    for (hierarchy, path) in
        [(UNIFIED, "/unified/cgroup.procs"), (SYSTEMD, "/systemd/tasks"), (MEMORY, "/memory/tasks")]
    {
        assert_eq!(migrate(&scene, path, "20"), Ok(2), "{path}: to the boundary");
        assert_eq!(scene.host.changes()[0].hierarchy, hierarchy);
    }
}

#[test]
fn the_source_is_checked_before_the_number_is_written() {
    let scene = scene(Shape::Rooted);
    for (hierarchy, path) in LISTS {
        migrate(&scene, path, "20").unwrap();
        let calls = scene.host.calls();
        let at =
            |name: &str| calls.iter().position(|call| call.name == name).unwrap_or_else(|| panic!("{path}: no {name}"));
        assert!(at("pin") < at("places") && at("places") < at("migrate"), "{path}: {calls:?}");
        let whole = path.ends_with("cgroup.procs");
        let asked = &calls[at("places")];
        assert_eq!((asked.hierarchy, asked.detail.as_str()), (hierarchy, &*format!("20 whole={whole}")), "{path}");
        assert!(calls.iter().all(|call| call.name != "write"), "{path}: {calls:?}");
    }
}

#[test]
fn from_outside_nothing_is_migrated() {
    for shape in [Shape::Rooted, Shape::HostPath, Shape::Full] {
        let scene = scene(shape);
        for (hierarchy, path) in LISTS {
            let file = path.rsplit('/').next().unwrap();
            let path = scene.at(hierarchy, &format!("{DELEGATED}/z/{file}"));
            let single = !path.ends_with("cgroup.procs");
            for (number, rejected) in [("21", true), ("23", true), ("22", !single), ("20", false)] {
                let outcome = migrate(&scene, &path, number);
                let expected = if rejected { "source-outside-subtree" } else { "allowed" };
                assert_eq!(rule(&outcome), expected, "{} {path} {number}", scene.name());
                assert_eq!(migrated(&scene).is_empty(), rejected, "{path} {number}");
            }
        }
    }
}

#[test]
fn a_caller_outside_cannot_migrate_itself() {
    let scene = scene(Shape::Full);
    let outside = Caller { tid: 21, uid: 0, gid: 0 };
    for (hierarchy, file) in [(UNIFIED, "cgroup.procs"), (SYSTEMD, "tasks"), (MEMORY, "cgroup.procs")] {
        let path = scene.at(hierarchy, &format!("{DELEGATED}/z/{file}"));
        let handle = open(&scene, &path);
        let outcome = scene.fs.write_by(&outside, handle, b"0");
        assert_eq!(rule(&outcome), "source-outside-subtree", "{path}");
        assert_eq!(migrated(&scene), [""; 0]);
    }
}

#[test]
fn the_ladder_of_a_living_cgroup() {
    let scene = scene(Shape::Rooted);
    for (_, path) in LISTS {
        for (data, expected) in [
            ("1".repeat(4097), Some(Errno::E2BIG)),
            (" ".repeat(4096), Some(Errno::EINVAL)),
            (String::new(), None),
            ("no number".into(), Some(Errno::EINVAL)),
            ("-1".into(), Some(Errno::EINVAL)),
            ("20 21".into(), Some(Errno::EINVAL)),
            ("4711".into(), Some(Errno::ESRCH)),
            ("21".into(), Some(Errno::EACCES)),
        ] {
            let about = format!("{path}: {}", &data[..data.len().min(10)]);
            assert_eq!(errno(migrate(&scene, path, &data)), expected, "{about}");
            assert_eq!(migrated(&scene), [""; 0], "{about}");
        }
    }
}

/// Kernels differ in what they accept as a number: the host's kernel decides.
#[test]
fn forms_that_only_some_kernels_take() {
    use PidNs::{Int, Large, Simple};
    let by_20 = ["20"; 1].as_slice();
    let by_writer = ["0"; 1].as_slice();
    for (_, path) in LISTS {
        for (data, takes, by) in [
            ("20", [Simple, Large, Int].as_slice(), by_20),
            ("20\n", &[Simple, Large, Int], by_20),
            (" 20", &[Simple, Int], by_20),
            ("20 \n", &[Simple, Int], by_20),
            ("+20", &[Large, Int], by_20),
            ("+0\n", &[Large, Int], by_writer),
            ("-0", &[Int], by_writer),
            ("\n", &[Simple], by_writer),
            (" \t", &[Simple], by_writer),
            ("                   ", &[Simple], by_writer),
            ("0", &[Simple, Large, Int], by_writer),
            ("-20", &[], &[]),
            ("4294967316", &[], &[]),
        ] {
            for numbers in [Simple, Large, Int] {
                let scene = scene(Shape::Rooted);
                scene.host.state.lock().numbers = numbers;
                let is_taken = takes.contains(&numbers);
                // The view rejects a number that the kernel would take for another one.
                let loses_half = data.len() == 10 && numbers != Int;
                let expected = if is_taken {
                    None
                } else if loses_half {
                    Some(Errno::ESRCH)
                } else {
                    Some(Errno::EINVAL)
                };
                assert_eq!(errno(migrate(&scene, path, data)), expected, "{path} {data:?} {numbers:?}");
                let expected = if is_taken { by } else { &[] };
                assert_eq!(migrated(&scene).len(), expected.len(), "{path} {data:?} {numbers:?}");
            }
        }
        let scene = scene(Shape::Rooted);
        scene.host.state.lock().numbers = Simple;
        let outcome = |length: usize| errno(migrate(&scene, path, &format!("20{}", " ".repeat(length - 2))));
        assert_eq!((outcome(63), outcome(64)), (None, Some(Errno::E2BIG)), "{path}");
    }
}

#[test]
fn a_removed_cgroup_comes_first() {
    for (hierarchy, path) in LISTS {
        let scene = scene(Shape::Rooted);
        let handle = open(&scene, path);
        scene.host.state.lock().remove(hierarchy, &format!("{DELEGATED}/z"));
        for data in ["no number", "4711", "20", "0", "21"] {
            let outcome = scene.fs.write_by(&CALLER, handle, data.as_bytes());
            assert_eq!(errno(outcome), Some(Errno::ENODEV), "{path}: {data}");
        }
        assert_eq!(errno(scene.fs.write_by(&CALLER, handle, &[b'1'; 4097])), Some(Errno::E2BIG), "{path}");
    }
}

#[test]
fn errors_while_looking_for_the_process() {
    let scene = scene(Shape::Rooted);
    for (_, path) in LISTS {
        for (method, fault, expected) in [
            ("pin", Errno::ESRCH, Errno::ESRCH),
            ("pin", Errno::EACCES, Errno::EACCES),
            ("pin", Errno::EMFILE, Errno::EMFILE),
            ("places", Errno::ESRCH, Errno::ESRCH),
            ("places", Errno::EIO, Errno::EIO),
            ("migrate", Errno::EBUSY, Errno::EBUSY),
            ("migrate", Errno::ESRCH, Errno::ESRCH),
            ("migrate", Errno::EOPNOTSUPP, Errno::EOPNOTSUPP),
        ] {
            scene.host.fail(method, fault);
            assert_eq!(errno(migrate(&scene, path, "20")), Some(expected), "{path} {method} {fault}");
            assert!(method == "migrate" || migrated(&scene).is_empty(), "{path} {method} {fault}");
            scene.host.calls();
        }
    }
}

/// `__cgroup1_procs_write`: the opener is root, or the real or saved user of the process.
#[test]
fn the_user_rule_of_v1() {
    let scene = scene(Shape::Rooted);
    for path in ["/memory/z/cgroup.procs", "/memory/z/tasks", "/systemd/z/cgroup.procs", "/systemd/z/tasks"] {
        let id = scene.id(path);
        let by_user = scene.fs.open(&USER, id, WRITE, false).unwrap();
        for writer in [CALLER, USER] {
            assert_eq!(rule(&scene.fs.write_by(&writer, by_user, b"24")), "anothers-process", "{path}: as {writer:?}");
            assert_eq!(rule(&scene.fs.write_by(&writer, by_user, b"20")), "allowed", "{path}: as {writer:?}");
        }
        assert_eq!(rule(&scene.fs.write_by(&USER, by_user, b"0")), "allowed", "{path}");
        assert_eq!(rule(&scene.fs.write_by(&CALLER, by_user, b"0")), "anothers-process", "{path}: root's own");
        let by_root = scene.fs.open(&CALLER, id, WRITE, false).unwrap();
        for writer in [CALLER, USER] {
            assert_eq!(rule(&scene.fs.write_by(&writer, by_root, b"24")), "allowed", "{path}: as {writer:?}");
        }
        // The check of the cgroup precedes the check of the user.
        assert_eq!(rule(&scene.fs.write_by(&USER, by_user, b"21")), "source-outside-subtree", "{path}");
    }
}

/// `cgroup_procs_write_permission`: the opener must be able to write `cgroup.procs` of the nearest common ancestor.
#[test]
fn the_common_ancestor_of_v2() {
    let scene = scene(Shape::Rooted);
    {
        let mut state = scene.host.state.lock();
        for list in
            ["/lxc/c1/a/b/cgroup.procs", "/lxc/c1/a/cgroup.procs", "/lxc/c1/z/cgroup.procs", "/lxc/c1/z/cgroup.threads"]
        {
            state.thing(UNIFIED, list).attributes.uid = 1000;
        }
    }
    // 20 is in a/b. The common ancestor with `a` is `a`, and with `z` it's the boundary.
    for (path, allowed) in
        [("/unified/a/cgroup.procs", true), ("/unified/z/cgroup.procs", false), ("/unified/z/cgroup.threads", false)]
    {
        let handle = scene.fs.open(&USER, scene.id(path), WRITE, false).unwrap();
        for writer in [CALLER, USER] {
            scene.host.calls();
            let outcome = scene.fs.write_by(&writer, handle, b"20");
            assert_eq!(rule(&outcome), if allowed { "allowed" } else { "common-ancestor" }, "{path}: as {writer:?}");
            let calls = scene.host.calls();
            let asked = calls.iter().find(|call| call.name == "procs_attributes").map(|call| call.detail.as_str());
            assert_eq!(asked, Some(if allowed { "/lxc/c1/a" } else { DELEGATED }), "{path}");
            assert_eq!(calls.iter().any(|call| call.name == "migrate"), allowed, "{path}");
        }
    }
    // A group, a mode for all, and a capability over the owner suffice as well.
    let path = "/unified/z/cgroup.procs";
    type Grant = fn(&mut Scene);
    let rights: [(&str, Grant); 3] = [
        ("group", |scene| {
            let mut state = scene.host.state.lock();
            let procs = &mut state.thing(UNIFIED, "/lxc/c1/cgroup.procs").attributes;
            (procs.gid, procs.mode) = (55, libc::S_IFREG | 0o664);
            state.credentials.get_mut(&8).unwrap().groups = vec![3, 55];
        }),
        ("others", |scene| {
            scene.host.state.lock().thing(UNIFIED, "/lxc/c1/cgroup.procs").attributes.mode = libc::S_IFREG | 0o646;
        }),
        ("capability", |scene| {
            scene.host.state.lock().credentials.get_mut(&8).unwrap().capabilities = 1 << 1;
        }),
    ];
    for (about, grant) in rights {
        let mut scene = self::scene(Shape::Rooted);
        let id = scene.id(path);
        let handle = scene.fs.open(&USER, id, WRITE, false).unwrap();
        assert_eq!(rule(&scene.fs.write_by(&USER, handle, b"20")), "common-ancestor", "{about}");
        grant(&mut scene);
        let handle = scene.fs.open(&USER, id, WRITE, false).unwrap();
        assert_eq!(rule(&scene.fs.write_by(&USER, handle, b"20")), "allowed", "{about}");
    }
}

#[test]
fn a_capability_of_another_user_namespace_counts_only_over_mapped_owners() {
    let scene = scene(Shape::Rooted);
    let map = |outside: u32| crate::cgroup::IdMap::parse(&format!("0 {outside} 1000"));
    let mut rights = user();
    rights.capabilities = u64::MAX;
    rights.id_maps = Some((map(100_000), map(100_000)));
    scene.host.state.lock().credentials.insert(8, rights);
    let handle = scene.fs.open(&USER, scene.id("/unified/z/cgroup.procs"), WRITE, false).unwrap();
    assert_eq!(rule(&scene.fs.write_by(&USER, handle, b"20")), "common-ancestor");
    for (uid, gid, allowed) in [(100_000, 0, false), (100_000, 100_999, true), (101_000, 100_000, false)] {
        {
            let mut state = scene.host.state.lock();
            let procs = &mut state.thing(UNIFIED, "/lxc/c1/cgroup.procs").attributes;
            (procs.uid, procs.gid) = (uid, gid);
        }
        let outcome = scene.fs.write_by(&USER, handle, b"20");
        assert_eq!(rule(&outcome), if allowed { "allowed" } else { "common-ancestor" }, "{uid}:{gid}");
    }
}

#[test]
fn nice_is_the_writers() {
    let scene = scene(Shape::Rooted);
    let handle = open(&scene, "/memory/z/tasks");
    // The writer has CAP_SYS_NICE, or the process has no more rights than the writer.
    for (capabilities, permitted, expected) in [
        (0, 0, "20 nice=Some(false)"),
        (1 << 23, 0, "20 nice=Some(true)"),
        (!(1 << 23), 2, "20 nice=Some(false)"),
        (0, 3, "20 nice=Some(true)"),
    ] {
        let writer = Credentials { capabilities, permitted, ..root_credentials() };
        scene.host.state.lock().credentials.insert(7, writer);
        scene.fs.write_by(&CALLER, handle, b"20").unwrap();
        assert_eq!(migrated(&scene), [expected]);
    }
    // A capability in the writer's own user namespace doesn't apply to the host's processes.
    let map = || crate::cgroup::IdMap::parse("0 0 65536");
    let in_a_namespace =
        Credentials { id_maps: Some((map(), map())), capabilities: 1 << 23, permitted: 1 << 23, ..root_credentials() };
    scene.host.state.lock().credentials.insert(7, in_a_namespace);
    for (user, expected) in [(0, "20 nice=Some(false)"), (100_000, "20 nice=Some(true)")] {
        scene.host.state.lock().processes.get_mut(&20).unwrap().users = [user; 2];
        scene.fs.write_by(&CALLER, handle, b"20").unwrap();
        assert_eq!(migrated(&scene), [expected], "{user}");
    }
}

#[test]
fn who_leaves_right_before_the_write_stays_out() {
    for checks_both_ends in [false, true] {
        let scene = scene(Shape::Rooted);
        scene.host.state.lock().checks_both_ends = checks_both_ends;
        for (hierarchy, path) in LISTS {
            // The process is migrated to another cgroup inside, where it's found, and then to one outside.
            scene.host.state.lock().leaves = vec![(20, hierarchy, "/lxc/c10"), (20, hierarchy, "/lxc/c1/elsewhere")];
            let outcome = migrate(&scene, path, "20");
            assert_eq!(rule(&outcome), "source-outside-subtree", "{path}, {checks_both_ends}");
            assert!(scene.host.state.lock().settled.is_empty(), "{path}");
            scene.host.state.lock().processes.get_mut(&20).unwrap().places.insert(hierarchy, vec![Some("/lxc/c1/a")]);
            assert_eq!(migrate(&scene, path, "20"), Ok(2), "{path}");
            let settled = std::mem::take(&mut scene.host.state.lock().settled);
            let expected: &[i32] = if checks_both_ends { &[] } else { &[20] };
            assert_eq!(settled, expected, "{path}: others are noted where the kernel doesn't check");
        }
    }
}
