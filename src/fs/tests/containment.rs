//! No sequence of operations changes anything outside the delegated subtree.

use std::ffi::OsString;

use nix::errno::Errno;
use proptest::prelude::*;

use super::access::with_process;
use super::fake::Call;
use super::lookup::is_within;
use super::scene::{self, CALLER, DELEGATED, Scene};
use crate::cgroup::{HierarchyClass, Setup};
use crate::fs::inode::{NodeId, ROOT_ID};
use crate::fs::{OpenMode, SetAttr};
use crate::policy::{Operation, Policy};

/// One operation on a node that an earlier step found.
#[derive(Clone, Debug)]
enum Step {
    Lookup(usize, OsString),
    Mkdir(usize, OsString),
    Rmdir(usize, OsString),
    Rename(usize, OsString, usize, OsString),
    Write(usize, Vec<u8>),
    HostEvent(usize),
    Truncate(usize),
    Xattr(usize),
    Node(usize),
    List(usize),
    Forget(usize),
    /// A removal or a failure on the host.
    HostRemoves(usize),
    HostFails(usize),
}

/// Names: existing ones, hidden ones, and some that no directory has.
fn names() -> impl Strategy<Value = OsString> {
    let known = [
        "lxc",
        "c1",
        "c10",
        "a",
        "b",
        "z",
        "secret",
        "other",
        "unified",
        "memory",
        "cpu",
        "systemd",
        "elogind",
        "cpuset",
        "cgroup.procs",
        "tasks",
        "memory.max",
        "memory.limit_in_bytes",
        "cgroup.subtree_control",
        "release_agent",
        "notify_on_release",
        "new",
        "..",
        ".",
        "",
        "../c10",
        "c1/../c10",
        "a\0b",
    ];
    prop_oneof![
        9 => prop::sample::select(known.to_vec()).prop_map(OsString::from),
        1 => prop::collection::vec(any::<u8>(), 0..5).prop_map(std::os::unix::ffi::OsStringExt::from_vec),
    ]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let known: [&[u8]; 8] = [b"42", b"43", b"0", b"-1", b"", b"+memory", b"0x2a\n", b"4711"];
    prop::sample::select(known.to_vec()).prop_map(<[u8]>::to_vec)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0usize..1000;
    let step = prop_oneof![
        12 => (node(), names()).prop_map(|(node, name)| Step::Lookup(node, name)),
        3 => (node(), names()).prop_map(|(node, name)| Step::Mkdir(node, name)),
        3 => (node(), names()).prop_map(|(node, name)| Step::Rmdir(node, name)),
        3 => (node(), names(), node(), names()).prop_map(|(from, name, to, new)| Step::Rename(from, name, to, new)),
        6 => (node(), data()).prop_map(|(node, data)| Step::Write(node, data)),
        2 => node().prop_map(Step::HostEvent),
        1 => node().prop_map(Step::Truncate),
        2 => node().prop_map(Step::Xattr),
        1 => node().prop_map(Step::Node),
        1 => node().prop_map(Step::List),
        1 => node().prop_map(Step::Forget),
        1 => node().prop_map(Step::HostRemoves),
        1 => node().prop_map(Step::HostFails),
    ];
    prop::collection::vec(step, 1..80)
}

