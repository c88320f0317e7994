//! An agent that is held in the middle of a migration, until the host has taken the process out: what else takes luck.

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use testkit::expulsion::{is_in, migrate};
use testkit::probe::names::*;
use testkit::{Need, require};

use super::{HIERARCHIES, Scene};

const PWRITE64: u64 = 18;
const RECVMSG: u64 = 47;

/// How far an agent gets before the host takes the process out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// The agent has been told to migrate the process, and has done nothing yet.
    Told,
    /// The agent is about to write: no check can prevent that.
    Writing,
}

/// The agent of a server's only container.
fn agent_of(server: u32) -> Option<Pid> {
    let is_agent = |pid: &u32| testkit::status_field(*pid, "Name").as_deref() == Some("vcgroupfs-agent");
    testkit::children_of(server).into_iter().find(is_agent).map(|pid| Pid::from_raw(pid.cast_signed()))
}

/// Follows an agent from system call to system call after `begin`, and holds it when it has come so far, while `meanwhile` is done.
fn hold(agent: Pid, held: Held, begin: impl FnOnce(), meanwhile: impl FnOnce()) {
    ptrace::seize(agent, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("to trace the agent");
    ptrace::interrupt(agent).expect("to stop the agent");
    let mut begin = Some(begin);
    let mut requests = 0;
    loop {
        match waitpid(agent, Some(WaitPidFlag::__WALL)).expect("the agent's state") {
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(agent).expect("the agent's registers");
                let result = registers.rax.cast_signed();
                let is_entry = result == -i64::from(libc::ENOSYS);
                // Two numbers are asked for first: to find the process, and to be sure of it.
                requests += usize::from(!is_entry && registers.orig_rax == RECVMSG && result > 0);
                let is_there = match held {
                    Held::Told => requests == 3,
                    Held::Writing => is_entry && registers.orig_rax == PWRITE64,
                };
                if is_there {
                    break;
                }
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => panic!("the agent has ended"),
            _ => {
                if let Some(begin) = begin.take() {
                    begin();
                }
            }
        }
        ptrace::syscall(agent, None::<Signal>).expect("to let the agent go on");
    }
    meanwhile();
    ptrace::detach(agent, None).expect("to let the agent go");
}

/// Whether a process comes back that is taken out at this moment, and how often that's told.
fn taken_out_while(selector: &str, held: Held) -> (bool, usize) {
    let scene = Scene::new(selector, false);
    let mut expulsion = scene.expulsion(selector, "cgroup.procs", "$P");
    let process = expulsion.host_number("$CG/a/cgroup.procs");
    let agent = agent_of(scene.view.server()).expect("an agent that has just migrated a process");
    let write = [write_file("$CG/b/cgroup.procs", "$P")];
    let outside = scene.outside(selector);
    let session = &mut expulsion.session;
    hold(agent, held, || session.begin(&write), || migrate(process, &outside));
    let outcome = expulsion.session.finish(&write);
    let is_back = !is_in(&outside, process);
    assert_eq!(outcome[0].errno(), (!is_back).then_some("EACCES"), "{selector}, {held:?}");
    (is_back, scene.told(usize::from(is_back)))
}

/// Stopped by the container, an agent can take as long as that likes. It looks once more before it writes.
#[test]
fn an_agent_that_was_stopped_checks_again() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("unified")
    );
    for selector in HIERARCHIES {
        assert!(!taken_out_while(selector, Held::Told).0, "{selector}");
    }
}

#[test]
fn a_process_that_comes_back_after_the_last_check_is_logged() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("unified")
    );
    for selector in HIERARCHIES {
        let (is_back, told) = taken_out_while(selector, Held::Writing);
        // Other tests are the host, too, so there may be more.
        assert!(is_back && told > 0, "{selector}: {is_back}, {told}");
    }
}
