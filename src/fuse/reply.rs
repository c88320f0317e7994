//! Replies to the kernel, with the log of rejections and the handling of panics.

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fuser::{FileHandle, Generation, INodeNo, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, ReplyXattr};
use nix::unistd::{SysconfVar, sysconf};

use super::convert::{self, node};
use crate::activity::{self, RequestKind};
use crate::fs::NodeId;
use crate::fs::ops::Wake;
use crate::fs::{Caller, CgroupFs, FsError, FsResult, HandleId, Host, LookupResult, Transfer};

/// The handle of open files and directories without state in the server.
pub(super) const NO_HANDLE: FileHandle = FileHandle(HandleId::NONE.0);

/// The subject of a request, for the log.
#[derive(Clone, Copy)]
pub(super) struct RequestSubject<'a> {
    pub(super) kind: RequestKind,
    pub(super) node: NodeId,
    pub(super) name: Option<&'a OsStr>,
}

pub(super) fn on_node<'a>(kind: RequestKind, inode: INodeNo) -> RequestSubject<'a> {
    RequestSubject { kind, node: node(inode), name: None }
}

pub(super) fn on_entry<'a>(kind: RequestKind, parent: INodeNo, name: &'a OsStr) -> RequestSubject<'a> {
    RequestSubject { kind, node: node(parent), name: Some(name) }
}

/// Runs a question to the filesystem, notes its outcome, and answers EIO if it panics. The server goes on: a dead server
/// would wedge its containers.
pub(super) fn catch_panic<T>(kind: RequestKind, question: impl FnOnce() -> FsResult<T>) -> Result<T, fuser::Errno> {
    let (errno, rule, outcome) = match catch_unwind(AssertUnwindSafe(question)) {
        Ok(Ok(answer)) => (0, None, Ok(answer)),
        Ok(Err(failure)) => {
            let rule = if let FsError::Denied(denial) = &failure { Some(denial.rule()) } else { None };
            let errno = failure.errno();
            (errno as i32, rule, Err(convert::errno(errno)))
        }
        Err(_) => {
            log_panic(kind.name());
            (libc::EIO, None, Err(fuser::Errno::EIO))
        }
    };
    activity::note(kind, errno, rule);
    outcome
}

/// The errno of a request for which no thread has room.
pub(super) fn no_room() -> fuser::Errno {
    activity::note_errno(libc::EAGAIN);
    fuser::Errno::EAGAIN
}

/// Does work that mustn't end its thread. Returns false if it panicked. `what` names the work in the log.
pub(super) fn run_catching_panics(what: &str, work: impl FnOnce()) -> bool {
    let is_done = catch_unwind(AssertUnwindSafe(work)).is_ok();
    if !is_done {
        log_panic(what);
    }
    is_done
}

/// Logs a panic, and never panics itself.
fn log_panic(what: &str) {
    let log = || tracing::error!(operation = what, "a request made its handler panic; it was answered with EIO");
    let _ = catch_unwind(AssertUnwindSafe(log));
}

/// Asks a question, and logs a rejection. If somebody watches, it tells what the request is about.
pub(super) fn log_denials<H: Host, T>(
    fs: &CgroupFs<H>,
    caller: &Caller,
    about: RequestSubject<'_>,
    question: impl FnOnce() -> FsResult<T>,
) -> FsResult<T> {
    let outcome = question();
    if let Err(FsError::Denied(denial)) = &outcome {
        fs.log_rejection(caller, about.kind.purpose(), about.node, about.name, denial);
    } else if fs.records().activity().is_watched() {
        fs.describe(caller, about.node, about.name);
    }
    outcome
}

