//! The state that the views of a server share: the host's hierarchies, its processes, and the caches of both.

use std::sync::{Arc, OnceLock};

use super::cgroup_namespace::OwnCgroupNamespace;
use super::dir_changes::Followers;
use super::dir_fd_cache::DirFdCache;
use super::hierarchies::HostCgroups;
use super::migration_monitor::MigrationMonitor;
use super::nsdelegate::Nsdelegate;
use super::pid_list::KeptBytes;
use super::proc::credentials::CredentialReader;
use super::proc::processes::Processes;
use super::readiness::ReadyFiles;
use super::watch::Watches;
use crate::agents::{AgentPool, EventRegistrar};
use crate::records::Records;
use crate::sys::capability::capabilities;

/// The state that the views of a server share.
#[derive(Debug)]
pub struct SharedHost {
    pub(super) cgroups: HostCgroups,
    pub(super) processes: Processes,
    pub(super) credentials: CredentialReader,
    pub(super) dir_fds: DirFdCache,
    /// The server's own permitted capabilities, all of which are effective.
    pub(super) capabilities: u64,
    /// `None` if no inotify instance is left: then nothing is cached.
    pub(super) watches: Option<Arc<Watches>>,
    /// Made when a directory is listed again; `None` if no inotify instance is left.
    pub(super) followers: OnceLock<Option<Arc<Followers>>>,
    pub(super) ready_files: ReadyFiles,
    /// `None` on a kernel without cgroup namespaces.
    pub(super) cgroup_namespace: Option<OwnCgroupNamespace>,
    pub(super) nsdelegate: Nsdelegate,
    pub(super) migration_monitor: MigrationMonitor,
    /// Whether the kernel makes pid lists when they are opened. Determined when a list is first opened.
    pub(super) lists_are_made_at_open: OnceLock<bool>,
    /// The kept pid lists.
    pub(super) kept_lists: Arc<KeptBytes>,
    /// `None` without agents.
    pub(super) registrar: Option<EventRegistrar>,
}

impl SharedHost {
    /// Without agents nothing can be found out about the processes of another pid namespace. Without watches nothing
    /// is cached, and others' changes make no events.
    ///
    /// # Errors
    /// When the server's own namespaces can't be read.
    pub fn new(
        cgroups: HostCgroups,
        agents: Option<AgentPool>,
        watches: bool,
        records: &Arc<Records>,
    ) -> std::io::Result<Self> {
        let registrar = agents.as_ref().map(|agents| EventRegistrar::new(agents.image())).transpose()?;
        let kinds = cgroups.hierarchies.iter().map(|hierarchy| hierarchy.kind.clone()).collect();
        let watches = watches.then(|| Watches::new(records)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "no inotify instance (fs.inotify.max_user_instances): the view works, but slowly, since nothing is cached");
            None
        });
        Ok(Self {
            cgroups,
            processes: Processes::new(kinds, agents)?,
            credentials: CredentialReader::new(),
            dir_fds: DirFdCache::default(),
            capabilities: capabilities()?.permitted,
            watches: watches.map(Arc::new),
            followers: OnceLock::new(),
            ready_files: ReadyFiles::new()?,
            registrar,
            cgroup_namespace: OwnCgroupNamespace::new(),
            nsdelegate: Nsdelegate::default(),
            migration_monitor: MigrationMonitor::default(),
            lists_are_made_at_open: OnceLock::new(),
            kept_lists: Arc::default(),
        })
    }

    /// Whether pid lists of cgroup v1 show the opener's numbers, as of the open.
    pub(super) fn lists_are_made_at_open(&self) -> bool {
        *self.lists_are_made_at_open.get_or_init(|| super::pid_list::are_made_at_open(&self.cgroups))
    }

    /// The host's hierarchies.
    pub fn cgroups(&self) -> &HostCgroups {
        &self.cgroups
    }
}
