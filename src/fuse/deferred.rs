//! Work for a tenant who has used more of the server's processor time than he has: it waits, beside the workers.

use std::sync::Arc;
use std::thread;

use fuser::{FileHandle, FopenFlags, INodeNo, ReplyDirectory, ReplyOpen};

use super::convert;
use super::passthrough::Opening;
use super::reply::caught;
use super::workers::fair_pool::Offload;
use crate::fs::NodeId;
use crate::fs::dispatch::Dispatch;
use crate::fs::{Caller, CgroupFs, FsResult, HandleId, Host};

/// What is opened without anything being kept for it.
pub(super) const NO_HANDLE: FileHandle = FileHandle(HandleId::NONE.0);

/// Whether costly work has to wait.
pub(super) fn owes<H: Host>(fs: &CgroupFs<H>) -> bool {
    !fs.processor().wait().is_zero()
}

/// Waits until it may be done. Only for threads that do nothing for anybody else.
pub(super) fn settle<H: Host>(fs: &Arc<CgroupFs<H>>) {
    loop {
        let wait = fs.processor().wait();
        if wait.is_zero() {
            return;
        }
        thread::sleep(wait);
    }
}

/// Puts a part of a listing into a reply.
pub(super) fn list<H: Host>(
    fs: &CgroupFs<H>,
    node: NodeId,
    offset: u64,
    longest: usize,
    reply: &mut ReplyDirectory,
) -> FsResult<()> {
    fs.list(node, offset, |entry| {
        // One that is longer would be EIO for the whole listing.
        entry.name.len() > longest
            || !reply.add(INodeNo(entry.inode), entry.cookie, convert::file_type(entry.kind), &entry.name)
    })
}

/// Lists a directory once that's paid for, in the name of `caller`, who waits for it.
pub(super) fn list_later<R: Dispatch>(
    queue: &Offload,
    route: &Arc<R>,
    fs: Arc<CgroupFs<R::Host>>,
    (caller, node, offset): (Caller, NodeId, u64),
    longest: usize,
    mut reply: ReplyDirectory,
) {
    if !queue.has_room(fs.tenant()) {
        return reply.error(fuser::Errno::EAGAIN);
    }
    let route = Arc::clone(route);
    queue.run(fs.tenant(), move || {
        settle(&fs);
        let list = || route.at(&caller, node, |fs, node| list(fs, node, offset, longest, &mut reply));
        let listed = caught("readdir", list);
        reply_directory(reply, listed);
    });
}

/// Opens a file once it's paid for that the server reads it.
pub(super) fn show_size_later<R: Dispatch>(
    queue: &Offload,
    route: &Arc<R>,
    fs: Arc<CgroupFs<R::Host>>,
    (caller, handle, opening): (Caller, HandleId, Opening),
    reply: ReplyOpen,
) {
    if !queue.has_room(fs.tenant()) {
        route.release(handle);
        return reply.error(fuser::Errno::EAGAIN);
    }
    let route = Arc::clone(route);
    queue.run(fs.tenant(), move || {
        settle(&fs);
        match caught("read", || fs.show_size(&caller, handle)) {
            Ok(()) => reply_opened(reply, handle, opening),
            Err(errno) => {
                route.release(handle);
                reply.error(errno);
            }
        }
    });
}

pub(super) fn reply_directory(reply: ReplyDirectory, listed: Result<(), fuser::Errno>) {
    match listed {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// The kernel is told that a file is open.
pub(super) fn reply_opened(reply: ReplyOpen, handle: HandleId, opening: Opening) {
    // Files have size 0: cached reads would return nothing.
    let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
    match (handle, opening.finish()) {
        (HandleId::NONE, Some(id)) => reply.opened_passthrough(NO_HANDLE, FopenFlags::FOPEN_NOFLUSH, &id),
        (HandleId(handle), Some(id)) => reply.opened_passthrough(FileHandle(handle), direct, &id),
        (HandleId(handle), None) => reply.opened(FileHandle(handle), direct),
    }
}
