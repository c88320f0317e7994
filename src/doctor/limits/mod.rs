//! The effective limits, whatever programs see of them: the tightest over a cgroup and its ancestors, from the host's
//! files. Pure: the files come through [`HostFiles`].
//!
//! [`report`] makes a [`Row`] for each resource, with the limit, the usage and the events of each cgroup up to the root.
//! [`Limits`] is the part of it that the models of programs are compared with.

mod amount;
mod cgroup;
mod cpu;
mod cpu_list;
mod hugetlb;
mod io;
mod memory;
mod pids;
mod report;
mod row;
mod summary;
#[cfg(test)]
mod tests;

pub(crate) use amount::{Amount, Unit};
pub(crate) use cgroup::HostFiles;
pub(crate) use cpu_list::{count_in_both, count_of_list};
pub(crate) use report::{Machine, report};
pub(crate) use row::{Limit, Resource, Row, State};
pub(crate) use summary::Limits;
