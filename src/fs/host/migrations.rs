//! Writes to membership files.

use super::{Caller, Credentials, HostProcesses};
use crate::cgroup::CgroupPath;
use crate::fs::SysResult;
use crate::fs::inode::{Attributes, Node};

/// What the kernel may ask of whoever migrates a process, besides its rules about users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationChecks {
    /// Whether he may change the process' scheduling, where `cpuset_can_attach` may ask for that.
    pub nice: Option<bool>,
    /// Whether a caller who migrates itself may be asked that about each of its threads.
    pub of_threads: bool,
    /// Before Linux 3.13, `devcgroup_can_attach` asks for CAP_SYS_ADMIN, unless the thread that is migrated writes by itself. Of a whole
    /// process it's the first one.
    pub for_administrators: bool,
}

/// Migrates processes.
pub trait HostMigrations: HostProcesses {
    /// A migration during which others' writes to pid lists are noted.
    type Witnessed;

    /// Whether the kernel checks by itself, at the write, that both ends of a migration by this file are within the delegated subtree. It says
    /// `ENOENT` otherwise.
    fn checks_both_ends(&self, file: &Self::File) -> bool;
    /// Whether that's so by the opener's own cgroup namespace, which may begin further below.
    fn is_opened_inside(&self, file: &Self::File) -> bool;
    /// Opens a membership file once more, so that the kernel checks both ends. `None` if that isn't possible yet.
    fn open_checked(&self, file: &Self::File, node: &Node, opener: &Credentials) -> Option<Self::File>;
    /// Whether the kernel asks, in this hierarchy, for the writer's right to change the process' scheduling, as a cpuset does.
    fn asks_about_scheduling(&self, hierarchy: usize) -> bool;
    /// Whether the kernel asks, in this hierarchy, whether the writer is an administrator, as devices may.
    fn asks_for_administrators(&self, hierarchy: usize) -> bool;
    /// Owner and mode of `cgroup.procs` of a cgroup.
    fn procs_attributes(&self, hierarchy: usize, cgroup: &CgroupPath) -> SysResult<Attributes>;
    /// Writes the caller's own number to a membership file. `false` if the caller isn't where it was seen last.
    fn migrate_caller(
        &self,
        caller: &Caller,
        file: &Self::File,
        asked: MigrationChecks,
        process: &Self::Process,
    ) -> SysResult<bool>;
    /// Writes `number`, which names `process`, to a membership file for the caller. `false` if the process isn't where it was seen last.
    fn migrate(
        &self,
        caller: &Caller,
        numbers: &Self::PidNs,
        file: &Self::File,
        number: i32,
        asked: MigrationChecks,
        process: &Self::Process,
    ) -> SysResult<bool>;
    /// Notes from now on who else migrates processes in a membership file's hierarchy. `None` where that can't be seen.
    fn witness(&self, file: &Node) -> Option<Self::Witnessed>;
    /// Ends that after the migration. If somebody else has written a list outside of the subtree meanwhile, and the process is inside, that's
    /// logged.
    fn settle(&self, witnessed: Self::Witnessed, process: Self::Process);
}
