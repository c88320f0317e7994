//! Processes, and the numbers that name them.

use super::{Caller, HostFiles};
use crate::cgroup::membership::CgroupLocation;
use crate::fs::SysResult;

/// The properties of a process that the kernel's rules on migration check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// The real and the saved user id.
    pub users: [u32; 2],
    /// Its permitted capabilities.
    pub permitted: u64,
}

/// Finds the process that a number names, and its cgroups.
pub trait HostProcesses: HostFiles {
    /// A process or thread, pinned so that its number can't come to mean another one.
    type Process;
    /// The pid namespace whose numbers a caller uses.
    type PidNs: std::fmt::Debug + Send + Sync;

    /// Returns the pid namespace of the caller. The caller waits for its answer, so it doesn't change.
    fn caller_pid_ns(&self, caller: &Caller) -> SysResult<Self::PidNs>;
    /// Whether only an agent can translate these numbers.
    fn needs_agent(numbers: &Self::PidNs) -> bool;
    /// Reads a pid list as seen in this pid namespace.
    fn read_members(
        &self,
        numbers: &Self::PidNs,
        file: &Self::File,
        offset: u64,
        buffer: &mut [u8],
    ) -> SysResult<usize>;
    /// Whether a pid list that is open for reading shows the numbers of its opener, as of the open, and not the
    /// reader's.
    fn shows_openers_numbers(&self, file: &Self::File) -> bool;
    /// Pins the caller itself.
    fn pin_caller(&self, caller: &Caller) -> SysResult<Self::Process>;
    /// Pins the process that `number` names. `ESRCH` if there is none.
    fn pin(&self, numbers: &Self::PidNs, number: i32) -> SysResult<Self::Process>;
    /// Returns the users and capabilities of a process.
    fn facts(&self, process: &Self::Process) -> SysResult<ProcessFacts>;
    /// Whether a process is in the server's own user namespace, or can't be shown to be in another one.
    fn is_in_own_user_namespace(&self, process: &Self::Process) -> bool;
    /// Whether the process still has its number.
    fn is_held(&self, process: &Self::Process) -> bool;
    /// Whether a process or thread is the calling thread.
    fn is_caller(&self, process: &Self::Process, caller: &Caller) -> bool;
    /// Returns the cgroup of each thread of the process in this hierarchy, or only that of the thread itself. The
    /// process remembers where it was seen.
    fn thread_locations(
        &self,
        process: &mut Self::Process,
        hierarchy: usize,
        whole_process: bool,
    ) -> SysResult<Vec<CgroupLocation>>;
}
