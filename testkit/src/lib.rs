//! Programs and fixtures for the tests of vcgroupfs.
//!
//! * [`probe`]: file operations as data, executed by the program `vcgroupfs-probe` as any caller;
//! * [`hammer`]: processes that use a cgroup tree as hard as they can; [`rivals`]: containers that interfere with each other; [`flood`]: requests that are
//!   repeated all the time;
//! * [`consumers`]: processes that use as much of a resource as they get;
//! * [`expulsion`]: processes that the host migrates out of a container while that pulls them back;
//! * [`legacy`]: Linux 3.10's cgroup v1, for a program that runs on a later kernel;
//! * [`require!`]: tests that need root, FUSE or cgroups skip loudly, or fail when `VCGROUPFS_REQUIRE` says so;
//! * [`Hierarchy`], [`TestCgroup`]: the host's hierarchies, and cgroups in them that are removed when the test ends;
//! * [`View`]: a mounted view; [`Container`]: a process tree in namespaces of its own; [`Session`]: a probe that runs;
//! * [`wait_until`] and others: waiting for conditions; [`status_field`] and others: facts about processes.

pub mod consumers;
pub mod copying;
pub mod expulsion;
pub mod flood;
pub mod hammer;
pub mod legacy;
pub mod probe;
pub mod rivals;

mod bind;
mod cgroup;
mod container;
mod hierarchy;
mod killer;
mod lifetime;
mod proc;
mod programs;
mod random;
mod require;
mod session;
mod view;
mod waiting;

pub use bind::Bind;
pub use cgroup::{TestCgroup, chown_tree};
pub use container::{Caller, Container, ContainerOptions, MAPPED_ROOT, OWNER, STRANGER};
pub use hierarchy::{Hierarchy, Kind, hierarchies, hierarchy};
pub use killer::{Kill, Killer, Way};
pub use lifetime::{ViewProcesses, is_over, kill_view, servers_of};
pub use proc::{children_of, processes, processor_ticks, resident_kib, status_field, thread_states, threads_named};
pub use programs::{
    NEXT_COMMIT, Programs, copy_program, kill_to_the_end, next_version, program, run_to_end, stop, write_program,
};
pub use random::Random;
pub use require::{Need, available, controller, each_sort, missing};
pub use session::Session;
pub use view::{RESTARTS_VARIABLE, View, ViewOptions};
pub use waiting::{TIMEOUT, comes_true, end_of, found_within, wait_for, wait_in_kernel, wait_until};
