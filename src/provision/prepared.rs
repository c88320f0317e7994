//! The program's changes of a container's cgroups before it attaches a view, which it undoes when the view ends.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fchownat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupPath, HierarchyKind, parse_memberships};
use crate::container::rollback::CleanupOwner;
use crate::container::stack::is_read_only;
use crate::error::Error;
use crate::host::HostCgroups;
use crate::host::interface_file::{read_file, write_file};
use crate::policy::Policy;
use crate::provision::cgroups::CreatedCgroups;
use crate::provision::sentinel::SentinelCgroup;
use crate::records::descriptor;
use crate::view::View;

/// The changes that were made for a container. The process that owns them undoes them when it drops this.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PreparedContainer {
    #[serde(skip, default = "CleanupOwner::nobody")]
    owner: CleanupOwner,
    placed: Option<CreatedCgroups>,
    /// The cgroups that were made for aliases.
    made: Vec<MadeCgroup>,
    /// The cgroups in which `cgroup.clone_children` was changed from 0.
    #[serde(with = "descriptor::list")]
    clone_children: Vec<OwnedFd>,
    sentinel: Option<SentinelCgroup>,
}

/// A cgroup that was made for an alias.
#[derive(Debug, Serialize, Deserialize)]
struct MadeCgroup {
    #[serde(with = "descriptor")]
    parent: OwnedFd,
    name: String,
}

impl PreparedContainer {
    /// Makes an empty set of changes that the calling process owns.
    pub(crate) fn new() -> Self {
        let owner = CleanupOwner::this_process();
        Self { owner, placed: None, made: Vec::new(), clone_children: Vec::new(), sentinel: None }
    }

    /// Leaves the changes to a process that this one has forked.
    pub(crate) fn disown(&self) {
        self.owner.disown();
    }

    /// Makes the calling process the owner of the changes.
    pub(crate) fn adopt(&self) {
        self.owner.adopt();
    }

    /// Makes a cgroup for the container of a process in each hierarchy in whose root the process is, and migrates the
    /// container's processes there.
    pub(crate) fn place(&mut self, host: &HostCgroups, pid: i32, name: &str) -> Result<(), Error> {
        let text = fs::read(format!("/proc/{pid}/cgroup"));
        let memberships = parse_memberships(
            &text.map_err(|error| Error::system(format!("can't read the cgroups of process {pid}"), error))?,
        );
        let is_at_root = |kind: &HierarchyKind| {
            let own = memberships.iter().find(|membership| membership.kind == *kind);
            own.and_then(|own| own.location.path()).is_some_and(CgroupPath::is_root)
        };
        let hierarchies = host.hierarchies.iter().enumerate().filter(|(_, hierarchy)| is_at_root(&hierarchy.kind));
        let hierarchies: Vec<usize> = hierarchies.map(|(index, _)| index).collect();
        let placed = self.placed.insert(CreatedCgroups::make_at_top(host, &hierarchies, name, pid)?);
        placed.migrate_container(|| processes_of(pid))
    }

    /// The same for a container whose former view has failed: what was made for that view, and wasn't removed, is used
    /// again.
    pub(crate) fn place_again(&mut self, host: &HostCgroups, pid: i32, name: &str) -> Result<(), Error> {
        self.place(host, pid, name)?;
        if let Some(placed) = &mut self.placed {
            placed.adopt_at_top(host, name, pid);
        }
        Ok(())
    }

