//! The cgroups that `run` and `attach --place` make in each hierarchy, and remove again.

mod created;
mod end;
mod subtree;

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupPath, HierarchyClass, HierarchyKind, parse_memberships};
use crate::error::Error;
use crate::host::HostCgroups;
use crate::host::interface_file::write_file;
use crate::provision::systemd;
use crate::provision::systemd::{Scope, ScopeHolder};
use created::CreatedCgroup;
pub(crate) use subtree::children;

/// How long to try to remove a cgroup whose last processes are ending.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Cgroups of one name in several hierarchies.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CreatedCgroups {
    cgroups: Vec<CreatedCgroup>,
    /// A process that keeps systemd's scope until another process is in it.
    #[serde(skip)]
    holder: Option<ScopeHolder>,
}

impl CreatedCgroups {
    /// Makes a cgroup `name` in each hierarchy: below the requested cgroup, or else below the caller's own. If none
    /// is requested and systemd manages the host, a scope of systemd provides the cgroups in the hierarchies that it
    /// manages.
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
            return Err(
                crate::host::PlanError::NoHierarchy { name: unknown.clone(), known: hierarchy_names(host) }.into()
            );
        }
        crate::host::check_named_once(host, requested)?;
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
                // The caller's cgroup namespace doesn't reach this hierarchy.
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

    /// Makes a cgroup `name` at the top of the hierarchies with these indexes, for the container of `process`, which
    /// is in their roots. If systemd manages exactly these hierarchies, a scope of systemd provides the cgroups.
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

    /// Adds the cgroups of this name that an earlier call of [`Self::make_at_top`] has made for the container of
    /// `process`.
    pub(crate) fn adopt_at_top(&mut self, host: &HostCgroups, name: &str, process: i32) {
        let indexes = 0..host.hierarchies.len();
        let existing = indexes.filter_map(|index| CreatedCgroup::existing_at_top(host, index, name));
        self.cgroups.extend(existing.filter(|own| created::is_within(process, &own.kind, &own.path)));
    }

    /// Finds an existing cgroup at the top of the hierarchy with this index.
    pub(crate) fn existing_at_top(host: &HostCgroups, index: usize, name: &str) -> Option<Self> {
        let own = CreatedCgroup::existing_at_top(host, index, name)?;
        Some(Self { cgroups: vec![own], holder: None })
    }

    /// Migrates the processes in and below the cgroups to the parents.
    pub(crate) fn evacuate(&self) {
        // systemd removes a scope when it's empty on v2, or on legacy hosts in the named hierarchy. So these come
        // last.
        for class in [HierarchyClass::V1Controllers, HierarchyClass::V1Named, HierarchyClass::Unified] {
            self.cgroups.iter().filter(|own| own.kind.class() == class).for_each(CreatedCgroup::evacuate);
        }
    }

    /// Migrates the container's processes into all the cgroups. It calls `of_container` again to find those that were
    /// forked meanwhile.
    pub(crate) fn migrate_container(&self, of_container: impl Fn() -> Vec<i32>) -> Result<(), Error> {
        self.cgroups.iter().try_for_each(|own| own.migrate_container(&of_container))
    }

    /// The hierarchy and path of each cgroup, in the form of view options.
    pub(crate) fn paths(&self) -> Vec<(Option<String>, CgroupPath)> {
        self.cgroups.iter().map(|own| (Some(own.kind.to_string()), own.path.clone())).collect()
    }

    /// Migrates a process into all the cgroups. From then on that process keeps a scope.
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

    /// Removes the cgroups and everything below, once their processes have ended. Missing cgroups are no error.
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

fn hierarchy_names(host: &HostCgroups) -> String {
    host.hierarchies.iter().map(|hierarchy| hierarchy.kind.to_string()).collect::<Vec<_>>().join(" ")
}
