//! Processes by their numbers: what a number names, and where a process is.

use std::io;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::held_process::{HeldProcess, no_process};
use super::last_caller::{self, Kind};
use super::procfs::{self, Namespace};
use crate::agents::{AgentPool, PidNamespace};
use crate::cgroup::HierarchyKind;
use crate::cgroup::membership::CgroupLocation;
use crate::fs::SysResult;
use crate::fs::host::Caller;
use crate::host::errno::errno;

/// The host's processes.
#[derive(Debug)]
pub(in crate::host) struct Processes {
    kinds: Vec<HierarchyKind>,
    agents: Option<AgentPool>,
    own_pid_namespace: Namespace,
}

/// The pid namespace whose numbers a caller uses.
#[derive(Debug)]
pub enum PidNs {
    /// The numbers of the server's own pid namespace.
    Own,
    /// Those of this pid namespace.
    Of(PidNamespace),
}

impl Processes {
    pub(in crate::host) fn new(kinds: Vec<HierarchyKind>, agents: Option<AgentPool>) -> io::Result<Self> {
        Ok(Self { kinds, agents, own_pid_namespace: procfs::own_namespace("pid")? })
    }

    pub(in crate::host) fn agents(&self) -> SysResult<&AgentPool> {
        self.agents.as_ref().ok_or(Errno::EACCES)
    }

    pub(in crate::host) fn caller_pid_ns(&self, caller: &Caller) -> SysResult<PidNs> {
        if last_caller::namespace(caller.tid, Kind::Pid).map_err(errno)? == self.own_pid_namespace {
            return Ok(PidNs::Own);
        }
        Ok(PidNs::Of(PidNamespace::open(caller.tid).map_err(errno)?))
    }

    pub(in crate::host) fn pin_own(&self, number: i32) -> SysResult<HeldProcess> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(format!("/proc/{number}").as_str(), flags, Mode::empty());
        opened.map(HeldProcess::from).map_err(no_process)
    }

    pub(in crate::host) fn pin(&self, numbers: &PidNs, number: i32) -> SysResult<HeldProcess> {
        match numbers {
            PidNs::Own => self.pin_own(number),
            PidNs::Of(namespace) => {
                self.agents()?.open_proc(namespace, number).map(HeldProcess::from).map_err(no_process)
            }
        }
    }

    /// Returns the cgroup of each thread, the held one last, or only that one's.
    pub(in crate::host) fn thread_locations(
        &self,
        process: &mut HeldProcess,
        hierarchy: usize,
        whole_process: bool,
    ) -> SysResult<Vec<CgroupLocation>> {
        let kind = self.kinds.get(hierarchy).ok_or(Errno::ENODEV)?;
        process.thread_locations(kind, whole_process)
    }
}