pub(super) fn reply_empty(reply: ReplyEmpty, answer: Result<(), fuser::Errno>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Replies with an entry, or with its absence. `keeps` says whether the kernel may cache either.
pub(super) fn reply_lookup(reply: ReplyEntry, keeps: bool, found: Result<LookupResult, fuser::Errno>) {
    let kept = |keep| if keeps { keep } else { Duration::ZERO };
    match found {
        // fuser has one field for the node id and for st_ino. Where they differ, the attributes expire at once, and the kernel asks
        // for them by GETATTR, which has st_ino alone.
        Ok(LookupResult::Entry(entry)) => {
            let number = entry.id.as_u64();
            let same = number == entry.attributes.inode;
            let keep = if same { kept(entry.ttl.attributes) } else { Duration::ZERO };
            let attributes = convert::attributes(&entry.attributes, number);
            reply.entry_with_ttls(&keep, &kept(entry.ttl.entry), &attributes, Generation(0));
        }
        // Node id 0 means an ENOENT that the kernel caches.
        Ok(LookupResult::Negative(keep)) if !kept(keep).is_zero() => {
            activity::note_errno(libc::ENOENT);
            reply.entry_with_ttls(&Duration::ZERO, &keep, &convert::nothing(), Generation(0));
        }
        Ok(LookupResult::Negative(_)) => {
            activity::note_errno(libc::ENOENT);
            reply.error(fuser::Errno::ENOENT);
        }
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, answer: Result<Vec<u8>, fuser::Errno>) {
    match answer {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => {
            activity::note_errno(libc::ERANGE);
            reply.error(fuser::Errno::ERANGE);
        }
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

fn of_file<'a, H: Host>(kind: RequestKind, file: &Transfer<H>) -> RequestSubject<'a> {
    RequestSubject { kind, node: file.node(), name: None }
}

/// Copies the part of a write that has to be kept while it waits. Thousands of writes may wait, and the memory is the
/// server's. Most files accept at most a page (`atomic_write_len`), and a write that is one byte longer is refused
/// like the whole. `whole` is for files that accept more.
pub(super) fn truncate_write(data: &[u8], whole: bool) -> Vec<u8> {
    if whole {
        return data.to_vec();
    }
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
    page.and_then(|page| data.get(..=page)).unwrap_or(data).to_vec()
}

/// Writes `data` and replies with the number of bytes.
pub(super) fn reply_written<H: Host>(fs: &CgroupFs<H>, to: &Transfer<H>, data: &[u8], reply: ReplyWrite) {
    match catch_panic(RequestKind::Write, || {
        log_denials(fs, to.caller(), of_file(RequestKind::Write, to), || fs.write(to, data))
    }) {
        Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(errno) => reply.error(errno),
    }
}

/// Reads into `space` and replies with it.
pub(super) fn reply_read<H: Host>(
    fs: &CgroupFs<H>,
    from: &Transfer<H>,
    offset: u64,
    space: &mut [u8],
    reply: ReplyData,
) {
    let read = catch_panic(RequestKind::Read, || {
        log_denials(fs, from.caller(), of_file(RequestKind::Read, from), || fs.read(from, offset, space))
    });
    let data = read.and_then(|count| space.get(..count).ok_or(fuser::Errno::EIO));
    match data {
        Ok(data) => reply.data(data),
        Err(errno) => reply.error(errno),
    }
}

/// The callers that poll an open file, as FUSE knows them.
pub(super) struct Waiter(pub(super) fuser::PollNotifier);

impl Wake for Waiter {
    fn wake(self: Box<Self>) {
        // ENOENT: nobody waits any more.
        let _ = self.0.notify();
    }

    fn number(&self) -> u64 {
        self.0.handle().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_too_long_there_is_as_much_as_shows_it() {
        let page = usize::try_from(sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap()).unwrap();
        for (written, kept) in [(0, 0), (7, 7), (page, page), (page + 1, page + 1), (16 * page, page + 1)] {
            let data = vec![b'1'; written];
            assert_eq!(
                (truncate_write(&data, false).len(), truncate_write(&data, true).len()),
                (kept, written),
                "{written}"
            );
        }
    }
}
