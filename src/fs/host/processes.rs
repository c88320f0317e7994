//! Processes, and the numbers that name them.

use super::{Caller, HostFiles};
use crate::cgroup::membership::CgroupLocation;
use crate::fs::SysResult;

/// What the kernel's rules on migration ask of the process that is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// The real and the saved user id.
    pub users: [u32; 2],
    /// Its permitted capabilities.
    pub permitted: u64,
}

/// Finds the process that a number names, and where it is.
pub trait HostProcesses: HostFiles {
    /// A process or thread, held so that its number can't come to mean another one.
    type Process;
    /// The pid namespace whose numbers a caller uses.
    type PidNs: std::fmt::Debug + Send + Sync;

    /// The numbers that the caller uses. It waits for its answer meanwhile, so they don't change.
    fn numbers(&self, caller: &Caller) -> SysResult<Self::PidNs>;
    /// Whether it takes an agent to translate them.
    fn takes_agent(numbers: &Self::PidNs) -> bool;
    /// Reads a pid list in these numbers.
    fn read_members(
        &self,
        numbers: &Self::PidNs,
        file: &Self::File,
        offset: u64,
        buffer: &mut [u8],
    ) -> SysResult<usize>;
    /// Whether a pid list that is open for reading shows the numbers of its opener, as of the open, and not the reader's.
    fn shows_openers_numbers(&self, file: &Self::File) -> bool;
    /// Holds the caller itself.
    fn pin_caller(&self, caller: &Caller) -> SysResult<Self::Process>;
    /// Holds what `number` names. `ESRCH` if it names nothing.
    fn pin(&self, numbers: &Self::PidNs, number: i32) -> SysResult<Self::Process>;
    /// The users and capabilities of a process.
    fn facts(&self, process: &Self::Process) -> SysResult<ProcessFacts>;
    /// Whether a process is in the server's own user namespace, or can't be told to be in another one.
    fn is_in_own_user_namespace(&self, process: &Self::Process) -> bool;
    /// Whether the process still has its number.
    fn is_held(&self, process: &Self::Process) -> bool;
    /// Whether a process or thread is the calling thread.
    fn is_caller(&self, process: &Self::Process, caller: &Caller) -> bool;
    /// Where each thread of the process is in this hierarchy, or only the thread itself. The process remembers where it was seen.
    fn places(
        &self,
        process: &mut Self::Process,
        hierarchy: usize,
        whole_process: bool,
    ) -> SysResult<Vec<CgroupLocation>>;
}
