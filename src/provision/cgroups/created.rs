//! A cgroup that is made in one hierarchy.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use super::subtree::{open_directory, remove_below};
use crate::cgroup::{CgroupPath, HierarchyKind, name_as_text, parse_memberships};
use crate::error::Error;
use crate::host::HostCgroups;
use crate::host::interface_file::{read_file, write_file};
use crate::provision::systemd::Scope;
use crate::records::descriptor;

/// How often to look for processes that were forked while others were migrated.
const MAX_MIGRATION_PASSES: usize = 20;

/// A cgroup in one hierarchy.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CreatedCgroup {
    pub(super) kind: HierarchyKind,
    pub(super) path: CgroupPath,
    #[serde(with = "descriptor")]
    parent: OwnedFd,
    /// Its path from the parent.
    #[serde(with = "name_as_text")]
    name: OsString,
    /// Whether it's a scope's cgroup, which systemd removes when it's empty.
    is_scope: bool,
}

impl CreatedCgroup {
    pub(super) fn make(
        host: &HostCgroups,
        index: usize,
        kind: &HierarchyKind,
        parent: &CgroupPath,
        name: &str,
        option: &str,
    ) -> Result<Self, Error> {
        let failed = |errno: Errno| {
            let error =
                Error::system(format!("can't make cgroup {name} below {parent} in hierarchy {kind}"), errno.into());
            if errno == Errno::EEXIST { error.advise(format!("choose another {option}")) } else { error }
        };
        let above = host.open_cgroup(index, parent).map_err(failed)?;
        mkdirat(&above, name, Mode::from_bits_truncate(0o755)).map_err(failed)?;
        let path = parent.join(name).map_err(|error| Error::failed(error.to_string()))?;
        let own = Self { kind: kind.clone(), path, parent: above, name: name.into(), is_scope: false };
        let prepared = own.prepare();
        if let Err(errno) = prepared {
            let _ = own.remove_once();
            return Err(failed(errno));
        }
        Ok(own)
    }

    /// Finds the cgroup of a scope by a process in it; `None` if systemd has made none.
    pub(super) fn of_scope(
        host: &HostCgroups,
        index: usize,
        scope: &Scope,
        process: i32,
    ) -> Result<Option<Self>, Error> {
        let Some(hierarchy) = host.hierarchies.get(index) else { return Ok(None) };
        let Some(path) = location_of(process, &hierarchy.kind).filter(|path| scope.is_at(path)) else {
            return Ok(None);
        };
        // Processes that leave the scope return to the root, where they were: systemd's slices have no processes.
        let parent = host.open_cgroup(index, &CgroupPath::root()).map_err(|errno| {
            Error::system(format!("can't open the root of hierarchy {}", hierarchy.kind), errno.into())
        })?;
        let name = path.components().join(OsStr::new("/"));
        Ok(Some(Self { kind: hierarchy.kind.clone(), path, parent, name, is_scope: true }))
    }

    /// Finds an existing cgroup at the top of the hierarchy with this index.
    pub(super) fn existing_at_top(host: &HostCgroups, index: usize, name: &str) -> Option<Self> {
        let kind = host.hierarchies.get(index)?.kind.clone();
        let parent = host.open_cgroup(index, &CgroupPath::root()).ok()?;
        let path = CgroupPath::root().join(name).ok()?;
        Some(Self { kind, path, parent, name: name.into(), is_scope: false })
    }

    /// Migrates the processes in and below the cgroup to the parent.
    pub(super) fn evacuate(&self) {
        // The next pass finds processes that were forked meanwhile.
        for _ in 0..MAX_MIGRATION_PASSES {
            let inside = processes_that(|pid| is_within(pid, &self.kind, &self.path));
            if inside.is_empty() {
                break;
            }
            for pid in inside {
                // An exited process needs no migration. One that can't be migrated keeps the cgroup from being
                // removed.
                let _ = write_file(&self.parent, "cgroup.procs", pid.to_string().as_bytes());
            }
        }
    }

    /// Migrates the container's processes into the cgroup. It calls `of_container` again to find those that were
    /// forked meanwhile.
    pub(super) fn migrate_container(&self, of_container: impl Fn() -> Vec<i32>) -> Result<(), Error> {
        let directory =
            self.open().map_err(|errno| Error::system(format!("can't open {}", self.path), errno.into()))?;
        for _ in 0..MAX_MIGRATION_PASSES {
            let outside = of_container().into_iter().filter(|pid| is_at_root(*pid, &self.kind));
            let outside: Vec<i32> = outside.collect();
            if outside.is_empty() {
                break;
            }
            for pid in outside {
                self.migrate_process(&directory, pid, &of_container)?;
            }
        }
        Ok(())
    }

    /// Migrates a process of the container into the cgroup.
    fn migrate_process(&self, directory: &OwnedFd, pid: i32, of_container: impl Fn() -> Vec<i32>) -> Result<(), Error> {
        match write_file(directory, "cgroup.procs", pid.to_string().as_bytes()) {
            // Another process may have got the number.
            Ok(()) if !of_container().contains(&pid) => {
                let _ = write_file(&self.parent, "cgroup.procs", pid.to_string().as_bytes());
                Ok(())
            }
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => {
                let what = format!("can't migrate process {pid} into {} in hierarchy {}", self.path, self.kind);
                Err(Error::system(what, errno.into()))
            }
        }
    }

    pub(super) fn open(&self) -> Result<OwnedFd, Errno> {
        open_directory(&self.parent, &self.name)
    }

    /// Gives a new v1 cpuset the CPUs and memory nodes of its parent. An empty cpuset accepts no process
    /// (`cpuset_can_attach_check`).
    fn prepare(&self) -> Result<(), Errno> {
        let is_cpuset = self.kind.controllers().is_some_and(|controllers| controllers.contains("cpuset"));
        if !is_cpuset {
            return Ok(());
        }
        let directory = self.open()?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = read_file(&self.parent, file)
                .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            write_file(&directory, file, inherited.trim().as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn remove_once(&self) -> Result<(), Errno> {
        match self.open() {
            Ok(directory) => remove_below(&directory)?,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        if self.is_scope {
            return Ok(());
        }
        match unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOENT) | Ok(()) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn processes_that(is_meant: impl Fn(i32) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|pid| is_meant(*pid)).collect()
}

fn location_of(pid: i32, kind: &HierarchyKind) -> Option<CgroupPath> {
    let memberships = parse_memberships(&fs::read(format!("/proc/{pid}/cgroup")).ok()?);
    let own = memberships.into_iter().find(|membership| membership.kind == *kind)?;
    own.location.path().cloned()
}

pub(super) fn is_within(pid: i32, kind: &HierarchyKind, path: &CgroupPath) -> bool {
    location_of(pid, kind).is_some_and(|place| place.is_within(path))
}

/// Whether a process is in the root of a hierarchy. On v1 an exited one seems to be there, too, but has no
/// executable.
fn is_at_root(pid: i32, kind: &HierarchyKind) -> bool {
    location_of(pid, kind).is_some_and(|place| place.is_root()) && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}
