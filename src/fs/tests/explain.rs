//! `explain` and `branch` predict the results of operations.

use std::ffi::{OsStr, OsString};

use nix::errno::Errno;

use super::access::with_process;
use super::lookup::{is_shown, join, objects};
use super::scene::{self, CALLER, READ, Scene, WRITE, errno};
use crate::cgroup::{CgroupPath, Setup};
use crate::fs::explain::{Question, TreeNode};
use crate::fs::{FsResult, SetAttr};
use crate::policy::{Operation, Policy};
use crate::view::Shape;

fn components(path: &str) -> Vec<OsString> {
    CgroupPath::parse(path).unwrap().components().to_vec()
}

/// Runs the operation that the question is about. The fake host's answer after a yes doesn't matter.
fn attempt(scene: &Scene, path: &str, question: Question) -> FsResult<()> {
    let (above, name) = path.rsplit_once('/').unwrap();
    let name = OsStr::new(name);
    let itself = || scene.walk(path).map(|entry| entry.id);
    let parent = || scene.walk(above).map(|entry| entry.id);
    match question {
        Question::Of(Operation::Read) => {
            let entry = scene.walk(path)?;
            if entry.attributes.is_directory() {
                return scene.list(entry.id, 0).map(drop);
            }
            scene.fs.open(&CALLER, entry.id, READ, false).map(drop)
        }
        Question::Of(Operation::Write) => {
            let handle = scene.fs.open(&CALLER, itself()?, WRITE, false)?;
            scene.fs.write_by(&CALLER, handle, b"42").map(drop)
        }
        Question::Of(Operation::RemoveDirectory) => {
            scene.host.fail("remove_directory", Errno::EBUSY);
            scene.fs.remove_directory(&CALLER, parent()?, name)
        }
        Question::Of(Operation::Rename) => {
            let parent = parent()?;
            scene.host.fail("rename", Errno::EBUSY);
            scene.fs.rename(&CALLER, parent, name, parent, OsStr::new("renamed"), 0)
        }
        Question::Of(Operation::ChangeXattrs) => scene.fs.set_xattr(&CALLER, itself()?, OsStr::new("user.x"), b"1", 0),
        Question::Of(_) => scene
            .fs
            .set_attributes(&CALLER, itself()?, &SetAttr { mode: Some(0o777), ..SetAttr::default() }, false)
            .map(drop),
        Question::In(Operation::MakeDirectory) => {
            scene.host.fail("make_directory", Errno::EBUSY);
            // The kernel looks the name up first.
            match scene.walk(path) {
                Ok(_) => Err(Errno::EEXIST.into()),
                Err(_) => scene.fs.make_directory(&CALLER, parent()?, name, 0o755).map(drop),
            }
        }
        Question::Truncate if scene.walk(path)?.attributes.is_directory() => Err(Errno::EISDIR.into()),
        Question::Truncate => scene.fs.set_attributes(&CALLER, itself()?, &SetAttr::default(), true).map(drop),
        Question::Unlink => {
            let entry = scene.walk(path)?;
            if entry.attributes.is_directory() {
                return Err(Errno::EISDIR.into());
            }
            Err(scene.fs.make_node(parent()?, Operation::MakeNode))
        }
        Question::In(operation) => Err(scene.fs.make_node(parent()?, operation)),
        Question::Migrate => attempt(scene, &join(path, Some("cgroup.procs")), Question::Of(Operation::Write)),
    }
}

