//! The start of a pid-namespace agent.
//!
//! The agent executes write(2) and pread(2) on descriptors that the server opened, from inside a container's pid
//! namespace. So the kernel translates pid numbers as it does for the container's own processes. Processes of the
//! container see the agent, may signal it, and, with CAP_SYS_PTRACE and the host's uid 0, may take it over. That
//! determines the order in `start`: the helper drops every privilege that it can *before* the agent exists in the
//! container's pid namespace. At no moment can the container reach a process that still has one.
//!
//! For the same reason the agent has no procfs of its own: procfs shows the pid namespace of the process that mounts
//! it, so a process with CAP_SYS_ADMIN would have to be inside first.
//! [`Request::SetOwner`](crate::request::Request::SetOwner) works without it.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use sys::capability::{CAP_SYS_ADMIN, CAP_SYS_NICE};
use sys::descriptors::{close_from, inherited};
use sys::owner::signal_group_on_event;
use sys::process::{CloneSide, clone_sibling, exit_now};
use sys::seqpacket::send;

use crate::request::{AgentStep, Hello};
use crate::{check, privileges, seccomp, serve};

/// The descriptor of the SOCK_SEQPACKET socket to the server.
pub const SOCKET_FD: RawFd = 3;
/// The descriptor of the lifeline: the reading end of a pipe whose writing end only the server has.
pub const LIFELINE_FD: RawFd = 4;
/// The descriptor of the first namespace; the others follow in the order of the command line.
pub const FIRST_NAMESPACE_FD: RawFd = 5;

/// A kind of namespace that the agent can join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// The container's pid namespace.
    Pid,
    /// A mount namespace with nothing in it but an empty read-only tmpfs.
    Mnt,
    /// A network namespace without interfaces.
    Net,
    /// An IPC namespace without objects.
    Ipc,
    /// A UTS namespace that isn't the host's.
    Uts,
}

impl Namespace {
    const ALL: [Self; 5] = [Self::Pid, Self::Mnt, Self::Net, Self::Ipc, Self::Uts];

    /// Returns the word for it on the helper's command line, which is its name in /proc/PID/ns.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Mnt => "mnt",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }

