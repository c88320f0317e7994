//! mkdir, rmdir, rename, attributes, and operations that a cgroupfs doesn't have.

use std::ffi::OsStr;

use nix::errno::Errno;

use super::lookup::{is_shown, is_within, objects};
use super::scene::{self, CALLER, DELEGATED, READ, Scene, UNIFIED, errno, rule};
use crate::cgroup::{HierarchyClass, Setup};
use crate::fs::inode::ROOT_ID;
use crate::fs::{Caller, FsResult, SetAttr, SetTime};
use crate::policy::{Operation, Policy};
use crate::view::Shape;

/// Whether the hierarchy is cgroup2, where the kernel has no rename.
fn is_unified(scene: &Scene, hierarchy: usize) -> bool {
    scene.view.hierarchies[hierarchy].kind.class() == HierarchyClass::Unified
}

/// Whether cgroups can be made and removed in this cgroup.
fn is_changeable(scene: &Scene, hierarchy: usize, cgroup: &str) -> bool {
    let entry = &scene.view.hierarchies[hierarchy];
    let read_only = entry.kind.class() == HierarchyClass::V1Controllers && scene.view.rules.policy == Policy::Strict;
    entry.delegated.is_some() && is_within(cgroup, DELEGATED) && !read_only
}

#[test]
fn cgroups_are_made_inside_only() {
    for scene in scene::all() {
        let mut made = 0;
        for (hierarchy, cgroup, _) in objects(&scene).into_iter().filter(|(.., file)| file.is_none()) {
            if !is_shown(&scene, hierarchy, cgroup, None) {
                continue;
            }
            let parent = scene.id(&scene.at(hierarchy, cgroup));
            let user = Caller { tid: 9, uid: 1000, gid: 1001 };
            scene.host.calls();
            let outcome = scene.fs.make_directory(&user, parent, OsStr::new("new"), 0o750);
            let about = format!("{} {hierarchy}:{cgroup}: {outcome:?}", scene.name());
            if is_changeable(&scene, hierarchy, cgroup) {
                let attributes = outcome.expect(&about).attributes;
                assert_eq!(
                    (attributes.mode, attributes.uid, attributes.gid),
                    (libc::S_IFDIR | 0o750, 1000, 1001),
                    "{about}"
                );
                let changes = scene.host.changes();
                assert_eq!((changes.len(), changes[0].path.as_str()), (1, cgroup), "{about}");
                let again = scene.fs.make_directory(&user, parent, OsStr::new("new"), 0o750);
                assert_eq!(errno(again), Some(Errno::EEXIST));
                assert_eq!(scene.fs.remove_directory(&CALLER, parent, OsStr::new("new")), Ok(()), "{about}");
                made += 1;
            } else {
                assert_eq!(errno(outcome), Some(Errno::EACCES), "{about}");
                assert_eq!(scene.host.changes(), [], "{about}");
            }
        }
        assert!(made > 3, "{}: {made}", scene.name());
    }
}

#[test]
fn cgroups_are_removed_and_renamed_below_the_boundary_only() {
    for scene in scene::all() {
        for (hierarchy, cgroup, _) in objects(&scene).into_iter().filter(|(.., file)| file.is_none()) {
            let Some((above, name)) = cgroup.rsplit_once('/').filter(|(_, name)| !name.is_empty()) else { continue };
            let above = if above.is_empty() { "/" } else { above };
            if !is_shown(&scene, hierarchy, above, None) {
                continue;
            }
            let parent = scene.id(&scene.at(hierarchy, above));
            let name = OsStr::new(name);
            scene.host.calls();
            // The host refuses to remove a cgroup with children.
            scene.host.fail("remove_directory", Errno::EBUSY);
            let removed = scene.fs.remove_directory(&CALLER, parent, name);
            scene.host.fail("rename", Errno::ENOSPC);
            let renamed = scene.fs.rename(&CALLER, parent, name, parent, OsStr::new("renamed"), 0);
            scene.host.state.lock().faults.clear();
            let about = format!("{} {hierarchy}:{cgroup}: {removed:?} {renamed:?}", scene.name());
            let tried = scene.host.changes();
            let controllers = scene.view.hierarchies[hierarchy].kind.class() == HierarchyClass::V1Controllers;
            let kernels = |v1| if is_unified(&scene, hierarchy) { Errno::EPERM } else { v1 };
            let expected = if !is_shown(&scene, hierarchy, cgroup, None) {
                [Errno::ENOENT; 2]
            } else if cgroup == DELEGATED || !is_changeable(&scene, hierarchy, cgroup) {
                [Errno::EACCES; 2]
            } else {
                [Errno::EBUSY, if controllers { Errno::EACCES } else { kernels(Errno::ENOSPC) }]
            };
            assert_eq!([errno(removed), errno(renamed)], expected.map(Some), "{about}");
            assert_eq!(tried.is_empty(), !expected.contains(&Errno::EBUSY), "{about}");
        }
    }
}

