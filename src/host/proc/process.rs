//! Processes: who calls, what a number names, and where a process is.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use super::procfs::{self, Namespace, ThreadKind};
use crate::agents::{AgentPool, PidNamespace};
use crate::cgroup::membership::CgroupLocation;
use crate::cgroup::{CgroupPath, HierarchyKind, IdMap, parse_memberships};
use crate::fs::SysResult;
use crate::fs::host::{Caller, Credentials, Owner, ProcessFacts, WriterCredentials};
use crate::host::errno::errno;
use crate::sys::capability::{Capabilities, capabilities_of};
use crate::sys::offset::read_at;
use crate::sys::process::is_first_thread;

/// `CAP_DAC_OVERRIDE`, linux/capability.h.
const CAP_DAC_OVERRIDE: u64 = 1 << 1;

/// The host's processes.
#[derive(Debug)]
pub(in crate::host) struct Processes {
    kinds: Vec<HierarchyKind>,
    agents: Option<AgentPool>,
    own_pid_namespace: Namespace,
    own_user_namespace: Option<Namespace>,
    kernel_threads_act_for_processes: bool,
}

/// The pid namespace whose numbers a caller uses.
#[derive(Debug)]
pub enum PidNs {
    /// The numbers of the server's own pid namespace.
    Own,
    /// Those of this pid namespace.
    Of(PidNamespace),
}

/// A process or thread, held by its directory of procfs: once it has ended, nothing in there can be read, whoever gets the number next.
#[derive(Debug)]
pub struct HeldProcess {
    directory: OwnedFd,
    /// How it was seen last.
    seen: Option<MembershipSnapshot>,
}

/// Where a thread was, in all hierarchies.
#[derive(Debug)]
pub(in crate::host) struct MembershipSnapshot {
    /// The open file `/proc/TID/cgroup`.
    pub(in crate::host) memberships: OwnedFd,
    /// What that file said.
    pub(in crate::host) text: Vec<u8>,
}

impl From<OwnedFd> for HeldProcess {
    fn from(directory: OwnedFd) -> Self {
        Self { directory, seen: None }
    }
}

impl HeldProcess {
    /// Its directory of procfs.
    pub(in crate::host) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Whether it still has its number.
    pub(in crate::host) fn is_held(&self) -> bool {
        is_held(&self.directory)
    }

    /// How it was seen last.
    pub(in crate::host) fn seen(&self) -> Option<&MembershipSnapshot> {
        self.seen.as_ref()
    }

    /// Where it was seen last in this hierarchy.
    pub(in crate::host) fn seen_at(&self, kind: &HierarchyKind) -> Option<CgroupPath> {
        let all = parse_memberships(&self.seen.as_ref()?.text);
        all.into_iter().find(|membership| membership.kind == *kind)?.location.path().cloned()
    }

    /// Its number in the server's pid namespace, for messages.
    pub(in crate::host) fn host_number(&self) -> Option<i32> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).ok()?;
        path.file_name()?.to_str()?.parse().ok()
    }
}

impl MembershipSnapshot {
    fn of(process: &OwnedFd, below: &str) -> SysResult<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let memberships =
            openat(process, format!("{below}cgroup").as_str(), flags, Mode::empty()).map_err(no_process)?;
        let text = memberships_at_once(&memberships)?;
        Ok(Self { memberships, text })
    }

    /// Whether the thread is still where it was, in all hierarchies. `ESRCH` if it has ended.
    pub(in crate::host) fn is_true(&self) -> SysResult<bool> {
        Ok(memberships_at_once(&self.memberships)? == self.text)
    }
}

/// All of `/proc/TID/cgroup`, as of one moment (`proc_cgroup_show`).
fn memberships_at_once(file: &OwnedFd) -> SysResult<Vec<u8>> {
    let mut text = vec![0; 4096];
    loop {
        let length = read_at(file, &mut text, 0).map_err(no_process)?;
        if length < text.len() {
            text.truncate(length);
            return Ok(text);
        }
        text.resize(text.len() * 4, 0);
    }
}

impl Processes {
    pub(in crate::host) fn new(kinds: Vec<HierarchyKind>, agents: Option<AgentPool>) -> io::Result<Self> {
        Ok(Self {
            kinds,
            agents,
            own_pid_namespace: procfs::own_namespace("pid")?,
            own_user_namespace: procfs::own_namespace("user").ok(),
            kernel_threads_act_for_processes: procfs::kernel_threads_act_for_processes(),
        })
    }