    /// Returns the flag with which setns checks that a descriptor is of this kind.
    #[must_use]
    pub fn flag(self) -> CloneFlags {
        match self {
            Self::Pid => CloneFlags::CLONE_NEWPID,
            Self::Mnt => CloneFlags::CLONE_NEWNS,
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// The namespaces of one agent, in the order of their descriptors.
#[derive(Debug, PartialEq, Eq)]
pub struct Namespaces(Vec<Namespace>);

impl Namespaces {
    /// Parses the rest of the command line. Returns `None` unless every word is known and given once, and `pid` and
    /// `mnt` are among them. A kernel may lack the others.
    pub fn from_words<'a>(words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut kinds = Vec::new();
        for word in words {
            let kind = Namespace::ALL.into_iter().find(|kind| kind.word() == word)?;
            if kinds.contains(&kind) {
                return None;
            }
            kinds.push(kind);
        }
        let complete = kinds.contains(&Namespace::Pid) && kinds.contains(&Namespace::Mnt);
        complete.then_some(Self(kinds))
    }
}

/// The step that failed and its errno, for [`Hello::Failed`].
type StepError = (AgentStep, Errno);

/// Marks an error with its step.
fn failed_at(step: AgentStep) -> impl Fn(Errno) -> StepError {
    move |errno| (step, errno)
}

/// The word on the command line for an agent that is lent CAP_SYS_ADMIN.
///
/// The server starts such an agent for a single request of a process in the same pid namespace that has the
/// capability itself, and waits for the answer. A process that can take over the agent can take over the caller as
/// well, so the container gains nothing.
pub const ADMINISTRATOR: &str = "administrator";

/// Makes an agent from the descriptors that the server left, and reports the result to the server. In the caller it
/// returns the exit status; in the agent it doesn't return.
pub(crate) fn start(namespaces: &Namespaces, is_administrator: bool) -> ExitCode {
    // Other open descriptors were inherited by accident, and an agent must have nothing that a container could take
    // from it. This comes first, while no descriptor has an owner.
    let end = FIRST_NAMESPACE_FD + namespaces.0.len() as RawFd;
    let closed = close_from(end);
    let Some(socket) = inherited(SOCKET_FD) else {
        return ExitCode::from(2);
    };

    let prepared =
        closed.map_err(failed_at(AgentStep::Close)).and_then(|()| prepare(&socket, namespaces, is_administrator));
    let cloned = prepared.and_then(|(lifeline, permitted)| {
        // CLONE_PARENT makes the agent the server's child, so this process may end now. The server ignores SIGCHLD,
        // so the kernel reaps an agent at once; a zombie would keep the container's init from ending.
        match clone_sibling().map_err(failed_at(AgentStep::Clone))? {
            CloneSide::Original => Ok(()),
            CloneSide::Sibling => run(&socket, lifeline, permitted),
        }
    });
    // The agent has no step left that could fail, so this process reports for it. If the server is gone, there's
    // nobody to tell.
    let (hello, status) = match cloned {
        Ok(()) => (Hello::Ready, 0),
        Err((step, errno)) => (Hello::Failed { step, errno: errno as i32 }, 1),
    };
    let told = send(socket.as_fd(), [&hello.encode()], &[]);
    drop(socket);
    exit_now(if told.is_ok() { status } else { 1 })
}

/// Does everything up to the clone; the child inherits exactly what this process then has. Returns the lifeline and the
/// permitted capabilities.
fn prepare(socket: &OwnedFd, namespaces: &Namespaces, is_administrator: bool) -> Result<(OwnedFd, u64), StepError> {
    // Keeps processes without CAP_SYS_PTRACE in the *initial* user namespace from tracing this process or opening its
    // /proc files. The clone inherits that.
    prctl::set_dumpable(false).map_err(failed_at(AgentStep::Privileges))?;
    // The container's ps shows this name.
    prctl::set_name(c"vcgroupfs-agent").map_err(failed_at(AgentStep::Privileges))?;

    check::seqpacket(socket.as_fd()).map_err(failed_at(AgentStep::Check))?;
    let lifeline = inherited(LIFELINE_FD).ok_or((AgentStep::Check, Errno::EBADF))?;
    check::pipe(lifeline.as_fd()).map_err(failed_at(AgentStep::Check))?;

    // No controlling terminal, and a process group of only this process and the agent.
    setsid().map_err(failed_at(AgentStep::Lifeline))?;
    // The lifeline: once the server closes its end of the pipe or ends, the kernel sends SIGKILL to that group. The
    // signal can't reach a reused pid, it works on a stopped agent, and on every kernel.
    signal_group_on_event(lifeline.as_fd(), libc::SIGKILL).map_err(failed_at(AgentStep::Lifeline))?;

    enter(namespaces)?;

    // Only the socket and the lifeline stay open. 0 to 2 must not be free: a later descriptor would get the number, and
    // a panic's message would be written to it. An O_PATH descriptor of the empty root can't be written to.
    stand_in_for_stdio().map_err(failed_at(AgentStep::Privileges))?;
    let more = if is_administrator { CAP_SYS_ADMIN } else { 0 };
    let permitted = privileges::drop_all(CAP_SYS_NICE | more).map_err(failed_at(AgentStep::Privileges))?;
    seccomp::confine().map_err(failed_at(AgentStep::Privileges))?;
    Ok((lifeline, permitted))
}

/// Joins the namespaces. Their descriptors are closed on return.
fn enter(namespaces: &Namespaces) -> Result<(), StepError> {
    let mut files = Vec::new();
    for (kind, number) in namespaces.0.iter().zip(FIRST_NAMESPACE_FD..) {
        let file = inherited(number).ok_or((AgentStep::Check, Errno::EBADF))?;
        check::namespace(file.as_fd()).map_err(failed_at(AgentStep::Check))?;
        files.push((*kind, file));
    }
    for (kind, file) in &files {
        let step = if *kind == Namespace::Pid { AgentStep::EnterPid } else { AgentStep::EnterEmpty };
        // For pid, this is the namespace of future children. For mnt, root and working directory become the
        // namespace's, so that nothing of the host's tree stays in reach.
        setns(file, kind.flag()).map_err(failed_at(step))?;
    }
    Ok(())
}

/// Replaces the standard descriptors by one that nothing can be written to.
pub(crate) fn stand_in_for_stdio() -> Result<(), Errno> {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&root)?;
    dup2_stdout(&root)?;
    dup2_stderr(&root)
}

/// Runs the agent.
fn run(socket: &OwnedFd, lifeline: OwnedFd, permitted: u64) -> ! {
    let status = match seccomp::confine_agent() {
        Ok(()) => serve::serve(socket.as_fd(), permitted),
        Err(_) => 1,
    };
    drop(lifeline);
    exit_now(status)
}

#[cfg(test)]
mod tests {
    use super::{Namespace, Namespaces};

    #[test]
    fn command_line_is_a_closed_set() {
        let parse = |line: &str| Namespaces::from_words(line.split_whitespace());
        let both = Some(Namespaces(vec![Namespace::Pid, Namespace::Mnt]));
        assert_eq!(parse("pid mnt"), both);
        assert!(parse("pid mnt net ipc uts").is_some());
        for line in ["", "pid", "mnt", "pid mnt pid", "pid mnt user", "pid mnt --help", "PID mnt"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
