//! The cgroups that `run` and `attach --place` make in each hierarchy, and remove again.

mod end;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::cgroup::{CgroupPath, HierarchyClass, HierarchyKind, parse_memberships};
use crate::error::Error;
use crate::host::HostCgroups;
use crate::host::interface_file::{read_file, write_file};
use crate::provision::systemd;
use crate::provision::systemd::{Scope, ScopeHolder};

/// How long to try to remove a cgroup whose last processes are ending.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Cgroups of one name in several hierarchies.
#[derive(Debug)]
pub(crate) struct CreatedCgroups {
    cgroups: Vec<CreatedCgroup>,
    /// A process that keeps systemd's scope until another one is in it.
    holder: Option<ScopeHolder>,
}

#[derive(Debug)]
struct CreatedCgroup {
    kind: HierarchyKind,
    path: CgroupPath,
    parent: OwnedFd,
    /// Its path from the parent.
    name: OsString,
    /// Whether it's a scope's, which systemd removes when it's empty.
    is_scope: bool,
}

impl CreatedCgroups {
    /// Makes a cgroup `name` in each hierarchy: below the cgroup that is requested there, else below the caller's own. Where none is requested
    /// and systemd manages the host, a scope of systemd's is taken in the hierarchies that it manages.
    pub(crate) fn make(
        host: &HostCgroups,
        requested: &[(Option<String>, CgroupPath)],
        name: &str,
    ) -> Result<Self, Error> {
        let text =
            fs::read("/proc/self/cgroup").map_err(|error| Error::system("can't read /proc/self/cgroup", error))?;
        let memberships = parse_memberships(&text);
        if let Some((Some(unknown), _)) = requested.iter().find(|(hierarchy, _)| {
            hierarchy.as_deref().is_some_and(|word| !host.hierarchies.iter().any(|known| known.kind.matches(word)))
        }) {
            return Err(crate::host::PlanError::NoHierarchy { name: unknown.clone(), known: known(host) }.into());
        }
        let mut made = Self { cgroups: Vec::new(), holder: None };
        let scope = if requested.is_empty() { made.hold_scope(name)? } else { None };
        for (index, hierarchy) in host.hierarchies.iter().enumerate() {
            if let Some((scope, process)) = &scope
                && let Some(cgroup) = CreatedCgroup::of_scope(host, index, scope, *process)?
            {
                made.cgroups.push(cgroup);
                continue;
            }
            let own = memberships.iter().find(|membership| membership.kind == hierarchy.kind);
            let named =
                requested.iter().find(|(word, _)| word.as_deref().is_some_and(|word| hierarchy.kind.matches(word)));
            let anywhere =
                requested.iter().find(|(word, path)| word.is_none() && host.open_cgroup(index, path).is_ok());
            let parent = match (named.or(anywhere), own.and_then(|own| own.location.path())) {
                (Some((_, path)), _) => path.clone(),
                (None, Some(own)) => own.clone(),
                // A hierarchy that the caller's cgroup namespace doesn't reach.
                (None, None) => continue,
            };
            match CreatedCgroup::make(host, index, &hierarchy.kind, &parent, name, "--name") {
                Ok(cgroup) => made.cgroups.push(cgroup),
                Err(failed) => {
                    made.remove();
                    return Err(failed);
                }
            }
        }
        if requested
            .iter()
            .any(|(word, path)| word.is_none() && !made.cgroups.iter().any(|own| own.path.is_within(path)))
        {
            made.remove();
            let what = "--cgroup: no hierarchy has a cgroup of this path";
            return Err(Error::failed(what).advise("name an existing cgroup, below which 'run' makes its own"));
        }
        Ok(made)
    }

    /// Requests a scope from systemd, with an idle process in it.
    fn hold_scope(&mut self, name: &str) -> Result<Option<(Scope, i32)>, Error> {
        if !systemd::is_manager() {
            return Ok(None);
        }
        let holder = self.holder.insert(ScopeHolder::start()?).process();
        let scope = Scope::request(name, holder, "--name")?;
        if scope.is_none() {
            self.holder = None;
        }
        Ok(scope.map(|scope| (scope, holder)))
    }