    /// A thread that makes a request waits for its answer, so its number can't come to mean another one meanwhile.
    pub(in crate::host) fn credentials(&self, caller: &Caller) -> SysResult<Credentials> {
        let thread = accountable(caller.tid).map_err(errno)?;
        let id_maps = if self.is_in_own_user_namespace(thread)? {
            None
        } else {
            let map = |file| procfs::text(thread, file).map(|text| IdMap::parse(&text)).map_err(errno);
            Some((map("uid_map")?, map("gid_map")?))
        };
        let capabilities = capabilities_of(thread)?;
        let mut credentials = Credentials {
            thread: caller.tid,
            owner: Owner { uid: caller.uid, gid: caller.gid },
            groups: Vec::new(),
            capabilities: capabilities.effective,
            permitted: capabilities.permitted,
            id_maps,
        };
        // Rights that procfs doesn't show (override_creds), as a personality of io_uring's: all that's known of them is the user.
        let mut are_shown = self.acts_for_itself(thread)?;
        if are_shown && (caller.uid != 0 || !credentials.overrides_permissions()) {
            let status = procfs::status(thread).map_err(errno)?;
            let [.., acts_as] = status.users;
            are_shown = acts_as == caller.uid;
            if are_shown && !credentials.overrides_permissions() {
                credentials.groups = status.groups;
            }
        }
        if !are_shown {
            (credentials.capabilities, credentials.permitted) = (0, 0);
        }
        Ok(credentials)
    }

    /// The rights with which a caller writes, which are fewer than [`Processes::credentials`] finds.
    pub(in crate::host) fn writer(&self, caller: &Caller) -> SysResult<WriterCredentials> {
        let none = WriterCredentials::without_capabilities(caller);
        let thread = accountable(caller.tid).map_err(errno)?;
        let Capabilities { effective, permitted } = capabilities_of(thread)?;
        if permitted == 0 || !self.acts_for_itself(thread)? {
            return Ok(none);
        }
        let counts = effective != 0 && self.is_in_own_user_namespace(thread)?;
        if caller.uid != 0 || !counts || effective & CAP_DAC_OVERRIDE == 0 {
            let [.., acts_as] = procfs::status(thread).map_err(errno)?.users;
            if acts_as != caller.uid {
                return Ok(none);
            }
        }
        Ok(WriterCredentials { capabilities: if counts { effective } else { 0 }, permitted, ..none })
    }

