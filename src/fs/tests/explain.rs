//! `explain` and `branch` predict the results of operations.

use std::ffi::{OsStr, OsString};

use nix::errno::Errno;

use super::access::with_process;
use super::lookup::{is_shown, join, objects};
use super::scene::{self, CALLER, READ, Scene, WRITE, errno};
use crate::cgroup::{CgroupPath, Setup};
use crate::fs::explain::{Question, RenameStage, TreeNode};
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
        // The kernel doesn't ask a filesystem (`cgroup_get_from_file`).
        Question::CloneInto => itself().and(Err(Errno::EBADF.into())),
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
                    .chain(
                        [Question::Unlink, Question::Truncate, Question::CloneInto]
                            .map(|question| (path.as_str(), question)),
                    )
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

#[test]
fn instead_of_clone_into_a_migration_is_judged() {
    let scene = with_process(Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Strict), 42);
    for (path, says) in [
        ("/unified/a", "have it write 0 to /unified/a/cgroup.procs"),
        ("/unified/a/cgroup.threads", "have it write 0 to /unified/a/cgroup.procs"),
        ("/systemd/a", "cgroup v1 never had that; start it without that flag"),
        ("/memory/a", "is rejected as well: resource controllers aren't safe"),
    ] {
        let explained = scene.fs.explain(&components(path), Question::CloneInto, None);
        assert_eq!((explained.errno, explained.rule), (Some(Errno::EBADF), "kernel"), "{path}");
        assert!(explained.reason.contains(says), "{path}: {}", explained.reason);
    }
}

/// Renames between every two places, as far as the view is asked.
#[test]
fn renames_are_judged_at_both_ends() {
    for scene in scene::all() {
        let mut paths: Vec<String> = Vec::new();
        for (hierarchy, cgroup, file) in objects(&scene) {
            let is_relevant = file.as_deref().is_none_or(|file| file == "cgroup.procs");
            let shown = scene.shown(hierarchy, &join(cgroup, file.as_deref())).filter(|_| is_relevant);
            let shown = shown.map(|path| path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
            let fresh =
                shown.iter().filter(|_| file.is_none()).map(|path| join(path, Some("fresh"))).collect::<Vec<_>>();
            paths.extend(shown.into_iter().chain(fresh));
        }
        let (mut allowed, mut rejected) = (0, 0);
        for old in &paths {
            for new in &paths {
                let explained = scene.fs.explain_rename(&components(old), &components(new));
                let told = &explained.explanation;
                let about = format!("{} {old} {new}: {explained:?}", scene.name());
                assert!(!told.reason.is_empty() && told.errno.is_some() != told.allowed, "{about}");
                if explained.stage != RenameStage::View {
                    let is_same = old == new && scene.walk(old).is_ok();
                    assert!(is_same == told.allowed, "{about}");
                    continue;
                }
                let ends = [old, new].map(|path| {
                    let (above, name) = path.rsplit_once('/').unwrap();
                    (scene.id(above), OsStr::new(name))
                });
                scene.host.fail("rename", Errno::EBUSY);
                scene.host.calls();
                let outcome = scene.fs.rename(&CALLER, ends[0].0, ends[0].1, ends[1].0, ends[1].1, 0);
                let tried = !scene.host.changes().is_empty();
                scene.host.state.lock().faults.clear();
                if told.allowed {
                    assert!(tried, "{about} {outcome:?}");
                    allowed += 1;
                    continue;
                }
                rejected += 1;
                // The kernel looks at what has the new name before it asks the view. What the host refuses is tried.
                let is_by_kernel = matches!(told.errno, Some(Errno::ENOTDIR | Errno::EISDIR));
                match told.errno {
                    _ if told.rule == "kernel" && is_by_kernel => {}
                    Some(Errno::EIO | Errno::EPERM | Errno::EEXIST | Errno::EINVAL) if told.rule == "kernel" => {
                        assert!(tried, "{about} {outcome:?}");
                    }
                    errno => assert!(!tried && super::scene::errno(outcome) == errno, "{about}"),
                }
            }
        }
        let has_renames = scene.view.setup != Setup::Unified;
        assert!(rejected > 40 && (allowed > 0) == has_renames, "{}: {allowed}, {rejected}", scene.name());
    }
}

#[test]
fn names_decide_a_rename_before_the_view() {
    let scene = Scene::new(Setup::Hybrid, Shape::Rooted, Policy::Delegate);
    for (old, new, stage, errno) in [
        ("/", "/systemd/x", RenameStage::Directories, Some(Errno::EBUSY)),
        ("/systemd/a", "/nosuch/x", RenameStage::Directories, Some(Errno::ENOENT)),
        ("/systemd/a", "/systemd/cgroup.procs/x", RenameStage::Directories, Some(Errno::ENOTDIR)),
        ("/systemd/nosuch", "/systemd/x", RenameStage::Names, Some(Errno::ENOENT)),
        ("/systemd/a", "/systemd/a", RenameStage::Names, None),
        ("/systemd/a", "/systemd/a/b/c", RenameStage::Names, Some(Errno::EINVAL)),
        ("/systemd/a/b", "/systemd/a", RenameStage::Names, Some(Errno::ENOTEMPTY)),
        ("/systemd/a", "/systemd/z", RenameStage::View, Some(Errno::EEXIST)),
        ("/systemd/a", "/systemd/z/x", RenameStage::View, Some(Errno::EIO)),
        ("/systemd/a", "/systemd/cgroup.procs", RenameStage::View, Some(Errno::ENOTDIR)),
        ("/systemd/cgroup.procs", "/systemd/a", RenameStage::View, Some(Errno::EISDIR)),
        ("/systemd/a", "/memory/x", RenameStage::View, Some(Errno::EXDEV)),
        ("/unified/a", "/unified/x", RenameStage::View, Some(Errno::EPERM)),
        ("/systemd/a", "/systemd/x", RenameStage::View, None),
    ] {
        let explained = scene.fs.explain_rename(&components(old), &components(new));
        assert_eq!((explained.stage, explained.explanation.errno), (stage, errno), "{old} {new}: {explained:?}");
    }
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
