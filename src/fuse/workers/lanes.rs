//! The lane in which an operation runs: in the worker that has read the request, or in a thread beside the workers.

use std::sync::Arc;

use super::fair_pool::FairPool;
use super::throttle::is_throttled;
use crate::fs::{Caller, CgroupFs, Host, NodeId, Transfer};
use crate::records::Records;

/// The kind of thread in which an operation runs, by what it may have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fuse) enum Lane {
    /// In the worker that has read the request: it waits for nothing that a container controls.
    Worker,
    /// The operation needs an agent, which the container can stop.
    Agent,
    /// The kernel may block the operation: for memory reclaim, or for a device.
    Slow,
    /// The operation registers an event, which takes a process of its own.
    Events,
    /// The tenant has used up its processor time, and waits until that is paid for.
    Throttled,
}

impl Lane {
    /// The lane of a read.
    pub(in crate::fuse) fn of_read<H: Host>(fs: &CgroupFs<H>, from: &Transfer<H>) -> Self {
        if from.waits_for_an_agent() {
            Self::Agent
        } else if is_throttled(fs) {
            Self::Throttled
        } else {
            Self::Worker
        }
    }

    /// The lane of making a cgroup in a directory.
    pub(in crate::fuse) fn of_mkdir<H: Host>(fs: &CgroupFs<H>, caller: &Caller, parent: NodeId) -> Self {
        if fs.making_may_block(caller, parent) { Self::Slow } else { Self::Worker }
    }

    /// The lane of a write.
    pub(in crate::fuse) fn of_write<H: Host>(fs: &CgroupFs<H>, to: &Transfer<H>) -> Self {
        if to.waits_for_an_agent() {
            Self::Agent
        } else if to.takes_long() {
            Self::Slow
        } else if to.registers_an_event() {
            Self::Events
        } else if is_throttled(fs) {
            Self::Throttled
        } else {
            Self::Worker
        }
    }
}

/// The threads of the lanes beside the workers. Work that waits in one lane doesn't delay another.
#[derive(Debug)]
pub(in crate::fuse) struct Lanes {
    agents: FairPool,
    slow: FairPool,
    events: FairPool,
    pub(in crate::fuse) throttled: FairPool,
}

impl Lanes {
    /// Makes lanes in which `at_once` operations of a tenant run at once.
    pub(in crate::fuse) fn new(at_once: usize, records: &Arc<Records>) -> Self {
        let pool = || FairPool::new(at_once, records);
        Self { agents: pool(), slow: pool(), events: pool(), throttled: FairPool::new(1, records) }
    }

    /// The threads of a lane; `None` for the workers'.
    pub(in crate::fuse) fn pool(&self, lane: Lane) -> Option<&FairPool> {
        match lane {
            Lane::Worker => None,
            Lane::Agent => Some(&self.agents),
            Lane::Slow => Some(&self.slow),
            Lane::Events => Some(&self.events),
            Lane::Throttled => Some(&self.throttled),
        }
    }
}