/// Runs a step. Only its effects on the host matter, not whether it succeeds.
fn take(scene: &Scene, nodes: &mut Vec<NodeId>, step: &Step) {
    let node = |number: &usize| nodes[number % nodes.len()];
    let fs = &scene.fs;
    let found = match step {
        Step::Lookup(at, name) => fs.lookup(node(at), name).ok(),
        Step::Mkdir(at, name) => fs.make_directory(&CALLER, node(at), name, 0o755).ok(),
        Step::Rmdir(at, name) => fs.remove_directory(&CALLER, node(at), name).err().and(None),
        Step::Rename(at, name, to, new) => fs.rename(&CALLER, node(at), name, node(to), new, 0).err().and(None),
        Step::Write(at, data) => {
            let mode = OpenMode { read: true, write: true, truncate: true };
            if let Ok(handle) = fs.open(&CALLER, node(at), mode, false) {
                drop(fs.write_by(&CALLER, handle, data));
                fs.release(handle);
            }
            None
        }
        Step::HostEvent(at) => {
            let changes = SetAttr { mode: Some(0o777), uid: Some(1), ..SetAttr::default() };
            fs.set_attributes(&CALLER, node(at), &changes, false).err().and(None)
        }
        Step::Truncate(at) => fs.set_attributes(&CALLER, node(at), &SetAttr::default(), true).err().and(None),
        Step::Xattr(at) => {
            drop(fs.set_xattr(&CALLER, node(at), "user.x".as_ref(), b"1", 0));
            fs.remove_xattr(&CALLER, node(at), "user.x".as_ref()).err().and(None)
        }
        Step::Node(at) => {
            assert!(matches!(fs.make_node(node(at), Operation::MakeNode).errno(), Errno::EPERM | Errno::ESTALE));
            assert!(matches!(fs.make_node(node(at), Operation::CreateFile).errno(), Errno::EACCES | Errno::ESTALE));
            None
        }
        Step::List(at) => {
            drop(fs.open_directory(node(at)));
            drop(scene.list(node(at), 0));
            None
        }
        Step::Forget(at) => {
            fs.forget(node(at), 1);
            None
        }
        Step::HostRemoves(at) => {
            let cgroup = scene::CGROUPS[1..][at % (scene::CGROUPS.len() - 1)];
            let hierarchy = at % scene.view.hierarchies.len();
            let mut state = scene.host.state.lock();
            if at % 7 == 0 && state.find(hierarchy, cgroup).is_some() {
                state.remove(hierarchy, cgroup);
            }
            None
        }
        Step::HostFails(at) => {
            let methods =
                ["child", "attributes", "open", "list", "places", "pin", "write", "migrate", "make_directory"];
            let errnos = [Errno::ENOENT, Errno::ESTALE, Errno::EBUSY, Errno::EIO, Errno::ESRCH];
            scene.host.fail(methods[at % methods.len()], errnos[at % errnos.len()]);
            None
        }
    };
    nodes.extend(found.map(|entry| entry.id));
}

/// Whether the view may make this call to the host.
fn is_contained(scene: &Scene, call: &Call) -> bool {
    let entry = &scene.view.hierarchies[call.hierarchy];
    let read_only = entry.kind.class() == HierarchyClass::V1Controllers && scene.view.rules.policy == Policy::Strict;
    // Process 43 is outside the subtree.
    let foreign = call.name == "migrate" && call.detail.starts_with("43");
    let faces_host = ["release_agent", "cgroup.event_control", "odd"].iter().any(|name| call.path.ends_with(name));
    // A cgroup may have such a name.
    let never = call.name == "write" && faces_host;
    entry.delegated.is_some() && is_within(&call.path, DELEGATED) && !read_only && !foreign && !never
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_changes(
        setup in prop::sample::select(vec![Setup::Hybrid, Setup::Unified, Setup::Legacy]),
        shape in prop::sample::select(scene::SHAPES.to_vec()),
        policy in prop::sample::select(scene::POLICIES.to_vec()),
        steps in steps(),
    ) {
        let scene = with_process(with_process(Scene::new(setup, shape, policy), 42), 7);
        let places = (0..scene.view.hierarchies.len()).map(|hierarchy| (hierarchy, vec![Some("/lxc/c10")])).collect();
        scene.host.state.lock().processes.insert(43, super::fake::FakeProcess { places, ..Default::default() });
        // Start with some nodes, including those at the boundary.
        let mut nodes = vec![ROOT_ID];
        for hierarchy in 0..scene.view.hierarchies.len() {
            for path in ["/", "/lxc", DELEGATED, "/lxc/c1/a", "/lxc/c1/cgroup.procs", "/lxc/c1/a/tasks", "/lxc/c10", "/lxc/c10/cgroup.procs"] {
                let found = scene.shown(hierarchy, path).and_then(|path| scene.walk(&path).ok());
                nodes.extend(found.map(|entry| entry.id));
            }
        }
        scene.host.calls();
        for step in &steps {
            take(&scene, &mut nodes, step);
            for call in scene.host.changes() {
                prop_assert!(is_contained(&scene, &call), "{}: {step:?}: {call:?}", scene.name());
            }
        }
        prop_assert_eq!((scene.fs.open_handles(), scene.host.state.lock().open), (0, 0));
    }
}

#[test]
fn the_check_can_fail() {
    let scene = Scene::new(Setup::Hybrid, crate::view::Shape::Full, Policy::Strict);
    let call =
        |hierarchy, path: &str| Call { name: "write", hierarchy, path: path.into(), detail: "1".into(), changes: true };
    for (hierarchy, path, contained) in [
        (scene::UNIFIED, "/lxc/c1/a/cgroup.type", true),
        (scene::UNIFIED, "/lxc/c10", false),
        (scene::UNIFIED, "/lxc", false),
        (scene::MEMORY, "/lxc/c1/tasks", false),
        (scene::CPUSET, "/tasks", false),
        (scene::SYSTEMD, "/lxc/c1/release_agent", false),
    ] {
        assert_eq!(is_contained(&scene, &call(hierarchy, path)), contained, "{path}");
    }
}
