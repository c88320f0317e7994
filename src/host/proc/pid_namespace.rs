//! Process 1 of a pid namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{Mode, fstat};

use super::held_process;
use super::procfs::{self, Namespace};
use crate::fs::SysResult;
use crate::fs::dispatch::Tenant;
use crate::sys::namespace;

/// How many ancestors of a process are followed.
const ANCESTORS_MAX: usize = 256;

/// An open pid namespace: while it's open, no other one has its number.
#[derive(Debug)]
pub(in crate::host) struct PidNamespaceFd {
    file: OwnedFd,
    id: Namespace,
}

/// The namespace around a pid namespace.
#[derive(Debug)]
pub(in crate::host) enum ParentNs {
    /// The server's own pid namespace.
    Own,
    /// Another pid namespace, held open.
    Other(PidNamespaceFd),
}

impl PidNamespaceFd {
    /// Opens the pid namespace of a thread, which waits for its answer meanwhile.
    pub(in crate::host) fn of_thread(tid: i32) -> SysResult<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Self::new(nix::fcntl::open(format!("/proc/{tid}/ns/pid").as_str(), flags, Mode::empty())?)
    }

    fn new(file: OwnedFd) -> SysResult<Self> {
        let id = Namespace::numbered(fstat(&file)?.st_ino);
        Ok(Self { file, id })
    }

    /// Takes over a namespace that an earlier server has opened.
    pub(in crate::host) fn recovered(file: OwnedFd) -> SysResult<Self> {
        Self::new(file)
    }

    pub(in crate::host) fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(in crate::host) fn id(&self) -> Namespace {
        self.id
    }

    /// Returns the enclosing namespace. `EPERM` if that isn't the server's nor below it.
    ///
    /// A kernel that can't tell (before Linux 4.9) shows how deep `thread`, which is in the namespace, lies. If it
    /// lies deeper than one level, the parent can't be determined.
    pub(in crate::host) fn parent(&self, own: Namespace, thread: Option<i32>) -> SysResult<ParentNs> {
        match namespace::parent(self.file.as_fd()) {
            Ok(parent) => {
                let parent = Self::new(parent)?;
                Ok(if parent.id == own { ParentNs::Own } else { ParentNs::Other(parent) })
            }
            Err(error) => match (error.raw_os_error(), thread) {
                (Some(libc::ENOTTY | libc::EINVAL), Some(thread)) => parent_by_depth(thread),
                _ => Err(Errno::EPERM),
            },
        }
    }

    /// Returns the tenant of a namespace right below the server's. `own` is the server's user namespace, if the
    /// kernel has any; `thread` is in this namespace.
    ///
    /// A user other than the host's root makes pid namespaces in user namespaces of its own, in any number: all of
    /// them belong to that user. User 0 of the host, who may end the server anyway, makes containers, and each of
    /// them is a tenant.
    pub(in crate::host) fn tenant(&self, own: Option<Namespace>, thread: Option<i32>) -> Tenant {
        let container = Tenant::Container(self.id.number());
        let Some(own) = own else { return container };
        let outermost = match outermost_below(self.file.as_fd(), own) {
            Ok(None) => return container,
            Ok(Some(outermost)) => namespace::maker(outermost.as_fd()),
            Err(error) => Err(error),
        };
        match outermost {
            Ok(0) => container,
            Ok(user) => Tenant::User(user),
            // The kernel doesn't tell (before Linux 4.11). No process returns from a user namespace, so a thread in
            // the server's has made none.
            Err(_) => {
                let is_in_own = thread.is_some_and(|thread| procfs::namespace(thread, "user").ok() == Some(own));
                if is_in_own { container } else { Tenant::Unknown }
            }
        }
    }

    /// Opens process 1 as a directory of procfs, which never refers to another process later. `thread` is a thread in
    /// the namespace, if one is known. `ESRCH` if process 1 can't be found.
    pub(in crate::host) fn init_process(&self, thread: Option<i32>) -> SysResult<OwnedFd> {
        match namespace::process_in(self.file.as_fd(), 1) {
            Ok(pid) => self.verified(pid).ok_or(Errno::ESRCH),
            // Before Linux 6.11: process 1 is mostly a parent of the caller.
            Err(_) => {
                let above = thread.and_then(|thread| parents(thread).find_map(|pid| self.verified(pid)));
                above.or_else(|| processes().find_map(|pid| self.verified(pid))).ok_or(Errno::ESRCH)
            }
        }
    }

    /// Opens the process with this number, if it's process 1 of this namespace.
    fn verified(&self, pid: i32) -> Option<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let process = nix::fcntl::open(format!("/proc/{pid}").as_str(), flags, Mode::empty()).ok()?;
        let is_here = is_in(process.as_fd(), self.id);
        let status = is_here.then(|| held_process::read(&process, "status").ok()).flatten()?;
        (numbers(&String::from_utf8_lossy(&status)).last() == Some(&1)).then_some(process)
    }
}

