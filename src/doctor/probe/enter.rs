//! Makes the child see what the target sees, with no more privileges than the target has.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, open, openat2};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstat, stat};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    ForkResult, Gid, Uid, chdir, chroot, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, getppid, setgroups, setresgid,
    setresuid,
};

use crate::cgroup::parse_mountinfo;
use crate::doctor::facts::Process;
use crate::doctor::limits::{Machine, count_in_both, count_of_list};
use crate::doctor::probe::machine::machine;
use crate::doctor::probe::target::{ProbeTarget, is_own_cgroup_namespace};
use crate::sys;
use crate::sys::capability::CAP_SYS_ADMIN;

/// How much of a file of /proc is read. With 200 bytes for each mount that is 20000 mounts; the kernel's own limit is
/// five times as high.
const MAX_PROC_BYTES: u64 = 4 << 20;

/// The error of a step that failed.
#[derive(Debug)]
pub(crate) struct EnterError {
    pub(crate) what: String,
    pub(crate) errno: i32,
}

fn failed<E: Into<io::Error>>(what: impl fmt::Display) -> impl FnOnce(E) -> EnterError {
    move |error| {
        let error: io::Error = error.into();
        EnterError { what: what.to_string(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// The lines of `/proc/PID/status` that determine what a process may do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Credentials {
    /// Real, effective, saved, filesystem.
    users: Vec<u32>,
    groups: Vec<u32>,
    supplementary: Vec<u32>,
    effective: u64,
}

impl Credentials {
    fn parse(status: &str) -> Self {
        let mut found = Self::default();
        let numbers = |text: &str| text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        for (key, value) in status.lines().filter_map(|line| line.split_once(':')) {
            match key {
                "Uid" => found.users = numbers(value),
                "Gid" => found.groups = numbers(value),
                "Groups" => found.supplementary = numbers(value),
                "CapEff" => found.effective = u64::from_str_radix(value.trim(), 16).unwrap_or(0),
                _ => {}
            }
        }
        found
    }
}

/// Makes the single-threaded child enter the target. It reads the kernel's information about the target, joins its
/// cgroup and mount namespaces and its root directory, and drops all privileges that the target lacks. Only the
/// descriptors in `kept` stay open, and the standard three, which lead to /dev/null.
///
/// From before it joins until it ends, no process of the target may trace it or read its memory. It stays in its
/// original cgroups, which the target can't freeze. Besides the facts it gets a directory of its own descriptors,
/// through which it can reopen them. It doesn't join the pid namespace, where it could be seen and signalled. The
/// exception is a target with mounts of the devices `by_caller`, which show a process the container of its pid
/// namespace ([`continue_in_pid_namespace`]).
pub(crate) fn enter(
    target: ProbeTarget,
    by_caller: &[(u32, u32)],
    kept: BorrowedFd<'_>,
) -> Result<(Process, OwnedFd), EnterError> {
    hide()?;
    let nothing = File::options().read(true).write(true).open("/dev/null").map_err(failed("can't open /dev/null"))?;
    dup2_stdin(&nothing)
        .and_then(|()| dup2_stdout(&nothing))
        .and_then(|()| dup2_stderr(&nothing))
        .map_err(failed("can't leave the terminal"))?;
    drop(nothing);
    let kept: Vec<_> = target.descriptors().into_iter().chain([kept]).collect();
    sys::descriptors::close_all_but(&kept).map_err(failed("can't close descriptors"))?;
    drop(kept);

    let own = ProbeTarget::open(None)
        .map_err(|_| EnterError { what: "can't open /proc/self".to_owned(), errno: libc::ENOENT })?;
    let status = text(&target, "status")?;
    let credentials = Credentials::parse(&status);
    let may_mount = credentials.effective & CAP_SYS_ADMIN != 0 && owns_its_mounts(&target)?;
    let [cgroups, mounts, users] =
        [other(&target, &own, "cgroup")?, other(&target, &own, "mnt")?, other(&target, &own, "user")?];
    if let Some(cgroups) = cgroups {
        setns(cgroups, CloneFlags::CLONE_NEWCGROUP).map_err(failed("can't join the cgroup namespace"))?;
    }
    // The kernel shows the paths in these relative to the reader's cgroup namespace.
    let process = Process {
        command: text(&target, "comm")?.trim_end().to_owned(),
        cgroup: text(&target, "cgroup")?,
        mountinfo: text(&target, "mountinfo")?,
        controllers: std::fs::read_to_string("/proc/cgroups").unwrap_or_default(),
        cgroup_namespace: number(&target, "cgroup")?.map(is_own_cgroup_namespace),
        may_mount,
        openat2: openat2(nix::fcntl::AT_FDCWD, "/", OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC)).is_ok(),
        ..processors(&status)
    };
    let asks_who_calls =
        parse_mountinfo(process.mountinfo.as_bytes()).iter().any(|mount| by_caller.contains(&mount.device));
    let inside = if asks_who_calls { TargetNamespaces::of(&target, &own)? } else { None };
    let root = target.open_file("root", OFlag::O_PATH | OFlag::O_DIRECTORY);
    let root = root.map_err(failed(format_args!("can't open the root of process {}", target.pid)))?;
    let is_same = users.is_none() && credentials == Credentials::parse(&text(&own, "status")?);
    drop((target, own));

    if let Some(inside) = inside {
        continue_in_pid_namespace(inside)?;
    }
    // The last descriptor of the host. It leads only to this process' own descriptors.
    let own_files = open("/proc/self/fd", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let own_files = own_files.map_err(failed("can't open /proc/self/fd"))?;
    let is_elsewhere = mounts.is_some();
    if let Some(mounts) = mounts {
        setns(mounts, CloneFlags::CLONE_NEWNS).map_err(failed("can't join the mount namespace"))?;
    }
    if is_elsewhere || !is_root(root.as_fd()) {
        fchdir(&root).and_then(|()| chroot(".")).map_err(failed("can't change the root directory"))?;
    }
    drop(root);
    chdir("/").map_err(failed("can't change to the root directory"))?;
    if !is_same {
        take_on_credentials(&credentials, users).map_err(failed("can't take on the credentials of the process"))?;
    }
    // A change of credentials has undone these settings.
    hide()?;
    Ok((process, own_files))
}

/// Returns the machine's memory and CPUs, and those that a process may use, by its `status`.
fn processors(status: &str) -> Process {
    let Machine { online, affinity, memory, .. } = machine(status);
    let count = count_of_list(&online).max(1);
    // sched_getaffinity omits offline CPUs.
    let affinity = if online.is_empty() { count_of_list(&affinity) } else { count_in_both(&affinity, &online) };
    Process { affinity: affinity.max(1), online: count, memory, ..Process::default() }
}

/// The target's pid namespace, and its other namespaces that this process isn't in.
struct TargetNamespaces {
    pids: OwnedFd,
    others: Vec<(CloneFlags, OwnedFd)>,
}

impl TargetNamespaces {
    /// `None` for a target in this process' own pid namespace.
    fn of(target: &ProbeTarget, own: &ProbeTarget) -> Result<Option<Self>, EnterError> {
        let Some(pids) = other(target, own, "pid")? else { return Ok(None) };
        let mut others = Vec::new();
        for (kind, flag) in
            [("net", CloneFlags::CLONE_NEWNET), ("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS)]
        {
            others.extend(other(target, own, kind)?.map(|namespace| (flag, namespace)));
        }
        Ok(Some(Self { pids, others }))
    }
}

/// Returns in a child that is in the target's pid namespace. This process waits for the child's end, and ends in the
/// same way.
///
/// In the namespace the child can be seen and signalled. A signal can make it report less, and that is noticed. A
/// process with CAP_SYS_PTRACE in the initial user namespace can trace it. So the child has nothing of the host that
/// the target doesn't have, except for the time namespace and the pipe. What it remembers, the command line and the
/// environment of the command, can be read.
fn continue_in_pid_namespace(TargetNamespaces { pids, others }: TargetNamespaces) -> Result<(), EnterError> {
    for (flag, namespace) in others {
        setns(namespace, flag).map_err(failed("can't join the namespaces"))?;
    }
    setns(pids, CloneFlags::CLONE_NEWPID).map_err(failed("can't join the pid namespace"))?;
    match sys::process::fork() {
        Ok(ForkResult::Child) => {
            // This isn't inherited. A process that was started from outside has no parent, until the namespace's
            // first process adopts it.
            hide()?;
            if getppid().as_raw() == 0 { Ok(()) } else { Err(failed("can't look")(Errno::ESRCH)) }
        }
        Ok(ForkResult::Parent { child }) => loop {
            match waitpid(child, None) {
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::Exited(_, code)) => std::process::exit(code),
                _ => std::process::exit(1),
            }
        },
        // The namespace's first process has ended, and with it all others.
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Err(failed("can't start a process")(Errno::ESRCH)),
        Err(error) => Err(failed("can't start a process in the pid namespace")(error)),
    }
}

/// Protects the process from everybody but root of the host, and ends it with its parent.
pub(super) fn hide() -> Result<(), EnterError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .and_then(|()| prctl::set_dumpable(false))
        .and_then(|()| prctl::set_no_new_privs())
        .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
        .map_err(failed("can't protect the process that looks"))
}

fn number(target: &ProbeTarget, kind: &str) -> Result<Option<u64>, EnterError> {
    target.namespace(kind).map_err(failed(format_args!("can't tell the {kind} namespace of process {}", target.pid)))
}

/// Opens a namespace of the target that isn't this process' own.
fn other(target: &ProbeTarget, own: &ProbeTarget, kind: &str) -> Result<Option<OwnedFd>, EnterError> {
    if number(target, kind)? == number(own, kind)? {
        return Ok(None);
    }
    let what = format!("can't open the {kind} namespace of process {}", target.pid);
    target.open_file(&format!("ns/{kind}"), OFlag::O_RDONLY).map(Some).map_err(failed(&what))
}

/// Whether the target's mount namespace belongs to its user namespace, so that its capabilities count there.
fn owns_its_mounts(target: &ProbeTarget) -> Result<bool, EnterError> {
    let what = format!("can't tell whose the mounts of process {} are", target.pid);
    let mounts = target.open_file("ns/mnt", OFlag::O_RDONLY).map_err(failed(&what))?;
    match sys::namespace::owner(mounts.as_fd()) {
        Ok(owner) => {
            let owner = fstat(&owner).map_err(failed(&what))?.st_ino;
            Ok(number(target, "user")? == Some(owner))
        }
        // It belongs to an ancestor, which the kernel doesn't reveal.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        // Before Linux 4.9 the kernel doesn't tell; assume it does.
        Err(_) => Ok(true),
    }
}

fn is_root(root: BorrowedFd<'_>) -> bool {
    let same = |root: nix::sys::stat::FileStat, own: nix::sys::stat::FileStat| {
        (root.st_dev, root.st_ino) == (own.st_dev, own.st_ino)
    };
    matches!((fstat(root), stat("/")), (Ok(root), Ok(own)) if same(root, own))
}

/// Assumes users, groups, user namespace and capabilities.
fn take_on_credentials(credentials: &Credentials, users: Option<OwnedFd>) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let [user, effective_user, saved_user, ..] = *credentials.users else { return Err(invalid()) };
    let [group, effective_group, saved_group, ..] = *credentials.groups else { return Err(invalid()) };
    let supplementary: Vec<Gid> = credentials.supplementary.iter().copied().map(Gid::from_raw).collect();
    setgroups(&supplementary)?;
    setresgid(Gid::from_raw(group), Gid::from_raw(effective_group), Gid::from_raw(saved_group))?;
    // The numbers are the host's. So they are set before the user namespace is joined, which removes the capabilities
    // that setting them takes.
    prctl::set_keepcaps(true)?;
    setresuid(Uid::from_raw(user), Uid::from_raw(effective_user), Uid::from_raw(saved_user))?;
    if let Some(users) = users {
        sys::capability::keep_capabilities(sys::capability::capabilities()?.permitted)?;
        setns(users, CloneFlags::CLONE_NEWUSER)?;
    }
    let permitted = sys::capability::capabilities()?.permitted;
    Ok(sys::capability::keep_capabilities(credentials.effective & permitted)?)
}

/// Reads a file of a process in /proc; bytes that aren't UTF-8 are replaced.
fn text(target: &ProbeTarget, name: &str) -> Result<String, EnterError> {
    let what = format!("can't read /proc/{}/{name}", target.pid);
    let file = target.open_file(name, OFlag::O_RDONLY).map_err(failed(&what))?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_PROC_BYTES).read_to_end(&mut bytes).map_err(failed(&what))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_status() {
        let status = "Name:\tx: y\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapEff:\t0000000000200000\n";
        let expected = Credentials {
            users: vec![1, 2, 3, 4],
            groups: vec![5, 6, 7, 8],
            supplementary: vec![9, 10],
            effective: CAP_SYS_ADMIN,
        };
        assert_eq!(Credentials::parse(status), expected);
        assert_eq!(Credentials::parse("nonsense"), Credentials::default());
    }
}