#[test]
fn explanations_agree_with_what_happens() {
    use Operation::{
        ChangeAttributes, ChangeXattrs, CreateFile, MakeDirectory, MakeNode, Read, RemoveDirectory, Rename, Write,
    };
    for scene in scene::all() {
        let scene = with_process(scene, 42);
        let (mut allowed, mut rejected) = (0, 0);
        for (hierarchy, cgroup, file) in objects(&scene) {
            let host = join(cgroup, file.as_deref());
            let Some(path) = scene.shown(hierarchy, &host).map(|path| path.trim_end_matches('/').to_owned()) else {
                continue;
            };
            if path.is_empty() {
                continue;
            }
            let fresh = join(&path, Some("fresh"));
            let mut questions: Vec<(&str, Question)> =
                [Read, Write, ChangeAttributes, ChangeXattrs, RemoveDirectory, Rename]
                    .into_iter()
                    .map(|operation| (path.as_str(), Question::Of(operation)))
                    .chain([Question::Unlink, Question::Truncate].map(|question| (path.as_str(), question)))
                    .collect();
            if file.is_none() {
                questions.extend([(path.as_str(), Question::Migrate), (path.as_str(), Question::In(MakeDirectory))]);
                questions.extend(
                    [MakeDirectory, CreateFile, MakeNode].map(|operation| (fresh.as_str(), Question::In(operation))),
                );
            }
            for (path, question) in questions {
                let explained = scene.fs.explain(&components(path), question, None);
                scene.host.calls();
                let outcome = attempt(&scene, path, question);
                let tried = !scene.host.changes().is_empty();
                scene.host.state.lock().faults.clear();
                let about = format!("{} {path} {question:?}: {outcome:?}, explained as {explained:?}", scene.name());
                if explained.allowed {
                    let is_silent = matches!(question, Question::Of(Read) | Question::Truncate);
                    assert!(if is_silent { outcome.is_ok() } else { tried }, "{about}");
                    allowed += 1;
                } else {
                    assert_eq!(errno(outcome), explained.errno, "{about}");
                    // The host refuses a rename of a file inside.
                    assert!(!tried || explained.rule == "kernel", "{about}");
                    rejected += 1;
                }
                assert!(!explained.reason.is_empty() && explained.errno.is_some() != explained.allowed, "{about}");
            }
        }
        assert!(allowed > 50 && rejected > 50, "{}: {allowed} allowed, {rejected} rejected", scene.name());
    }
}

#[test]
fn explanations_name_the_host_path() {
    for scene in scene::all() {
        for (hierarchy, cgroup, file) in objects(&scene) {
            if !is_shown(&scene, hierarchy, cgroup, file.as_deref()) {
                continue;
            }
            let host = join(cgroup, file.as_deref());
            let path = scene.at(hierarchy, &host);
            let explained = scene.fs.explain(&components(&path), Question::Of(Operation::Read), None);
            let kind = scene.view.hierarchies[hierarchy].kind.to_string();
            assert_eq!(explained.backing, Some((kind, CgroupPath::parse(&host).unwrap())), "{} {path}", scene.name());
        }
    }
}

#[test]
fn a_process_is_judged_by_where_it_is() {
    let scene = with_process(Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Delegate), 42);
    let places = (0..scene.view.hierarchies.len()).map(|hierarchy| (hierarchy, vec![Some("/lxc/c10")])).collect();
    scene.host.state.lock().processes.insert(43, super::fake::FakeProcess { places, ..Default::default() });
    let ask = |path: &str, process| scene.fs.explain(&components(path), Question::Migrate, process);
    for path in ["/unified/a", "/unified/a/cgroup.threads", "/memory/a/tasks", "/systemd"] {
        assert!(ask(path, None).allowed && ask(path, Some(42)).allowed, "{path}");
        assert_eq!(ask(path, Some(43)).rule, "source-outside-subtree", "{path}");
        assert_eq!(ask(path, Some(4711)).errno, Some(Errno::ESRCH), "{path}");
    }
    assert_eq!(ask("/unified/a/memory.max", Some(42)).errno, Some(Errno::EINVAL));
    assert!(!ask("/cpuset", Some(42)).allowed);
    assert_eq!(scene.host.changes(), [], "a question changes nothing");
}

fn count(branch: &TreeNode) -> (usize, usize) {
    branch.children.iter().map(count).fold((1, branch.hidden), |(shown, hidden), (s, h)| (shown + s, hidden + h))
}

#[test]
fn the_tree_has_everything_that_is_shown() {
    for scene in scene::all() {
        let tree = scene.fs.branch(&[]).unwrap();
        let shown = objects(&scene)
            .iter()
            .filter(|(hierarchy, cgroup, file)| is_shown(&scene, *hierarchy, cgroup, file.as_deref()))
            .count();
        // The view's own objects: its root, and two symlinks.
        let own = if scene.view.setup == Setup::Unified { 0 } else { 3 };
        let (found, hidden) = count(&tree);
        assert_eq!(found, shown + own, "{}", scene.name());
        assert_eq!(
            hidden > 0,
            scene.view.shape != Shape::Full
                && !(scene.view.setup == Setup::Unified && scene.view.shape == Shape::Rooted),
            "{}: {hidden} hidden",
            scene.name()
        );
        // Objects that vanish while the tree is read are left out.
        let path = scene.at(0, "/lxc/c1");
        scene.host.fail("child", Errno::ENOENT);
        let failing = scene.fs.branch(&components(&path));
        if scene.view.shape == Shape::Rooted && scene.view.setup == Setup::Unified {
            assert!(count(&failing.unwrap()).0 < found);
        } else {
            scene.host.state.lock().faults.clear();
            assert!(scene.fs.branch(&components(&path)).is_ok());
        }
    }
}
