//! Writes to membership files.

use super::{Caller, Credentials, HostProcesses};
use crate::cgroup::CgroupPath;
use crate::fs::SysResult;
use crate::fs::inode::{Attributes, Node};

/// The checks that the kernel may make of the writer at a migration, besides its rules about users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationChecks {
    /// Whether the writer may change the process' scheduling, if `cpuset_can_attach` may check that.
    pub nice: Option<bool>,
    /// Whether a caller that migrates itself may be checked for each of its threads.
    pub of_threads: bool,
    /// Whether the migration needs an administrator. Before Linux 3.13, `devcgroup_can_attach` requires CAP_SYS_ADMIN
    /// unless the migrated thread writes itself. Of a whole process it looks at the first thread.
    pub for_administrators: bool,
}

/// Migrates processes.
pub trait HostMigrations: HostProcesses {
    /// A migration during which writes of others to pid lists are recorded.
    type MonitoredMigration;

    /// Whether the kernel itself checks at the write that both ends of a migration through this file are within the
    /// delegated subtree. If one isn't, it returns `ENOENT`.
    fn checks_both_ends(&self, file: &Self::File) -> bool;
    /// Whether they are within the opener's own cgroup namespace, which may begin further below.
    fn is_opened_inside(&self, file: &Self::File) -> bool;
    /// Opens a membership file again, so that the kernel checks both ends. `None` if that isn't possible yet.
    fn open_checked(&self, file: &Self::File, node: &Node, opener: &Credentials) -> Option<Self::File>;
    /// Whether the kernel, in this hierarchy, checks the writer's right to change the process' scheduling, as a
    /// cpuset does.
    fn asks_about_scheduling(&self, hierarchy: usize) -> bool;
    /// Whether the kernel, in this hierarchy, checks whether the writer is an administrator, as devices may.
    fn asks_for_administrators(&self, hierarchy: usize) -> bool;
    /// Owner and mode of `cgroup.procs` of a cgroup.
    fn procs_attributes(&self, hierarchy: usize, cgroup: &CgroupPath) -> SysResult<Attributes>;
    /// Writes the caller's own number to a membership file. Returns `false` if the caller has been migrated since it
    /// was seen last.
    fn migrate_caller(
        &self,
        caller: &Caller,
        file: &Self::File,
        checks: MigrationChecks,
        process: &Self::Process,
    ) -> SysResult<bool>;
    /// Writes `number`, which names `process`, to a membership file for the caller. Returns `false` if the process
    /// has been migrated since it was seen last.
    fn migrate(
        &self,
        caller: &Caller,
        numbers: &Self::PidNs,
        file: &Self::File,
        number: i32,
        checks: MigrationChecks,
        process: &Self::Process,
    ) -> SysResult<bool>;
    /// Records from now on which others migrate processes in a membership file's hierarchy. `None` if that can't be
    /// seen.
    fn monitor_migration(&self, file: &Node) -> Option<Self::MonitoredMigration>;
    /// Stops recording after the migration. If somebody else has written a list outside the subtree meanwhile, and
    /// the process is inside, the host logs it.
    fn finish_migration(&self, monitored: Self::MonitoredMigration, process: Self::Process);
}
