//! Lookup, attributes, symlinks, and the alias.

use std::ffi::OsStr;

use nix::errno::Errno;

use super::scene::{self, CALLER, CGROUPS, CPU, CPUSET, DELEGATED, SYSTEMD, Scene, UNIFIED, errno};
use crate::cgroup::{HierarchyKind, Setup};
use crate::fs::inode::ROOT_ID;
use crate::policy::Policy;
use crate::view::Shape;

/// Whether `path` is `above` or lies below it.
pub(super) fn is_within(path: &str, above: &str) -> bool {
    above == "/" || path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether the view shows a cgroup, or a file of it, written independently from the description of the shapes.
pub(super) fn is_shown(scene: &Scene, hierarchy: usize, cgroup: &str, file: Option<&str>) -> bool {
    let entry = &scene.view.hierarchies[hierarchy];
    match (scene.view.shape, &entry.delegated) {
        (Shape::Full, _) => true,
        (_, None) => cgroup == "/",
        (Shape::Rooted, Some(_)) => is_within(cgroup, DELEGATED),
        (Shape::HostPath, Some(_)) => {
            let on_the_way = is_within(DELEGATED, cgroup) && cgroup != DELEGATED;
            match file {
                None => on_the_way || is_within(cgroup, DELEGATED),
                Some(file) if on_the_way => match entry.kind {
                    HierarchyKind::Unified => {
                        ["cgroup.controllers", "cgroup.subtree_control", "cgroup.type", "memory.max", "pids.max"]
                            .contains(&file)
                    }
                    HierarchyKind::V1 { .. } => {
                        ["memory.limit_in_bytes", "cpuset.cpus"].contains(&file)
                            || cgroup == "/" && file == "cpu.shares"
                    }
                },
                Some(_) => is_within(cgroup, DELEGATED),
            }
        }
    }
}

/// Every cgroup and file of the host, with its hierarchy.
pub(super) fn objects(scene: &Scene) -> Vec<(usize, &'static str, Option<String>)> {
    let mut found = Vec::new();
    let state = scene.host.state.lock();
    for hierarchy in 0..scene.view.hierarchies.len() {
        for cgroup in CGROUPS {
            found.push((hierarchy, cgroup, None));
            let files = state.trees[hierarchy].iter().filter(|(inode, thing)| {
                let path = format!("{}/{}", cgroup.trim_end_matches('/'), thing.name.display());
                !thing.attributes.is_directory() && state.path(hierarchy, **inode) == path
            });
            found.extend(files.map(|(_, thing)| (hierarchy, cgroup, Some(thing.name.to_string_lossy().into_owned()))));
        }
    }
    found
}

pub(super) fn join(cgroup: &str, file: Option<&str>) -> String {
    match file {
        None => cgroup.to_owned(),
        Some(file) => format!("{}/{file}", cgroup.trim_end_matches('/')),
    }
}

#[test]
fn a_view_shows_what_its_shape_says() {
    for scene in scene::all() {
        let (mut shown, mut hidden) = (0, 0);
        for (hierarchy, cgroup, file) in objects(&scene) {
            let host = join(cgroup, file.as_deref());
            let expected = is_shown(&scene, hierarchy, cgroup, file.as_deref());
            let Some(path) = scene.shown(hierarchy, &host) else {
                assert!(!expected);
                hidden += 1;
                continue;
            };
            let found = scene.walk(&path);
            let about = format!("{} {path}: {found:?}", scene.name());
            if expected {
                let inode = scene.host.state.lock().find(hierarchy, &host).unwrap();
                assert_eq!(found.expect(&about).attributes.inode, inode, "{host}");
                shown += 1;
            } else {
                assert_eq!(errno(found), Some(Errno::ENOENT), "{about}");
                hidden += 1;
            }
        }
        assert!(shown > 10, "{}", scene.name());
        assert_eq!(hidden == 0, scene.view.shape == Shape::Full, "{}: {hidden} hidden", scene.name());
    }
}

#[test]
fn names_beside_the_hierarchies_do_not_exist() {
    for scene in scene::all().filter(|scene| scene.view.setup != Setup::Unified) {
        for name in ["freezer", "cgroup.procs", "lxc", "cpuset,cpu", ".", ""] {
            assert_eq!(errno(scene.fs.lookup(ROOT_ID, OsStr::new(name))), Some(Errno::ENOENT), "{name}");
        }
        for link in ["cpu", "cpuacct"] {
            let entry = scene.walk(&format!("/{link}")).unwrap();
            assert_eq!(entry.attributes.mode & libc::S_IFMT, libc::S_IFLNK);
            assert_eq!(scene.fs.link_target(entry.id).unwrap(), "cpu,cpuacct");
            assert_eq!(entry.attributes.size, 11);
        }
        assert_eq!(errno(scene.fs.link_target(scene.id("/memory"))), Some(Errno::EINVAL));
    }
}

#[test]
fn the_way_is_without_write_bits() {
    for scene in scene::all() {
        for (hierarchy, cgroup, file) in objects(&scene) {
            let host = join(cgroup, file.as_deref());
            if is_within(cgroup, DELEGATED) && hierarchy != CPUSET
                || !is_shown(&scene, hierarchy, cgroup, file.as_deref())
            {
                continue;
            }
            let path = scene.at(hierarchy, &host);
            let entry = scene.walk(&path).unwrap();
            assert_eq!(entry.attributes.mode & 0o222, 0, "{} {path}", scene.name());
            let (attributes, _) = scene.fs.attributes(entry.id, None).unwrap();
            assert_eq!(attributes.mode, entry.attributes.mode, "{path}");
        }
        assert_eq!(scene.fs.attributes(ROOT_ID, None).unwrap().0.mode & 0o222, {
            let root_is_boundary = scene.view.setup == Setup::Unified && scene.view.shape == Shape::Rooted;
            if root_is_boundary { 0o200 } else { 0 }
        });
    }
}

#[test]
fn the_alias_leads_to_the_subtree_through_nodes_of_its_own() {
    for policy in scene::POLICIES {
        let scene = Scene::new(Setup::Hybrid, Shape::Rooted, policy);
        for (hierarchy, directory) in [(UNIFIED, "unified"), (SYSTEMD, "systemd"), (CPU, "cpu,cpuacct")] {
            for below in ["", "/a", "/a/b", "/cgroup.procs"] {
                let main = scene.walk(&format!("/{directory}{below}")).unwrap();
                let alias = scene.walk(&format!("/{directory}{DELEGATED}{below}")).unwrap();
                assert_ne!(main.id, alias.id, "{directory}{below}");
                assert_eq!(main.attributes, alias.attributes, "{directory}{below}");
            }
            let step = scene.walk(&format!("/{directory}/lxc")).unwrap();
            assert_eq!(step.attributes.mode, libc::S_IFDIR | 0o555);
            let top = scene.id(&format!("/{directory}"));
            let names: Vec<_> = scene.list(top, 0).unwrap().into_iter().map(|entry| entry.name).collect();
            assert!(names.iter().any(|name| name == "a") && !names.iter().any(|name| name == "lxc"), "{names:?}");
            assert_eq!(scene.list(step.id, 0).unwrap().len(), 2, "a component of the alias shows nothing");
            for beside in ["/lxc/c10", "/lxc/cgroup.procs", "/lxc/c1/lxc/c1", "/other", "/lxc/c1/lxc"] {
                assert_eq!(errno(scene.walk(&format!("/{directory}{beside}"))), Some(Errno::ENOENT), "{beside}");
            }
            assert!(scene.host.state.lock().find(hierarchy, DELEGATED).is_some());
        }
        assert_eq!(errno(scene.walk("/cpuset/lxc")), Some(Errno::ENOENT), "no subtree, no alias");
    }
}

#[test]
fn a_real_cgroup_comes_before_the_alias() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    let alias = scene.id("/lxc");
    let made = scene.fs.make_directory(&CALLER, ROOT_ID, OsStr::new("lxc"), 0o755).unwrap();
    assert_ne!(made.id, alias);
    assert_eq!(scene.id("/lxc"), made.id);
    assert_eq!(errno(scene.walk("/lxc/c1")), Some(Errno::ENOENT), "the real one is empty");
    scene.fs.remove_directory(&CALLER, ROOT_ID, OsStr::new("lxc")).unwrap();
    assert_eq!(scene.id("/lxc"), alias);
}