    /// Makes a cgroup `name` at the top of the hierarchies with these indexes, for the container of `process`, which is in their roots. If
    /// these are all that systemd manages, it's a scope of systemd there.
    pub(crate) fn make_at_top(
        host: &HostCgroups,
        hierarchies: &[usize],
        name: &str,
        process: i32,
    ) -> Result<Self, Error> {
        let mut made = Self { cgroups: Vec::new(), holder: None };
        let managed = |kind: &HierarchyKind| match kind.controllers() {
            Some(controllers) => {
                kind.matches("name=systemd") || SYSTEMD_CONTROLLERS.iter().any(|own| controllers.contains(own))
            }
            None => true,
        };
        let mut all = host.hierarchies.iter().enumerate().filter(|(_, hierarchy)| managed(&hierarchy.kind));
        let is_free = systemd::is_manager() && all.all(|(index, _)| hierarchies.contains(&index));
        let scope = if is_free { Scope::request(name, process, "--place")? } else { None };
        for (index, hierarchy) in host.hierarchies.iter().enumerate().filter(|(index, _)| hierarchies.contains(index)) {
            if let Some(scope) = &scope
                && let Some(cgroup) = CreatedCgroup::of_scope(host, index, scope, process)?
            {
                made.cgroups.push(cgroup);
                continue;
            }
            match CreatedCgroup::make(host, index, &hierarchy.kind, &CgroupPath::root(), name, "--place") {
                Ok(cgroup) => made.cgroups.push(cgroup),
                Err(failed) => {
                    made.remove();
                    return Err(failed);
                }
            }
        }
        Ok(made)
    }

    /// Finds an existing cgroup at the top of the hierarchy with this index.
    pub(crate) fn existing_at_top(host: &HostCgroups, index: usize, name: &str) -> Option<Self> {
        let kind = host.hierarchies.get(index)?.kind.clone();
        let parent = host.open_cgroup(index, &CgroupPath::root()).ok()?;
        let path = CgroupPath::root().join(name).ok()?;
        let own = CreatedCgroup { kind, path, parent, name: name.into(), is_scope: false };
        Some(Self { cgroups: vec![own], holder: None })
    }

    /// Migrates the processes in and below the cgroups to the cgroups above.
    pub(crate) fn evacuate(&self) {
        // systemd removes a scope when it's empty on v2, or on legacy hosts in the named hierarchy. So these come last.
        for class in [HierarchyClass::V1Controllers, HierarchyClass::V1Named, HierarchyClass::Unified] {
            self.cgroups.iter().filter(|own| own.kind.class() == class).for_each(CreatedCgroup::evacuate);
        }
    }

    /// Migrates the container's processes into all the cgroups. It asks `of_container` again for those that were forked meanwhile.
    pub(crate) fn migrate_container(&self, of_container: impl Fn() -> Vec<i32>) -> Result<(), Error> {
        for own in &self.cgroups {
            let directory =
                own.open().map_err(|errno| Error::system(format!("can't open {}", own.path), errno.into()))?;
            for _ in 0..MAX_MIGRATION_PASSES {
                let outside = of_container().into_iter().filter(|pid| is_at_root(*pid, &own.kind));
                let outside: Vec<i32> = outside.collect();
                if outside.is_empty() {
                    break;
                }
                for pid in outside {
                    own.migrate_process(&directory, pid, &of_container)?;
                }
            }
        }
        Ok(())
    }

    /// The hierarchy and path of each cgroup, in the form of view options.
    pub(crate) fn paths(&self) -> Vec<(Option<String>, CgroupPath)> {
        self.cgroups.iter().map(|own| (Some(own.kind.to_string()), own.path.clone())).collect()
    }

    /// Migrates a process into all the cgroups. From then on that keeps a scope.
    pub(crate) fn migrate_in(&self, process: i32) -> Result<(), Error> {
        for own in &self.cgroups {
            own.open()
                .and_then(|directory| write_file(&directory, "cgroup.procs", process.to_string().as_bytes()))
                .map_err(|errno| {
                    let what = format!("can't migrate the command into {} in hierarchy {}", own.path, own.kind);
                    Error::system(what, errno.into())
                })?;
        }
        self.holder.iter().for_each(ScopeHolder::end);
        Ok(())
    }

    /// Removes the cgroups with all that was made below, once their processes have ended. Cgroups that are gone are no error.
    pub(crate) fn remove(&self) {
        self.holder.iter().for_each(ScopeHolder::end);
        let start = Instant::now();
        for own in &self.cgroups {
            let mut outcome = own.remove_once();
            while outcome == Err(Errno::EBUSY) && start.elapsed() < REMOVE_TIMEOUT {
                std::thread::sleep(Duration::from_millis(10));
                outcome = own.remove_once();
            }
            if let Err(errno) = outcome {
                tracing::warn!(%errno, path = %own.path, hierarchy = %own.kind, "can't remove the cgroup");
            }
        }
    }
}

/// The v1 controllers that systemd manages.
const SYSTEMD_CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "blkio", "memory", "devices", "pids"];

/// How often to look for processes that were forked while others were migrated.
const MAX_MIGRATION_PASSES: usize = 20;

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

