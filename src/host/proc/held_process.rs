//! A held process, and the contents of its procfs directory.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use super::procfs;
use crate::cgroup::membership::CgroupLocation;
use crate::cgroup::{CgroupPath, HierarchyKind, parse_memberships};
use crate::fs::SysResult;
use crate::fs::host::ProcessFacts;
use crate::sys::offset::read_at;

/// A process or thread, held by its directory of procfs. Once it has been reaped, nothing in there can be read,
/// whichever process gets the number next.
#[derive(Debug)]
pub struct HeldProcess {
    directory: OwnedFd,
    /// The memberships at the last check.
    seen: Option<MembershipSnapshot>,
}

/// The cgroups of a thread at one moment, in all hierarchies.
#[derive(Debug)]
pub(in crate::host) struct MembershipSnapshot {
    /// The open file `/proc/TID/cgroup`.
    pub(in crate::host) memberships: OwnedFd,
    /// The content of that file.
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

    /// The memberships at the last check.
    pub(in crate::host) fn seen(&self) -> Option<&MembershipSnapshot> {
        self.seen.as_ref()
    }

    /// The cgroup in this hierarchy at the last check.
    pub(in crate::host) fn seen_at(&self, kind: &HierarchyKind) -> Option<CgroupPath> {
        let all = parse_memberships(&self.seen.as_ref()?.text);
        all.into_iter().find(|membership| membership.kind == *kind)?.location.path().cloned()
    }

    /// Its number in the server's pid namespace, for messages.
    pub(in crate::host) fn host_number(&self) -> Option<i32> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).ok()?;
        path.file_name()?.to_str()?.parse().ok()
    }

    /// Returns the cgroup of each thread in this hierarchy, the held one last, or only that one's.
    pub(super) fn thread_locations(
        &mut self,
        kind: &HierarchyKind,
        whole_process: bool,
    ) -> SysResult<Vec<CgroupLocation>> {
        let directory = &self.directory;
        let mut places = Vec::new();
        if whole_process && !is_single(directory)? {
            for thread in threads(directory)? {
                let below = format!("task/{thread}/");
                match MembershipSnapshot::of(directory, &below)
                    .and_then(|seen| thread_location(directory, &below, &seen.text, kind))
                {
                    Ok(found) => places.extend(found),
                    // A thread that has exited meanwhile isn't migrated.
                    Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        let seen = MembershipSnapshot::of(directory, "")?;
        places.extend(thread_location(directory, "", &seen.text, kind)?);
        self.seen = Some(seen);
        if places.is_empty() { Err(Errno::ESRCH) } else { Ok(places) }
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

    /// Whether the thread is still in the same cgroups, in all hierarchies. `ESRCH` if it has been reaped.
    pub(in crate::host) fn is_current(&self) -> SysResult<bool> {
        Ok(memberships_at_once(&self.memberships)? == self.text)
    }
}

/// Reads all of `/proc/TID/cgroup`, as of one moment (`proc_cgroup_show`).
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

/// Whether the process has one thread: its `task` directory then has three links (`proc_task_getattr`). A thread that
/// starts later begins in this one's cgroup.
pub(in crate::host) fn is_single(process: &OwnedFd) -> SysResult<bool> {
    let tasks = fstatat(process, "task", AtFlags::empty()).map_err(no_process)?;
    Ok(tasks.st_nlink == 3)
}

/// Whether the process still runs, or waits to be reaped. Until it's reaped, no other process has its number.
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

/// Returns the cgroup of a thread; `None` for one that has exited and waits to be reaped. On v1 such a thread shows
/// the root, wherever it was, and the kernel doesn't migrate it (`PF_EXITING`).
fn thread_location(
    process: &OwnedFd,
    below: &str,
    text: &[u8],
    kind: &HierarchyKind,
) -> SysResult<Option<CgroupLocation>> {
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

/// Converts procfs' ENOENT to ESRCH, which system calls on processes return.
pub(super) fn no_process(errno: Errno) -> Errno {
    if errno == Errno::ENOENT { Errno::ESRCH } else { errno }
}

/// The users and capabilities of a process.
pub(in crate::host) fn facts(process: &HeldProcess) -> SysResult<ProcessFacts> {
    let status = procfs::parse_status(&String::from_utf8_lossy(&read(&process.directory, "status")?));
    let [real, _, saved, _] = status.users;
    Ok(ProcessFacts { users: [real, saved], permitted: status.permitted })
}

/// Returns all permitted capabilities of a process' threads.
pub(in crate::host) fn permitted_by_threads(process: &OwnedFd) -> SysResult<u64> {
    let mut permitted = 0;
    for thread in threads(process)? {
        match read(process, &format!("task/{thread}/status")) {
            Ok(status) => permitted |= procfs::parse_status(&String::from_utf8_lossy(&status)).permitted,
            // It has exited meanwhile.
            Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(permitted)
}

#[cfg(test)]
mod tests {
    use super::*;

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
