//! Answers about single paths: what an operation there would get, and the objects on the way.

use std::ffi::OsString;
use std::sync::Arc;

use nix::errno::Errno;

use super::explanation::{Explanation, Question};
use crate::cgroup::{CgroupPath, FileClass, HierarchyKind};
use crate::fs::inode::{Node, Object};
use crate::fs::{Attributes, Caller, CgroupFs, FsError, FsResult, Host, OpenMode};
use crate::policy::{Denial, Grant, MigrationEnds, Operation, Rule, Verdict, decide_migration};
use crate::view::Child;

impl<H: Host> CgroupFs<H> {
    /// Predicts the answer to `question` about the path with these names, and explains it.
    pub fn explain(&self, names: &[OsString], question: Question, process: Option<i32>) -> Explanation {
        let (names, last) = match (question, names.split_last()) {
            (Question::In(_), Some((last, above))) => (above, Some(last)),
            (Question::In(_), None) => return Explanation::kernel(Errno::EEXIST, "the root of the view exists"),
            _ => (names, None),
        };
        let node = match self.walk(names) {
            Ok(node) => node,
            Err(explanation) => return explanation,
        };
        let mut explanation = match (question, last) {
            (Question::In(_), _) if !node.is_directory() => {
                Explanation::kernel(Errno::ENOTDIR, "a component of the path is a file")
            }
            (Question::In(operation), Some(name)) => match self.find(&node, name) {
                Ok(_) => Explanation::kernel(Errno::EEXIST, "it exists already"),
                Err(_) => self.judge(&node, operation),
            },
            (Question::Truncate, _) => match self.judge(&node, Operation::Write) {
                // Under delegate's rule for the boundary, open succeeds and write fails. truncate doesn't write.
                at_write if at_write.errno == Some(Errno::EPERM) => {
                    Explanation::allowed("it succeeds and does nothing")
                }
                explanation => explanation,
            },
            (Question::Unlink, _) if node.is_directory() => Explanation::kernel(Errno::EISDIR, "it's a directory"),
            (Question::Unlink, _) => self.judge(&node, Operation::MakeNode),
            (Question::In(operation) | Question::Of(operation), _) => self.judge(&node, operation),
            (Question::Migrate, _) => self.judge_migration(&node, process),
            (Question::CloneInto, _) => self.judge_clone_into(&node, names),
        };
        explanation.backing = self.backing_of(&node, last);
        explanation
    }

    /// The hierarchy and path of a node's backing object, or with `last`, of the one of that name in it.
    pub(super) fn backing_of(&self, node: &Node, last: Option<&OsString>) -> Option<(String, CgroupPath)> {
        let (index, mut names) = node.backing_path(&self.view)?;
        names.extend(last.cloned());
        let kind = self.view.hierarchy(index).map(|hierarchy| hierarchy.kind.to_string()).unwrap_or_default();
        Some((kind, CgroupPath::from_components(names)))
    }

    /// Returns the objects along this path, from the root to the last that exists: names and attributes as shown.
    pub fn objects_along(&self, names: &[OsString]) -> Vec<(OsString, Attributes)> {
        let mut node = Arc::clone(self.nodes.root());
        let root = self.attributes(node.id(), None).map(|(attributes, _)| (OsString::new(), attributes));
        let mut objects: Vec<_> = root.into_iter().collect();
        for name in names {
            let Ok((found, attributes)) = self.follow(node).and_then(|directory| self.find(&directory, name)) else {
                break;
            };
            objects.push((name.clone(), self.as_shown(&found, attributes)));
            node = Arc::new(found);
        }
        objects
    }

    /// Returns the controller that a file of cgroup2 belongs to, and its cgroup, if the file is missing because that
    /// cgroup doesn't have the controller.
    pub fn missing_controller(&self, names: &[OsString]) -> Option<(String, CgroupPath)> {
        let (last, above) = names.split_last()?;
        let directory = self.walk(above).ok().filter(|directory| self.is_unified(directory))?;
        let FileClass::Controller(controller) = FileClass::of(&HierarchyKind::Unified, last) else { return None };
        let (list, _) = self.find(&directory, std::ffi::OsStr::new("cgroup.controllers")).ok()?;
        let file = self.host.open(&list, OpenMode { read: true, write: false, truncate: false }, None).ok()?;
        let mut text = [0; 4096];
        let count = self.host.read(&file, 0, &mut text).ok()?;
        let text = String::from_utf8_lossy(text.get(..count)?).into_owned();
        let (_, path) = directory.backing_path(&self.view)?;
        let is_there = text.split_whitespace().any(|word| word == controller);
        (!is_there).then(|| (controller, CgroupPath::from_components(path)))
    }

    /// Follows a symlink of the view's root.
    pub(super) fn follow(&self, node: Arc<Node>) -> FsResult<Arc<Node>> {
        match node.object() {
            Object::Link(target) => {
                let mut at = Arc::clone(node.parent().unwrap_or(self.nodes.root()));
                for name in std::path::Path::new(target).iter() {
                    at = Arc::new(self.find(&at, name)?.0);
                }
                Ok(at)
            }
            _ => Ok(node),
        }
    }

