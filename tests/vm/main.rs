//! What has to hold on every kernel and in every cgroup setup: run by `tests/vm/run` in virtual machines, whose setup the variable
//! `VCGROUPFS_VM` names. Elsewhere every test here is skipped. Tests named `v1_` need hierarchies of cgroup v1, those named `v2_` a machine without any.

mod attach;
mod containers;
mod discovery;
mod expulsion;
mod files;
mod killed;
mod life;
mod namespace;
mod scene;

/// The setup of the machine's cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    Legacy,
    Hybrid,
    Unified,
}

/// `None` outside a virtual machine, after having said so.
fn setup() -> Option<Setup> {
    match std::env::var("VCGROUPFS_VM").as_deref() {
        Ok("legacy") => Some(Setup::Legacy),
        Ok("hybrid") => Some(Setup::Hybrid),
        Ok("unified") => Some(Setup::Unified),
        Ok(other) => panic!("VCGROUPFS_VM={other} is no setup"),
        Err(_) => {
            eprintln!("skipped: needs a virtual machine (tests/vm/run)");
            None
        }
    }
}

/// Returns from a test that isn't run in a virtual machine.
macro_rules! in_a_machine {
    () => {
        if $crate::setup().is_none() {
            return;
        }
    };
}
use in_a_machine;