#[test]
fn files_are_neither_removed_nor_renamed() {
    for scene in scene::all() {
        for (hierarchy, cgroup, file) in objects(&scene) {
            let Some(file) = file.filter(|file| is_shown(&scene, hierarchy, cgroup, Some(file))) else { continue };
            let parent = scene.id(&scene.at(hierarchy, cgroup));
            let file = OsStr::new(&file);
            scene.host.calls();
            assert_eq!(errno(scene.fs.remove_directory(&CALLER, parent, file)), Some(Errno::ENOTDIR));
            let inside = is_changeable(&scene, hierarchy, cgroup);
            assert_eq!(scene.host.changes().is_empty(), !inside, "inside, the host decides");
            let renamed = errno(scene.fs.rename(&CALLER, parent, file, parent, OsStr::new("x"), 0));
            let kernels = if is_unified(&scene, hierarchy) { Errno::EPERM } else { Errno::ENOTDIR };
            assert_eq!(
                renamed,
                Some(if inside { kernels } else { Errno::EACCES }),
                "{} {cgroup} {file:?}",
                scene.name()
            );
            assert_eq!(scene.host.changes().is_empty(), !inside);
        }
    }
}

#[test]
fn renames() {
    let scene = Scene::new(Setup::Hybrid, Shape::HostPath, Policy::Delegate);
    let systemd = scene.id("/systemd/lxc/c1");
    let below = scene.id("/systemd/lxc/c1/a");
    let unified = scene.id("/unified/lxc/c1");
    let outside = scene.id("/systemd/lxc");
    let rename =
        |from, to, new: &str, flags| scene.fs.rename(&CALLER, from, OsStr::new("a"), to, OsStr::new(new), flags);
    scene.host.calls();
    assert_eq!(errno(rename(systemd, unified, "b", 0)), Some(Errno::EXDEV));
    assert_eq!(errno(rename(systemd, systemd, "b", libc::RENAME_NOREPLACE)), Some(Errno::EINVAL));
    assert_eq!(errno(rename(systemd, systemd, "z", libc::RENAME_EXCHANGE)), Some(Errno::EINVAL));
    assert_eq!(rule(&rename(systemd, outside, "b", 0)), "outside-subtree");
    assert_eq!(errno(rename(systemd, scene.id("/memory/lxc"), "b", 0)), Some(Errno::EACCES), "the policy comes first");
    assert_eq!(
        errno(scene.fs.rename(&CALLER, systemd, OsStr::new("none"), systemd, OsStr::new("b"), 0)),
        Some(Errno::ENOENT)
    );
    assert_eq!(scene.host.changes(), []);
    assert_eq!(errno(rename(systemd, systemd, "z", 0)), Some(Errno::EEXIST), "the host's answer");
    assert_eq!(rename(systemd, systemd, "b", 0), Ok(()));
    assert_eq!(errno(scene.fs.lookup(systemd, OsStr::new("a"))), Some(Errno::ENOENT));
    assert_eq!(scene.fs.lookup(systemd, OsStr::new("b")).unwrap().id, below);
    assert_eq!(scene.fs.node(below).unwrap().view_path(), "/systemd/lxc/c1/b", "the known node knows its new name");
    assert_eq!(scene.id("/systemd/lxc/c1/b/b"), scene.fs.lookup(below, OsStr::new("b")).unwrap().id);
    // A rename between the two entry paths stays within one hierarchy, so the host decides.
    let rooted = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    let (main, alias) = (rooted.id("/systemd"), rooted.id("/systemd/lxc/c1"));
    assert_eq!(rooted.fs.rename(&CALLER, main, OsStr::new("a"), alias, OsStr::new("b"), 0), Ok(()));
    assert!(rooted.walk("/systemd/b").is_ok() && rooted.walk("/systemd/lxc/c1/b").is_ok());
}