    pub(super) fn walk(&self, names: &[OsString]) -> Result<Arc<Node>, Explanation> {
        let gone = |failure: FsError| Explanation::kernel(failure.errno(), "the host doesn't have it (any more)");
        let mut node = Arc::clone(self.nodes.root());
        for name in names {
            node = self.follow(node).map_err(gone)?;
            if !node.is_directory() {
                return Err(Explanation::kernel(Errno::ENOTDIR, "a component of the path is a file"));
            }
            let found = self.find(&node, name);
            node = match found {
                Ok((node, _)) => Arc::new(node),
                Err(FsError::Kernel(Errno::ENOENT)) if self.hides(&node, name) => {
                    return Err(Explanation::denied(&Denial::new(Rule::Hidden)));
                }
                Err(failure) => return Err(gone(failure)),
            };
        }
        self.follow(node).map_err(gone)
    }

    /// Whether the view, and not the host, is the reason that the name doesn't exist.
    pub(super) fn hides(&self, directory: &Node, name: &std::ffi::OsStr) -> bool {
        match self.view.child(directory.position(), name) {
            Child::Hidden => true,
            Child::Backing { .. } => self.host.child(directory, name).is_ok(),
            Child::Hierarchy(_) | Child::Link { .. } | Child::Alias { .. } | Child::HostPathAlias(_) => false,
        }
    }

    fn judge(&self, node: &Node, operation: Operation) -> Explanation {
        match (operation, node.is_directory()) {
            (Operation::Write, true) => return Explanation::kernel(Errno::EISDIR, "it's a directory"),
            (Operation::Rename, true) if self.is_unified(node) && self.decide(node, operation).is_ok() => {
                return Explanation::kernel(Errno::EPERM, "cgroup2 has no rename");
            }
            (Operation::RemoveDirectory, false) => return Explanation::kernel(Errno::ENOTDIR, "it's a file"),
            (Operation::Rename, false) => return self.judge_rename_of_file(node),
            _ => {}
        }
        match self.decide(node, operation) {
            Ok(Grant::Plain) => {
                Explanation::allowed("the policy allows it; the kernel still checks permissions and limits")
            }
            Ok(Grant::Migrate(_)) => Explanation::allowed(
                "a process that is inside the delegated subtree can be migrated here, by its number in the writer's pid namespace",
            ),
            Ok(Grant::RegisterEvent) => Explanation::allowed(
                "an event of this cgroup can be registered, with an eventfd and a control file that the writer has open",
            ),
            Ok(Grant::FailsAtWrite(denial)) => {
                let mut explanation = Explanation::denied(&denial);
                explanation.reason.push_str("; the open succeeds, the write fails");
                explanation
            }
            Err(denial) => Explanation::denied(&denial),
        }
    }

    /// If the policy would allow making a cgroup here, the kernel refuses the rename (`kernfs_iop_rename`,
    /// `cgroup1_rename`).
    fn judge_rename_of_file(&self, file: &Node) -> Explanation {
        let Some(directory) = file.parent() else {
            return Explanation::denied(&Denial::new(Rule::OutsideSubtree));
        };
        match self.judge(directory, Operation::MakeDirectory) {
            rejected if !rejected.allowed => rejected,
            _ if self.is_unified(file) => Explanation::kernel(Errno::EPERM, "cgroup2 has no rename"),
            _ => Explanation::kernel(Errno::ENOTDIR, "it's a file"),
        }
    }

    pub(super) fn is_unified(&self, node: &Node) -> bool {
        let hierarchy = node.position().hierarchy.and_then(|index| self.view.hierarchy(index));
        hierarchy.is_some_and(|hierarchy| hierarchy.kind == HierarchyKind::Unified)
    }

    pub(super) fn judge_migration(&self, node: &Arc<Node>, process: Option<i32>) -> Explanation {
        let list = match node.is_directory() {
            false => Ok(Arc::clone(node)),
            true => self.find(node, std::ffi::OsStr::new("cgroup.procs")).map(|(list, _)| Arc::new(list)),
        };
        let list = match list {
            Ok(list) => list,
            // A migration is a write to a file, and the view doesn't show this one.
            Err(_) => return Explanation::denied(&Denial::new(Rule::Hidden)),
        };
        if !list.is_membership() {
            return Explanation::kernel(Errno::EINVAL, "it's neither a cgroup nor a membership file");
        }
        let explanation = self.judge(&list, Operation::Write);
        let (true, Some(process), Some(hierarchy)) = (explanation.allowed, process, list.position().hierarchy) else {
            return explanation;
        };
        let caller = Caller { tid: process, uid: 0, gid: 0 };
        let places = self
            .host
            .pin_caller(&caller)
            .and_then(|mut pinned| self.host.thread_locations(&mut pinned, hierarchy, true));
        let delegated = self.view.hierarchy(hierarchy).and_then(|hierarchy| hierarchy.delegated.as_ref());
        let (Ok(places), Some(delegated)) = (places, delegated) else {
            return Explanation::kernel(Errno::ESRCH, "there's no such process");
        };
        let destination = self.view.zone(list.position());
        let verdicts = places
            .iter()
            .map(|place| decide_migration(&MigrationEnds { delegated, source: place.path(), destination }));
        match verdicts.into_iter().find_map(|verdict| match verdict {
            Verdict::Deny(denial) => Some(denial),
            Verdict::Allow(_) => None,
        }) {
            Some(denial) => Explanation::denied(&denial),
            None => explanation,
        }
    }
}