    /// Makes the cgroups that aliases lead to, and lets new cpusets inherit from their parents. runc would copy CPUs
    /// and nodes itself, but gives up if statfs(2) doesn't say cgroup.
    pub(crate) fn prepare(&mut self, host: &HostCgroups, view: &View) -> Result<(), Error> {
        for (index, hierarchy) in view.hierarchies.iter().enumerate() {
            let (Some(delegated), false) = (&hierarchy.delegated, is_read_only(view, hierarchy)) else { continue };
            let failed = |errno: Errno| {
                let what = format!("can't prepare {delegated} in hierarchy {} for the container", hierarchy.kind);
                Error::system(what, errno.into())
            };
            let boundary = host.open_cgroup(index, delegated).map_err(failed)?;
            let is_cpuset = hierarchy.kind.controllers().is_some_and(|controllers| controllers.contains("cpuset"));
            if is_cpuset && view.rules.policy == Policy::Delegate {
                self.enable_clone_children(host, index, delegated).map_err(failed)?;
            }
            for alias in &view.aliases {
                let name = alias.to_string_lossy().into_owned();
                self.make(host, index, &boundary, delegated, &name).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Sets `cgroup.clone_children`, so that new cpusets get the CPUs and nodes of their parent.
    fn enable_clone_children(&mut self, host: &HostCgroups, index: usize, path: &CgroupPath) -> Result<(), Errno> {
        let directory = host.open_cgroup(index, path)?;
        let is_off = read_file(&directory, "cgroup.clone_children").is_ok_and(|text| text.trim() == "0");
        if is_off {
            write_file(&directory, "cgroup.clone_children", b"1")?;
            self.clone_children.push(directory);
        }
        Ok(())
    }

    /// Takes over the sentinel, to remove it at the end.
    pub(crate) fn keep_sentinel(&mut self, sentinel: SentinelCgroup) -> &SentinelCgroup {
        self.sentinel.insert(sentinel)
    }

    fn make(
        &mut self,
        host: &HostCgroups,
        index: usize,
        boundary: &OwnedFd,
        delegated: &CgroupPath,
        name: &str,
    ) -> Result<(), Errno> {
        match mkdirat(boundary, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        let parent = boundary.try_clone().map_err(|_| Errno::EMFILE)?;
        self.made.push(MadeCgroup { parent, name: name.to_owned() });
        let path = delegated.join(name).map_err(|_| Errno::EINVAL)?;
        let cgroup = host.open_cgroup(index, &path)?;
        let owner = fstat(boundary)?;
        let give = |directory: &OwnedFd, name: &str| {
            let (user, group) = (Some(owner.st_uid.into()), Some(owner.st_gid.into()));
            fchownat(directory, name, user, group, AtFlags::AT_SYMLINK_NOFOLLOW)
        };
        // The container's root owns it, as if it had made it. Not every hierarchy has each file.
        give(boundary, name)?;
        for file in ["cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"] {
            match give(&cgroup, file) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

impl Drop for PreparedContainer {
    fn drop(&mut self) {
        if !self.owner.is_this_process() {
            return;
        }
        if let Some(sentinel) = self.sentinel.take() {
            sentinel.remove();
        }
        for MadeCgroup { parent, name } in self.made.drain(..).rev() {
            // A cgroup that the container uses stays.
            let _ = unlinkat(&parent, name.as_str(), UnlinkatFlags::RemoveDir);
        }
        for directory in self.clone_children.drain(..) {
            // The cgroup may be gone.
            let _ = write_file(&directory, "cgroup.clone_children", b"0");
        }
        if let Some(placed) = self.placed.take() {
            placed.evacuate();
            placed.remove();
        }
    }
}

/// The processes of a container: `target`, its descendants, and all in its pid namespace if that isn't this command's.
fn processes_of(target: i32) -> Vec<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(target).filter(|own| Some(own) != namespace(std::process::id() as i32).as_ref());
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let mut found = HashSet::from([target]);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if own.is_some() && namespace(pid) == own {
            found.insert(pid);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut unseen: Vec<i32> = found.iter().copied().collect();
    while let Some(parent) = unseen.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if found.insert(child) {
                unseen.push(child);
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_belong_to_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let found = processes_of(std::process::id() as i32);
        assert!(found.contains(&(std::process::id() as i32)) && found.contains(&(child.id() as i32)), "{found:?}");
        assert!(!processes_of(child.id() as i32).contains(&(std::process::id() as i32)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
