//! Short names for the operations that tables use most.

use super::op::Op;

/// [`Op::ReadFile`].
pub fn read_file(path: &str) -> Op {
    Op::ReadFile { path: path.into() }
}

/// [`Op::WriteFile`] without flags.
pub fn write_file(path: &str, data: &str) -> Op {
    Op::WriteFile { path: path.into(), data: data.into(), flags: Vec::new() }
}

/// [`Op::Open`].
pub fn open(fd: &str, path: &str, flags: &[&str]) -> Op {
    Op::Open { path: path.into(), flags: flags.iter().map(|f| (*f).to_string()).collect(), fd: fd.into() }
}

/// [`Op::Write`].
pub fn write(fd: &str, data: &str) -> Op {
    Op::Write { fd: fd.into(), data: data.into() }
}

/// [`Op::Eventfd`].
pub fn eventfd(fd: &str) -> Op {
    Op::Eventfd { fd: fd.into() }
}

/// [`Op::EpollWait`].
pub fn epoll_wait(epoll: &str, ms: u32) -> Op {
    Op::EpollWait { epoll: epoll.into(), ms }
}

/// [`Op::PollPri`].
pub fn poll_pri(fd: &str, ms: u32) -> Op {
    Op::PollPri { fd: fd.into(), ms }
}

/// [`Op::Poll`].
pub fn poll(fd: &str) -> Op {
    Op::Poll { fd: fd.into() }
}

/// [`Op::AwaitPoll`].
pub fn await_poll(fd: &str, event: &str) -> Op {
    Op::AwaitPoll { fd: fd.into(), event: event.into() }
}

/// [`Op::Read`].
pub fn read(fd: &str, len: usize) -> Op {
    Op::Read { fd: fd.into(), len }
}

/// [`Op::Pread`].
pub fn pread(fd: &str, len: usize, off: u64) -> Op {
    Op::Pread { fd: fd.into(), len, off }
}

/// [`Op::ReadAll`].
pub fn read_all(fd: &str, len: usize) -> Op {
    Op::ReadAll { fd: fd.into(), len }
}

/// [`Op::Close`].
pub fn close(fd: &str) -> Op {
    Op::Close { fd: fd.into() }
}

/// [`Op::Mkdir`] with mode 0755.
pub fn mkdir(path: &str) -> Op {
    Op::Mkdir { path: path.into(), mode: 0o755 }
}

/// [`Op::Rmdir`].
pub fn rmdir(path: &str) -> Op {
    Op::Rmdir { path: path.into() }
}

/// [`Op::Rename`] without flags.
pub fn rename(from: &str, to: &str) -> Op {
    Op::Rename { from: from.into(), to: to.into(), flags: Vec::new() }
}

/// [`Op::Stat`].
pub fn stat(path: &str) -> Op {
    Op::Stat { path: path.into() }
}

/// [`Op::Fstat`].
pub fn fstat(fd: &str) -> Op {
    Op::Fstat { fd: fd.into() }
}

/// [`Op::Readdir`].
pub fn readdir(path: &str) -> Op {
    Op::Readdir { path: path.into() }
}

/// [`Op::Chmod`].
pub fn chmod(path: &str, mode: u32) -> Op {
    Op::Chmod { path: path.into(), mode }
}

/// [`Op::Chown`] of user and group.
pub fn chown(path: &str, id: u32) -> Op {
    Op::Chown { path: path.into(), uid: Some(id), gid: Some(id) }
}

/// [`Op::Spawn`] as the probe's own user.
pub fn spawn(name: &str) -> Op {
    Op::Spawn { name: name.into(), uid: None }
}

/// [`Op::Kill`].
pub fn kill(name: &str) -> Op {
    Op::Kill { name: name.into() }
}

/// [`Op::Thread`].
pub fn thread(name: &str) -> Op {
    Op::Thread { name: name.into() }
}

/// [`Op::On`].
pub fn on(thread: &str, then: Op) -> Op {
    Op::On { thread: thread.into(), then: Box::new(then) }
}

/// [`Op::Membership`].
pub fn membership(who: &str) -> Op {
    Op::Membership { who: who.into() }
}

/// [`Op::Seteuid`].
pub fn seteuid(uid: u32) -> Op {
    Op::Seteuid { uid }
}
