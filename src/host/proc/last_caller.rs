//! The thread that a worker answered last.
//!
//! Most requests of a worker come from the same thread as the request before. A descriptor of a link in that thread's
//! `/proc/TID/ns` shows in one call that the number still means the same thread, and which namespace it's in. Reading
//! the path takes twice as long, and only shows the namespace.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open, readlinkat};
use nix::sys::stat::Mode;

use super::procfs::{self, Namespace, parse_namespace};

/// From which request in succession on links are opened: most threads ask once or twice, and then a descriptor costs
/// more than it saves.
const FIRST_REQUEST_WITH_LINKS: u32 = 4;

thread_local! {
    static LAST: RefCell<Option<LastCaller>> = const { RefCell::new(None) };
}

/// The kinds of namespaces that requests need.
#[derive(Clone, Copy, Debug)]
pub(in crate::host) enum Kind {
    User,
    Pid,
    Cgroup,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Pid => "pid",
            Self::Cgroup => "cgroup",
        }
    }
}

#[derive(Debug)]
struct LastCaller {
    tid: i32,
    requests: u32,
    /// A link belongs to the thread and not to the number, so it can't be read once the thread is gone.
    user: Option<OwnedFd>,
    pid: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
}

impl LastCaller {
    fn link(&mut self, kind: Kind) -> &mut Option<OwnedFd> {
        match kind {
            Kind::User => &mut self.user,
            Kind::Pid => &mut self.pid,
            Kind::Cgroup => &mut self.cgroup,
        }
    }
}

/// Returns the user namespace of a [remembered](remember) thread. `None` if that is another thread, or gone.
pub(super) fn user_namespace(tid: i32) -> Option<Namespace> {
    LAST.with_borrow_mut(|last| read(last.as_mut().filter(|last| last.tid == tid)?.user.as_ref()?))
}

/// Remembers a thread that acts with its own rights.
pub(super) fn remember(tid: i32) {
    LAST.with_borrow_mut(|last| match last {
        Some(last) if last.tid == tid => {
            last.requests = last.requests.saturating_add(1);
            last.user = (last.requests >= FIRST_REQUEST_WITH_LINKS).then(|| open_link(tid, Kind::User)).flatten();
        }
        _ => *last = Some(LastCaller { tid, requests: 1, user: None, pid: None, cgroup: None }),
    });
}

/// Forgets the last thread. A link keeps the thread's namespaces, also when it has ended.
pub(in crate::host) fn forget() {
    LAST.take();
}

/// The namespace of a thread that waits for an answer.
///
/// # Errors
/// Those of readlink(2); `InvalidData` if the link isn't one to a namespace.
pub(in crate::host) fn namespace(tid: i32, kind: Kind) -> io::Result<Namespace> {
    LAST.with_borrow_mut(|last| {
        let Some(last) = last.as_mut().filter(|last| last.tid == tid && last.user.is_some()) else {
            return procfs::namespace(tid, kind.name());
        };
        let link = last.link(kind);
        if let Some(namespace) = link.as_ref().and_then(read) {
            return Ok(namespace);
        }
        *link = open_link(tid, kind);
        link.as_ref().and_then(read).map_or_else(|| procfs::namespace(tid, kind.name()), Ok)
    })
}

fn read(link: &OwnedFd) -> Option<Namespace> {
    parse_namespace(&readlinkat(link, "").ok()?)
}

fn open_link(tid: i32, kind: Kind) -> Option<OwnedFd> {
    let path = format!("/proc/{tid}/ns/{}", kind.name());
    open(path.as_str(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::host::proc::procfs::own_namespace;

    #[test]
    fn a_thread_is_known_while_it_asks_again_and_again_and_until_it_ends() {
        let (tell, hear) = channel();
        let (end, wait) = channel::<()>();
        let caller = thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            let _ = wait.recv();
        });
        let tid = hear.recv().unwrap();
        let own_pid_namespace = own_namespace("pid").unwrap();
        for _ in 0..FIRST_REQUEST_WITH_LINKS {
            assert_eq!(user_namespace(tid), None);
            assert_eq!(namespace(tid, Kind::Pid).unwrap(), own_pid_namespace);
            remember(tid);
        }
        assert_eq!(user_namespace(tid), own_namespace("user").ok());
        assert_eq!(namespace(tid, Kind::Pid).unwrap(), own_pid_namespace);
        forget();
        assert_eq!(user_namespace(tid), None);
        (0..FIRST_REQUEST_WITH_LINKS).for_each(|_| remember(tid));
        let own_tid = nix::unistd::gettid().as_raw();
        assert_eq!(user_namespace(own_tid), None);
        drop(end);
        caller.join().unwrap();
        // The kernel frees a thread's number a moment after the thread can be joined.
        while std::fs::exists(format!("/proc/self/task/{tid}")).unwrap() {
            thread::yield_now();
        }
        assert_eq!(user_namespace(tid), None);
        namespace(tid, Kind::Pid).unwrap_err();
    }
}
