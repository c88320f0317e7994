//! The report: a row for each resource.

use serde::Serialize;

use super::cgroup::HostFiles;
use super::row::Row;
use super::{cpu, hugetlb, io, memory, pids};
use crate::cgroup::Membership;

/// What the machine has, whatever cgroups allow, and what a process may use of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// The list of CPUs that are online.
    pub(crate) online: String,
    /// The list of CPUs on which the process may run.
    #[serde(skip)]
    pub(crate) affinity: String,
    /// Bytes of memory and of swap.
    pub(crate) memory: u64,
    pub(crate) swap: u64,
    /// The sizes of huge pages, as the names of the files have them: `2MB`.
    pub(crate) huge_page_sizes: Vec<String>,
}

/// Finds the limits of a process with these memberships, by the host's paths.
pub(crate) fn report(host: &dyn HostFiles, memberships: &[Membership], machine: &Machine) -> Vec<Row> {
    let memory = memory::memory(host, memberships);
    let more = memory::more(host, memberships, &memory);
    let processors = cpu::Processors { online: &machine.online, affinity: &machine.affinity };
    let mut rows = vec![cpu::time(host, memberships), cpu::cpus(host, memberships, &processors), memory];
    rows.extend(more);
    rows.push(pids::pids(host, memberships));
    rows.extend(io::io(host, memberships));
    rows.extend(hugetlb::hugetlb(host, memberships, &machine.huge_page_sizes));
    rows
}
