//! Processes and pid lists.

use std::os::fd::AsFd;

use super::KernelHost;
use crate::cgroup::membership::CgroupLocation;
use crate::fs::SysResult;
use crate::fs::host::{Caller, HostFiles, HostProcesses, ProcessFacts};
use crate::host::backing_file::BackingFile;
use crate::host::proc::held_process::{self, HeldProcess};
use crate::host::proc::processes::PidNs;

impl HostProcesses for KernelHost {
    type Process = HeldProcess;
    type PidNs = PidNs;

    fn caller_pid_ns(&self, caller: &Caller) -> SysResult<PidNs> {
        self.shared.processes.caller_pid_ns(caller)
    }

    fn needs_agent(numbers: &PidNs) -> bool {
        matches!(numbers, PidNs::Of(_))
    }

    fn read_members(&self, numbers: &PidNs, file: &BackingFile, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
        match numbers {
            PidNs::Own => self.read(file, offset, buffer),
            PidNs::Of(namespace) => {
                let agents = self.shared.processes.agents()?;
                match &file.list {
                    Some(list) => {
                        list.read(agents, namespace, |offset, part| file.read_at(offset, part), offset, buffer)
                    }
                    None => agents.read(namespace, file.fd.as_fd(), offset, buffer),
                }
            }
        }
    }

    fn shows_openers_numbers(&self, file: &BackingFile) -> bool {
        file.list.is_some()
    }

    fn pin_caller(&self, caller: &Caller) -> SysResult<HeldProcess> {
        self.shared.processes.pin_own(caller.tid)
    }

    fn pin(&self, numbers: &PidNs, number: i32) -> SysResult<HeldProcess> {
        self.shared.processes.pin(numbers, number)
    }

    fn facts(&self, process: &HeldProcess) -> SysResult<ProcessFacts> {
        held_process::facts(process)
    }

    fn is_in_own_user_namespace(&self, process: &HeldProcess) -> bool {
        self.shared.credentials.is_of_own_user_namespace(process.directory())
    }

    fn is_held(&self, process: &HeldProcess) -> bool {
        process.is_held()
    }

    fn is_caller(&self, process: &HeldProcess, caller: &Caller) -> bool {
        process.host_number() == Some(caller.tid)
    }

    fn thread_locations(
        &self,
        process: &mut HeldProcess,
        hierarchy: usize,
        whole_process: bool,
    ) -> SysResult<Vec<CgroupLocation>> {
        self.shared.processes.thread_locations(process, hierarchy, whole_process)
    }
}
