//! Processes and pid lists.

use std::os::fd::AsFd;

use super::RealHost;
use crate::cgroup::membership::CgroupLocation;
use crate::fs::Answer;
use crate::fs::host::{Caller, HostFiles, HostProcesses, ProcessFacts};
use crate::host::file::BackingFile;
use crate::host::process::{self, HeldProcess, Numbers};

impl HostProcesses for RealHost {
    type Process = HeldProcess;
    type Numbers = Numbers;

    fn numbers(&self, caller: &Caller) -> Answer<Numbers> {
        self.shared.processes.numbers(caller)
    }

    fn takes_agent(numbers: &Numbers) -> bool {
        matches!(numbers, Numbers::Of(_))
    }

    fn read_members(&self, numbers: &Numbers, file: &BackingFile, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
        match numbers {
            Numbers::Own => self.read(file, offset, buffer),
            Numbers::Of(namespace) => {
                let agents = self.shared.processes.agents()?;
                match &file.list {
                    Some(list) => list.read(agents, namespace, file, offset, buffer),
                    None => agents.read(namespace, file.fd.as_fd(), offset, buffer),
                }
            }
        }
    }

    fn shows_openers_numbers(&self, file: &BackingFile) -> bool {
        file.list.is_some()
    }

    fn pin_caller(&self, caller: &Caller) -> Answer<HeldProcess> {
        self.shared.processes.pin_own(caller.tid)
    }

    fn pin(&self, numbers: &Numbers, number: i32) -> Answer<HeldProcess> {
        self.shared.processes.pin(numbers, number)
    }

    fn facts(&self, process: &HeldProcess) -> Answer<ProcessFacts> {
        process::facts(process)
    }

    fn is_in_own_user_namespace(&self, process: &HeldProcess) -> bool {
        self.shared.processes.is_of_own_user_namespace(process.directory())
    }

    fn is_held(&self, process: &HeldProcess) -> bool {
        process.is_held()
    }

    fn is_caller(&self, process: &HeldProcess, caller: &Caller) -> bool {
        process.host_number() == Some(caller.tid)
    }

    fn places(&self, process: &mut HeldProcess, hierarchy: usize, whole_process: bool) -> Answer<Vec<CgroupLocation>> {
        self.shared.processes.places(process, hierarchy, whole_process)
    }
}
