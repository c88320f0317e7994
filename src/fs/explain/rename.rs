//! Predicts a rename, judged at both ends.

use std::ffi::OsString;
use std::sync::Arc;

use nix::errno::Errno;

use super::explanation::Explanation;
use crate::fs::inode::Node;
use crate::fs::{CgroupFs, Host};
use crate::policy::{Denial, Operation, Rule};

/// How far a rename gets before it ends (`do_renameat2`). Between the stages the kernel checks mounts and modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameStage {
    /// A directory of one of the two paths isn't there. Next, the kernel checks the mounts.
    Directories,
    /// One of the two names can't be used, or both are the same. Next, the kernel checks the modes.
    Names,
    /// The view is asked.
    View,
}

/// The predicted result of a rename.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenameExplanation {
    /// How far it gets.
    pub stage: RenameStage,
    /// The result there.
    pub explanation: Explanation,
}

impl<H: Host> CgroupFs<H> {
    /// Predicts the rename of the object at `old` to `new`, and explains it.
    pub fn explain_rename(&self, old: &[OsString], new: &[OsString]) -> RenameExplanation {
        let at = |stage| move |explanation| RenameExplanation { stage, explanation };
        let root =
            || at(RenameStage::Directories)(Explanation::kernel(Errno::EBUSY, "the root of the view can't be renamed"));
        let (Some((old_name, old_above)), Some((new_name, new_above))) = (old.split_last(), new.split_last()) else {
            return root();
        };
        let directories = self.directory(old_above).and_then(|from| Ok((from, self.directory(new_above)?)));
        let (from, to) = match directories {
            Ok(directories) => directories,
            Err(explanation) => return at(RenameStage::Directories)(explanation),
        };
        let backing = self.backing_of(&from, Some(old_name));
        let with_backing = |explanation| Explanation { backing: backing.clone(), ..explanation };
        let node = match self.find(&from, old_name) {
            Ok((node, _)) => node,
            Err(_) if self.hides(&from, old_name) => {
                return at(RenameStage::Names)(with_backing(Explanation::denied(&Denial::new(Rule::Hidden))));
            }
            Err(failure) => {
                let explanation = Explanation::kernel(failure.errno(), "the host doesn't have it (any more)");
                return at(RenameStage::Names)(with_backing(explanation));
            }
        };
        let existing = self.find(&to, new_name).ok().map(|(existing, _)| existing);
        let by_name = match existing {
            _ if old == new => Some(Explanation::allowed("both names are the same: it succeeds and does nothing")),
            _ if new.starts_with(old) => {
                Some(Explanation::kernel(Errno::EINVAL, "the new name is below the cgroup that would be renamed"))
            }
            Some(_) if old.starts_with(new) => {
                Some(Explanation::kernel(Errno::ENOTEMPTY, "the cgroup is below the one that has the new name"))
            }
            _ => None,
        };
        if let Some(explanation) = by_name {
            return at(RenameStage::Names)(with_backing(explanation));
        }
        let explanation = self.judge_rename(&from, &node, &to, existing.as_ref());
        at(RenameStage::View)(with_backing(explanation))
    }

    /// Finds the directory of a name.
    fn directory(&self, names: &[OsString]) -> Result<Arc<Node>, Explanation> {
        let found = self.walk(names)?;
        if found.is_directory() {
            Ok(found)
        } else {
            Err(Explanation::kernel(Errno::ENOTDIR, "a component of the path is a file"))
        }
    }

    /// Judges a rename of which both names can be used, in the order of [`CgroupFs::rename`] and, behind that, the
    /// host's kernel (`may_delete`, `kernfs_iop_rename`, `cgroup1_rename`, `kernfs_rename_ns`).
    fn judge_rename(&self, from: &Arc<Node>, node: &Node, to: &Arc<Node>, existing: Option<&Node>) -> Explanation {
        let kernel = Explanation::kernel;
        match (node.is_directory(), existing.map(Node::is_directory)) {
            (true, Some(false)) => return kernel(Errno::ENOTDIR, "a file has the new name"),
            (false, Some(true)) => return kernel(Errno::EISDIR, "a cgroup has the new name"),
            _ => {}
        }
        let (source, operation) =
            if node.is_directory() { (node, Operation::Rename) } else { (&**from, Operation::MakeDirectory) };
        if let Err(denial) = self.decide(source, operation) {
            return Explanation::denied(&denial);
        }
        if node.is_directory()
            && let Err(denial) = self.decide(to, Operation::MakeDirectory)
        {
            let explanation = Explanation::denied(&denial);
            return Explanation { reason: format!("at the new name: {}", explanation.reason), ..explanation };
        }
        if from.position().hierarchy != to.position().hierarchy {
            return kernel(Errno::EXDEV, "the new name is in another hierarchy");
        }
        if self.is_unified(node) {
            return kernel(Errno::EPERM, "cgroup2 has no rename");
        }
        if !node.is_directory() {
            return kernel(Errno::ENOTDIR, "it's a file");
        }
        if from.id() != to.id() {
            return kernel(Errno::EIO, "cgroup v1 renames a cgroup only within the cgroup that it's in");
        }
        if existing.is_some() {
            return kernel(Errno::EEXIST, "a cgroup has the new name");
        }
        Explanation::allowed("the policy allows it at both ends; the kernel still checks permissions")
    }
}