/// Returns the tenant of an open pid namespace below the server's, which is the tenant of the outermost namespace
/// around it. `thread` is a thread in the namespace, if one is known.
pub fn tenant_of(namespace: BorrowedFd<'_>, mut thread: Option<i32>) -> Tenant {
    let mut find = || {
        let own = procfs::own_namespace("pid").ok()?;
        let mut outermost = PidNamespaceFd::new(namespace.try_clone_to_owned().ok()?).ok()?;
        while let ParentNs::Other(around) = outermost.parent(own, thread).ok()? {
            (outermost, thread) = (around, None);
        }
        Some(outermost.tenant(procfs::own_namespace("user").ok(), thread))
    };
    find().unwrap_or(Tenant::Unknown)
}

/// The outermost user namespace below `own` that a pid namespace lies in; `None` if it belongs to `own` itself.
fn outermost_below(pid_namespace: BorrowedFd<'_>, own: Namespace) -> std::io::Result<Option<OwnedFd>> {
    let mut outermost = None;
    let mut at = namespace::owner(pid_namespace)?;
    // The kernel nests at most 33 (create_user_ns).
    for _ in 0..ANCESTORS_MAX {
        if Namespace::numbered(fstat(&at)?.st_ino) == own {
            return Ok(outermost);
        }
        let around = namespace::parent(at.as_fd())?;
        outermost = Some(std::mem::replace(&mut at, around));
    }
    Err(Errno::ELOOP.into())
}

fn is_in(process: BorrowedFd<'_>, namespace: Namespace) -> bool {
    readlinkat(process, "ns/pid").is_ok_and(|link| procfs::parse_namespace(&link) == Some(namespace))
}

/// Whether the kernel shows a process' number in its own namespace (Linux 4.1); otherwise no process 1 is found.
pub fn are_found() -> bool {
    procfs::text(std::process::id() as i32, "status").is_ok_and(|status| !numbers(&status).is_empty())
}

/// Returns the numbers of a process: in the server's pid namespace, in those between, and last in its own.
fn numbers(status: &str) -> Vec<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.unwrap_or_default().split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn parent_by_depth(thread: i32) -> SysResult<ParentNs> {
    let status = procfs::text(thread, "status").map_err(|_| Errno::ESRCH)?;
    if numbers(&status).len() == 2 { Ok(ParentNs::Own) } else { Err(Errno::EPERM) }
}

/// Returns the process of a thread, its parent, and so on.
fn parents(thread: i32) -> impl Iterator<Item = i32> {
    let field = |tid: i32, name: &str| {
        let status = procfs::text(tid, "status").ok()?;
        let number = status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<i32>().ok()?;
        (number > 0).then_some(number)
    };
    std::iter::successors(field(thread, "Tgid:"), move |pid| field(*pid, "PPid:")).take(ANCESTORS_MAX)
}

/// The ids of all processes.
fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers() {
        assert_eq!(numbers("Name:\tx\nNSpid:\t4711\t12\t1\nNSpgid:\t1\n"), [4711, 12, 1]);
        assert!(numbers("Name:\tNSpid:\n").is_empty() && numbers("").is_empty());
        assert!(are_found());
    }

    #[test]
    fn parents_lead_up() {
        let own = std::process::id() as i32;
        let found: Vec<i32> = parents(own).collect();
        assert_eq!(found.first(), Some(&own));
        assert!(found.get(1) == Some(&nix::unistd::getppid().as_raw()), "{found:?}");
        assert!(processes().any(|pid| pid == own));
    }

    #[test]
    fn nobody_else_is_taken_for_process_1() {
        let own = PidNamespaceFd::of_thread(std::process::id() as i32).unwrap();
        assert!(own.verified(std::process::id() as i32).is_none());
        let other = PidNamespaceFd { id: Namespace::numbered(1), ..PidNamespaceFd::of_thread(1).unwrap_or(own) };
        assert!(other.verified(1).is_none(), "process 1 of another namespace");
    }
}