#[test]
fn a_cgroup_that_vanishes_while_it_is_made() {
    let scene = Scene::new(Setup::Unified, Shape::Rooted, Policy::Strict);
    for fault in [Errno::EAGAIN, Errno::ENOSPC, Errno::ENODEV, Errno::ENOENT] {
        scene.host.fail("make_directory", fault);
        assert_eq!(errno(scene.fs.make_directory(&CALLER, ROOT_ID, OsStr::new("y"), 0o755)), Some(fault));
    }
    assert_eq!(scene.fs.known_nodes(), 0, "a failed operation leaves no node");
    let gone = scene.id("/a");
    scene.host.state.lock().remove(UNIFIED, "/lxc/c1/a");
    assert_eq!(errno(scene.fs.make_directory(&CALLER, gone, OsStr::new("x"), 0o755)), Some(Errno::ENOENT));
    assert_eq!(errno(scene.fs.remove_directory(&CALLER, ROOT_ID, OsStr::new("a"))), Some(Errno::ENOENT));
    assert!(scene.fs.attributes(gone, None).unwrap().0.is_directory(), "an open directory keeps its attributes");
    let changes = SetAttr { mode: Some(0o700), uid: Some(7), ..Default::default() };
    let (changed, _) = scene.fs.set_attributes(&CALLER, gone, &changes, false).unwrap();
    assert_eq!((changed.mode, changed.uid, changed.links), (libc::S_IFDIR | 0o700, 7, 2), "and they can be changed");
    assert_eq!(scene.fs.attributes(gone, None).unwrap().0.mode, changed.mode);
}

#[test]
fn what_a_cgroupfs_does_not_have() {
    for scene in scene::all() {
        for path in ["/", &scene.at(scene.view.hierarchies.len().min(UNIFIED + 1) - 1, "/lxc/c1/a")] {
            let id = scene.id(path);
            assert_eq!(scene.fs.make_node(id, Operation::MakeNode).errno(), Errno::EPERM, "{path}");
            assert_eq!(scene.fs.make_node(id, Operation::CreateFile).errno(), Errno::EACCES, "{path}");
        }
        assert_eq!(scene.host.changes(), []);
    }
}

#[test]
fn attributes_change_where_content_may() {
    for scene in scene::all() {
        for (hierarchy, cgroup, file) in objects(&scene) {
            if !is_shown(&scene, hierarchy, cgroup, file.as_deref()) {
                continue;
            }
            let path = scene.at(hierarchy, &super::lookup::join(cgroup, file.as_deref()));
            let entry = scene.walk(&path).unwrap();
            let id = entry.id;
            // A file without write bits can't be changed either.
            let is_kept = cgroup == DELEGATED && scene.view.rules.policy == Policy::Strict;
            let in_subtree = is_changeable(&scene, hierarchy, cgroup) && !is_kept;
            let allowed = match &file {
                None => in_subtree,
                Some(_) => entry.attributes.mode & 0o222 != 0 && !is_kept,
            };
            scene.host.calls();
            let outcomes: [FsResult<()>; 4] = [
                scene
                    .fs
                    .set_attributes(&CALLER, id, &SetAttr { mode: Some(0o700), ..SetAttr::default() }, false)
                    .map(drop),
                scene.fs.set_attributes(&CALLER, id, &SetAttr { uid: Some(5), ..SetAttr::default() }, false).map(drop),
                scene.fs.set_attributes(&CALLER, id, &SetAttr { gid: Some(5), ..SetAttr::default() }, false).map(drop),
                scene
                    .fs
                    .set_attributes(
                        &CALLER,
                        id,
                        &SetAttr { modification: Some(SetTime::Now), ..SetAttr::default() },
                        false,
                    )
                    .map(drop),
            ];
            let changes = scene.host.changes();
            let about = format!("{} {path}: {outcomes:?}", scene.name());
            if allowed {
                assert!(outcomes.iter().all(Result::is_ok), "{about}");
                assert_eq!(changes.len(), 4, "{about}");
                let (now, _) = scene.fs.attributes(id, None).unwrap();
                assert_eq!((now.mode & 0o7777, now.uid, now.gid), (0o700, 5, 5), "{about}");
            } else {
                assert!(outcomes.into_iter().all(|outcome| errno(outcome) == Some(Errno::EACCES)), "{about}");
                assert_eq!(changes, [], "{about}");
            }
            let set = errno(scene.fs.set_xattr(&CALLER, id, OsStr::new("user.x"), b"1", 0));
            let removed = errno(scene.fs.remove_xattr(&CALLER, id, OsStr::new("user.x")));
            let expected = match (in_subtree, &file) {
                (false, _) => Some(Errno::EACCES),
                (true, Some(_)) => Some(Errno::EOPNOTSUPP),
                (true, None) => None,
            };
            assert_eq!((set, removed), (expected, expected), "{about}");
            assert_eq!(scene.host.changes().len(), if expected.is_none() { 2 } else { 0 }, "{about}");
        }
    }
}