    /// All capabilities that threads of a process may put in force.
    pub(in crate::host) fn permitted(&self, process: &OwnedFd) -> SysResult<u64> {
        let mut permitted = 0;
        for thread in threads(process)? {
            match read(process, &format!("task/{thread}/status")) {
                Ok(status) => permitted |= procfs::parse_status(&String::from_utf8_lossy(&status)).permitted,
                // It has ended meanwhile.
                Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(permitted)
    }

    fn is_in_own_user_namespace(&self, thread: i32) -> SysResult<bool> {
        match self.own_user_namespace {
            Some(own) => Ok(procfs::namespace(thread, "user").map_err(errno)? == own),
            // A kernel without user namespaces.
            None => Ok(true),
        }
    }

    /// Whether a held process is in the server's user namespace. True if it can't be told.
    pub(in crate::host) fn is_of_own_user_namespace(&self, process: &OwnedFd) -> bool {
        let link = nix::fcntl::readlinkat(process, "ns/user");
        let namespace = link.ok().and_then(|link| procfs::parse_namespace(&link));
        namespace.is_none() || namespace == self.own_user_namespace
    }

    /// Whether it isn't one of the kernel's threads, which do for processes what these ask of their io_uring before Linux 5.12.
    fn acts_for_itself(&self, thread: i32) -> SysResult<bool> {
        Ok(!self.kernel_threads_act_for_processes || procfs::kind(thread).map_err(errno)? != ThreadKind::Kernel)
    }

    pub(in crate::host) fn agents(&self) -> SysResult<&AgentPool> {
        self.agents.as_ref().ok_or(Errno::EACCES)
    }

    pub(in crate::host) fn process_id(&self, caller: &Caller) -> i32 {
        procfs::status(caller.tid).map_or(caller.tid, |status| status.process_id)
    }

    pub(in crate::host) fn numbers(&self, caller: &Caller) -> SysResult<PidNs> {
        if procfs::namespace(caller.tid, "pid").map_err(errno)? == self.own_pid_namespace {
            return Ok(PidNs::Own);
        }
        Ok(PidNs::Of(PidNamespace::open(caller.tid).map_err(errno)?))
    }

    pub(in crate::host) fn pin_own(&self, number: i32) -> SysResult<HeldProcess> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(format!("/proc/{number}").as_str(), flags, Mode::empty());
        opened.map(HeldProcess::from).map_err(no_process)
    }

    pub(in crate::host) fn pin(&self, numbers: &PidNs, number: i32) -> SysResult<HeldProcess> {
        match numbers {
            PidNs::Own => self.pin_own(number),
            PidNs::Of(namespace) => {
                self.agents()?.open_proc(namespace, number).map(HeldProcess::from).map_err(no_process)
            }
        }
    }

    /// Where each thread is, or the held one alone, which is looked at last.
    pub(in crate::host) fn places(
        &self,
        process: &mut HeldProcess,
        hierarchy: usize,
        whole_process: bool,
    ) -> SysResult<Vec<CgroupLocation>> {
        let kind = self.kinds.get(hierarchy).ok_or(Errno::ENODEV)?;
        let directory = &process.directory;
        let mut places = Vec::new();
        if whole_process && !is_single(directory)? {
            for thread in threads(directory)? {
                let below = format!("task/{thread}/");
                match MembershipSnapshot::of(directory, &below)
                    .and_then(|seen| place(directory, &below, &seen.text, kind))
                {
                    Ok(found) => places.extend(found),
                    // A thread that has ended meanwhile isn't migrated.
                    Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        let seen = MembershipSnapshot::of(directory, "")?;
        places.extend(place(directory, "", &seen.text, kind)?);
        process.seen = Some(seen);
        if places.is_empty() { Err(Errno::ESRCH) } else { Ok(places) }
    }
}

/// By whose rights to judge what a thread asks for. A worker of io_uring acts with those of whoever made the request, and what procfs shows
/// are those that its process had when the worker was made, though it may have given them up since. That process' first thread is the nearest.
fn accountable(tid: i32) -> io::Result<i32> {
    if is_first_thread(tid) || procfs::kind(tid)? != ThreadKind::IoWorker {
        return Ok(tid);
    }
    procfs::status(tid).map(|status| status.process_id)
}

/// Whether the process has one thread: its `task` directory then has three links (`proc_task_getattr`). A thread that it makes later starts
/// where this one is.
pub(in crate::host) fn is_single(process: &OwnedFd) -> SysResult<bool> {
    let tasks = fstatat(process, "task", AtFlags::empty()).map_err(no_process)?;
    Ok(tasks.st_nlink == 3)
}

/// Whether the process still runs, or waits to be reaped: while it does, nothing else has its number.
pub(in crate::host) fn is_held(process: &OwnedFd) -> bool {
    fstatat(process, "cgroup", AtFlags::empty()).is_ok()
}

fn threads(process: &OwnedFd) -> SysResult<Vec<i32>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = nix::dir::Dir::from_fd(openat(process, "task", flags, Mode::empty()).map_err(no_process)?)?;
    let mut threads = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(no_process)?;
        threads.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}

/// Where a thread is; `None` for one that has exited and waits to be reaped: on v1 it shows the root, wherever it was, and the kernel
/// doesn't migrate it (`PF_EXITING`).
fn place(process: &OwnedFd, below: &str, text: &[u8], kind: &HierarchyKind) -> SysResult<Option<CgroupLocation>> {
    let found = parse_memberships(text).into_iter().find(|membership| membership.kind == *kind);
    let place = found.ok_or(Errno::ENODEV)?.location;
    let at_root = place.path().is_some_and(|path| path.is_root());
    if at_root && is_dead(&read(process, &format!("{below}stat"))?) {
        return Ok(None);
    }
    Ok(Some(place))
}

/// Whether `/proc/PID/stat` says zombie or dead; the state is the word behind the command's closing parenthesis.
fn is_dead(stat: &[u8]) -> bool {
    let behind = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2..));
    matches!(behind.and_then(|rest| rest.first()), Some(b'Z' | b'X' | b'x'))
}

pub(in crate::host) fn read(process: &OwnedFd, name: &str) -> SysResult<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    procfs::read_all(&openat(process, name, flags, Mode::empty()).map_err(no_process)?).map_err(no_process)
}

/// procfs says ENOENT where a system call on processes says ESRCH.
fn no_process(errno: Errno) -> Errno {
    if errno == Errno::ENOENT { Errno::ESRCH } else { errno }
}

/// The users and capabilities of a process.
pub(in crate::host) fn facts(process: &HeldProcess) -> SysResult<ProcessFacts> {
    let status = procfs::parse_status(&String::from_utf8_lossy(&read(&process.directory, "status")?));
    let [real, _, saved, _] = status.users;
    Ok(ProcessFacts { users: [real, saved], permitted: status.permitted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acts_as_another_user_than_his_thread_has_none_of_its_capabilities() {
        let processes = Processes::new(Vec::new(), None).unwrap();
        let tid = nix::unistd::gettid().as_raw();
        let [.., uid] = procfs::status(tid).unwrap().users;
        let as_user = |uid| processes.credentials(&Caller { tid, uid, gid: 0 }).unwrap();
        let other = as_user(uid + 1);
        assert_eq!((other.capabilities, other.permitted, other.groups), (0, 0, Vec::new()));
        assert_eq!(as_user(uid).capabilities, capabilities_of(tid).unwrap().effective);
    }

    #[test]
    fn the_dead() {
        for (stat, dead) in [
            ("7 (a) Z 1 2", true),
            ("7 (a) S) S 1", false),
            ("7 ((Z)) X 1", true),
            ("7 (x) R 1", false),
            ("", false),
            ("7 (a)", false),
        ] {
            assert_eq!(is_dead(stat.as_bytes()), dead, "{stat}");
        }
    }
}