fn is_within(pid: i32, kind: &HierarchyKind, path: &CgroupPath) -> bool {
    location_of(pid, kind).is_some_and(|place| place.is_within(path))
}

/// Whether a process is in the root of a hierarchy. On v1 one that has ended seems to be there, too, but has no executable.
fn is_at_root(pid: i32, kind: &HierarchyKind) -> bool {
    location_of(pid, kind).is_some_and(|place| place.is_root()) && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn known(host: &HostCgroups) -> String {
    host.hierarchies.iter().map(|hierarchy| hierarchy.kind.to_string()).collect::<Vec<_>>().join(" ")
}

impl CreatedCgroup {
    fn make(
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

    /// Finds the cgroup of a scope by a process in it; `None` where systemd has made none.
    fn of_scope(host: &HostCgroups, index: usize, scope: &Scope, process: i32) -> Result<Option<Self>, Error> {
        let Some(hierarchy) = host.hierarchies.get(index) else { return Ok(None) };
        let Some(path) = location_of(process, &hierarchy.kind).filter(|path| scope.is_at(path)) else {
            return Ok(None);
        };
        // Processes that leave the scope go back to the root, where they were: systemd's slices have no processes.
        let parent = host.open_cgroup(index, &CgroupPath::root()).map_err(|errno| {
            Error::system(format!("can't open the root of hierarchy {}", hierarchy.kind), errno.into())
        })?;
        let name = path.components().join(OsStr::new("/"));
        Ok(Some(Self { kind: hierarchy.kind.clone(), path, parent, name, is_scope: true }))
    }

    /// Migrates the processes in and below the cgroup to the one above.
    fn evacuate(&self) {
        // Processes that were forked meanwhile are found in the next pass.
        for _ in 0..MAX_MIGRATION_PASSES {
            let inside = processes_that(|pid| is_within(pid, &self.kind, &self.path));
            if inside.is_empty() {
                break;
            }
            for pid in inside {
                // A process that has ended needs no migration. One that can't be migrated keeps the cgroup from being removed.
                let _ = write_file(&self.parent, "cgroup.procs", pid.to_string().as_bytes());
            }
        }
    }

    /// Migrates a process of the container into the cgroup.
    fn migrate_process(&self, directory: &OwnedFd, pid: i32, of_container: impl Fn() -> Vec<i32>) -> Result<(), Error> {
        match write_file(directory, "cgroup.procs", pid.to_string().as_bytes()) {
            // The number may have been reused by a process of others.
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

    fn open(&self) -> Result<OwnedFd, Errno> {
        open_directory(&self.parent, &self.name)
    }

    /// Gives a new v1 cpuset the CPUs and memory nodes of the one above. An empty cpuset takes no process
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

    fn remove_once(&self) -> Result<(), Errno> {
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

fn open_directory(parent: &impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes the cgroups below, the deepest first. A cgroup that can't be removed doesn't keep the others.
///
/// The container decides how many there are and how deep. So one directory is open at a time, and each level keeps the names of its
/// children. Going up by `..` is safe, since a cgroup's parent never changes.
fn remove_below(top: &OwnedFd) -> Result<(), Errno> {
    let mut outcome = Ok(());
    let mut at = open_directory(top, OsStr::new("."))?;
    // What is left to remove on each level; the last name of all levels but the deepest is the directory that was entered.
    let mut levels = vec![children(&at)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.last() {
            match open_directory(&at, name).and_then(|below| Ok((children(&below)?, below))) {
                Ok((names, below)) => {
                    levels.push(names);
                    at = below;
                }
                Err(errno) => {
                    level.pop();
                    outcome = outcome.and(ignore_gone(errno));
                }
            }
        } else {
            levels.pop();
            let Some(name) = levels.last_mut().and_then(Vec::pop) else { break };
            at = open_directory(&at, OsStr::new(".."))?;
            if let Err(errno) = unlinkat(&at, name.as_os_str(), UnlinkatFlags::RemoveDir) {
                outcome = outcome.and(ignore_gone(errno));
            }
        }
    }
    outcome
}

fn ignore_gone(errno: Errno) -> Result<(), Errno> {
    // The kernel answers ENODEV to a read of a directory that was removed.
    if matches!(errno, Errno::ENOENT | Errno::ENODEV) { Ok(()) } else { Err(errno) }
}

/// The names of the cgroups in an open directory.
pub(crate) fn children(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in nix::dir::Dir::from_fd(open_directory(directory, OsStr::new("."))?)?.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == Some(nix::dir::Type::Directory) && name != "." && name != ".." {
            names.push(name.to_os_string());
        }
    }
    Ok(names)
}