#[test]
fn truncation_is_a_write_that_does_nothing() {
    let scene = Scene::new(Setup::Unified, Shape::HostPath, Policy::Strict);
    scene.host.calls();
    for (path, expected) in [
        ("/lxc/c1/a/cgroup.type", "allowed"),
        ("/lxc/c1/a/memory.max", "controller-file"),
        ("/lxc/cgroup.type", "outside-subtree"),
        ("/lxc/c1/cgroup.type", "not-delegatable"),
    ] {
        let outcome = scene.fs.set_attributes(&CALLER, scene.id(path), &SetAttr::default(), true);
        assert_eq!(rule(&outcome), expected, "{path}");
    }
    assert_eq!(scene.host.changes(), []);
}

#[test]
fn a_removed_cgroup_has_no_xattrs_left_and_they_count_no_more() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    let parent = scene.id("/unified");
    for (name, xattrs) in [("plain", &[][..]), ("marked", &["user.x", "user.y"])] {
        let made = scene.fs.make_directory(&CALLER, parent, OsStr::new(name), 0o755).unwrap().id;
        for xattr in xattrs {
            scene.fs.set_xattr(&CALLER, made, OsStr::new(xattr), b"1", 0).unwrap();
        }
        scene.host.calls();
        scene.fs.remove_directory(&CALLER, parent, OsStr::new(name)).unwrap();
        let calls: Vec<_> = scene.host.changes().iter().map(|call| call.name).collect();
        assert_eq!(calls.len(), 1 + xattrs.len(), "{calls:?}");
        assert!(calls[0] == "remove_directory" && calls[1..].iter().all(|name| *name == "clear_xattr"), "{calls:?}");
        assert!(scene.fs.xattrs.is_empty() && scene.host.state.lock().open == 0);
    }
}

#[test]
fn xattrs_and_their_reader() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict);
    let boundary = scene.id("/unified");
    assert_eq!(scene.fs.xattrs(&CALLER, boundary).unwrap(), b"trusted.x\0");
    assert_eq!(errno(scene.fs.xattr(boundary, OsStr::new("user.y"))), Some(Errno::ENODATA));
    for synthetic in [ROOT_ID, scene.id("/cpu"), scene.id("/unified/lxc")] {
        assert_eq!(scene.fs.xattrs(&CALLER, synthetic).unwrap(), b"");
        assert_eq!(errno(scene.fs.xattr(synthetic, OsStr::new("user.y"))), Some(Errno::EOPNOTSUPP));
        assert_eq!(errno(scene.fs.set_xattr(&CALLER, synthetic, OsStr::new("user.y"), b"", 0)), Some(Errno::EACCES));
    }
    let nobody = Caller { tid: 0, uid: 0, gid: 0 };
    assert_eq!(rule(&scene.fs.xattrs(&nobody, boundary)), "caller-invisible");
    assert_eq!(scene.fs.statistics(ROOT_ID).unwrap().name_length, 255);
    assert!(scene.open("/unified/cgroup.type", READ).is_ok());
}