#[test]
fn the_alias_cannot_be_removed_or_renamed() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Delegate);
    let lxc = scene.id("/lxc");
    scene.host.calls();
    for (parent, name) in [(ROOT_ID, "lxc"), (lxc, "c1")] {
        assert_eq!(errno(scene.fs.remove_directory(&CALLER, parent, OsStr::new(name))), Some(Errno::EACCES), "{name}");
        let renamed = scene.fs.rename(&CALLER, parent, OsStr::new(name), ROOT_ID, OsStr::new("mine"), 0);
        assert_eq!(errno(renamed), Some(Errno::EACCES), "{name}");
    }
    assert_eq!(errno(scene.fs.make_directory(&CALLER, lxc, OsStr::new("c2"), 0o755)), Some(Errno::EACCES));
    assert_eq!(scene.host.changes(), []);
}

#[test]
fn the_hosts_errors_come_through() {
    let scene = Scene::new(Setup::Hybrid, Shape::HostPath, Policy::Strict);
    let boundary = scene.id("/unified/lxc/c1");
    for fault in [Errno::EIO, Errno::ESTALE, Errno::ENOMEM, Errno::EACCES] {
        scene.host.fail("child", fault);
        assert_eq!(errno(scene.fs.lookup(boundary, OsStr::new("a"))), Some(fault));
        scene.host.fail("attributes", fault);
        assert_eq!(errno(scene.fs.attributes(boundary, None)), Some(fault));
        scene.host.fail("list", fault);
        assert_eq!(errno(scene.list(boundary, 0)), Some(fault));
    }
    assert!(scene.walk("/unified/lxc/c1/a").is_ok(), "an error isn't kept");
}

/// A view shows only the cgroups that it was made for.
#[test]
fn another_cgroup_in_the_boundarys_place_is_not_shown() {
    for scene in scene::all() {
        let path = scene.at(UNIFIED, DELEGATED);
        let held = scene.id(&path);
        {
            let mut state = scene.host.state.lock();
            state.remove(UNIFIED, DELEGATED);
            let above = state.find(UNIFIED, "/lxc").unwrap();
            let again = state.add(UNIFIED, above, OsStr::new("c1"), libc::S_IFDIR | 0o755);
            state.add(UNIFIED, again, OsStr::new("cgroup.procs"), libc::S_IFREG | 0o644);
        }
        scene.host.calls();
        let inside = [format!("{path}/cgroup.procs"), path.clone(), format!("{path}{DELEGATED}")];
        for path in inside.iter().filter(|path| path.as_str() != "/") {
            assert_eq!(errno(scene.walk(path)), Some(Errno::ENOENT), "{} {path}", scene.name());
        }
        assert_eq!(errno(scene.fs.make_directory(&CALLER, held, OsStr::new("x"), 0o755)), Some(Errno::ENOENT));
        assert_eq!(scene.host.changes(), [], "{}", scene.name());
    }
}
