//! Opening, reading and writing files, each in its lane.

use std::cell::RefCell;
use std::sync::Arc;

use fuser::{FileHandle, FopenFlags, INodeNo, ReplyData, ReplyOpen, ReplyWrite};

use super::adapter::Adapter;
use super::passthrough::Opening;
use super::reply::{
    NO_HANDLE, RequestSubject, catch_panic, log_denials, no_room, on_node, reply_read, reply_written, truncate_write,
};
use super::workers::RequestContext;
use super::workers::lanes::Lane;
use super::workers::throttle::{is_throttled, wait_until_paid};
use crate::activity::RequestKind;
use crate::fs::dispatch::Dispatch;
use crate::fs::{Caller, CgroupFs, HandleId, NodeId, OpenMode};

/// The largest read that is served at once, in bytes.
const READ_MAX: usize = 128 * 1024;

thread_local! {
    /// The buffer that a worker reads files into.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A file that has been opened on the host.
struct OpenOutcome<R: Dispatch> {
    handle: HandleId,
    opening: Opening,
    /// The filesystem that still has to measure the file, once its tenant has processor time again.
    unread: Option<Arc<CgroupFs<R::Host>>>,
}

impl<R: Dispatch> Adapter<R> {
    /// Opens a file. If the kernel will read it itself, no handle is kept.
    pub(super) fn open_file(
        &self,
        context: &RequestContext<'_>,
        inode: INodeNo,
        mode: OpenMode,
        is_direct: bool,
        reply: ReplyOpen,
    ) {
        self.undo_open();
        let caller = &context.caller;
        let about = on_node(if mode.write { RequestKind::OpenWrite } else { RequestKind::Open }, inode);
        let opened = catch_panic(about.kind, || {
            self.dispatch.with_opened(caller, about.node, |fs, id| {
                let done = |handle, opening, unread| Ok((handle, OpenOutcome::<R> { handle, opening, unread }));
                let opening = || self.passthrough.open(fs, id, about.node, caller.uid);
                let mut early = fs.opens_without_a_handle(id, mode, is_direct).then(opening);
                if let Some(opening) = early.take_if(|opening| opening.has_id()) {
                    fs.is_retry(caller, id);
                    return done(HandleId::NONE, opening, None);
                }
                let about = RequestSubject { node: id, ..about };
                let handle = log_denials(fs, caller, about, || fs.open(caller, id, mode, is_direct))?;
                let opening = early.unwrap_or_else(opening);
                if opening.has_id() && !mode.write {
                    fs.release(handle);
                    return done(HandleId::NONE, opening, None);
                }
                let shows_size = !opening.has_id() && !mode.write && fs.may_show_less(handle);
                let unread = (shows_size && is_throttled(fs)).then(|| Arc::clone(fs));
                if shows_size && unread.is_none() {
                    fs.show_size(caller, handle).inspect_err(|_| fs.release(handle))?;
                }
                done(handle, opening, unread)
            })
        });
        match opened {
            Ok((_, OpenOutcome { handle, opening, unread: None })) => reply_opened(reply, handle, opening),
            Ok((_, OpenOutcome { handle, opening, unread: Some(fs) })) => {
                self.show_size_later(fs, (*caller, handle), opening, reply)
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Takes back what an earlier server has done for the current request: the kernel wasn't told.
    fn undo_open(&self) {
        let records = self.dispatch.records();
        if let Some(handle) = records.opened_before() {
            self.dispatch.release(HandleId(handle));
        }
        if let Some(node) = records.counted_before() {
            self.passthrough.close(NodeId::from_u64(node));
        }
    }

    /// Completes an open whose tenant has no processor time left: the server measures the file once that is paid for.
    fn show_size_later(
        &self,
        fs: Arc<CgroupFs<R::Host>>,
        (caller, handle): (Caller, HandleId),
        opening: Opening,
        reply: ReplyOpen,
    ) {
        let tenant = fs.tenant();
        if !self.lanes.throttled.has_room(tenant) {
            self.dispatch.release(handle);
            return reply.error(no_room());
        }
        let dispatch = Arc::clone(&self.dispatch);
        self.lanes.throttled.run(tenant, move || {
            wait_until_paid(&fs);
            match catch_panic(RequestKind::Open, || fs.show_size(&caller, handle)) {
                Ok(()) => reply_opened(reply, handle, opening),
                Err(errno) => {
                    dispatch.release(handle);
                    reply.error(errno);
                }
            }
        });
    }

    /// Reads a file. `for_splice` means that the kernel fills a page, and no read(2) asks for it.
    pub(super) fn read_file(
        &self,
        context: &RequestContext<'_>,
        handle: HandleId,
        (offset, size): (u64, u32),
        for_splice: bool,
        reply: ReplyData,
    ) {
        let size = (size as usize).min(READ_MAX);
        let found = catch_panic(RequestKind::Read, || {
            self.dispatch.with_file(handle, |fs, tenant| {
                let mut from = fs.transfer(&context.caller, handle)?;
                from.fill_for_splice(for_splice);
                Ok((Arc::clone(fs), tenant, from))
            })
        });
        let (fs, tenant, from) = match found {
            Ok(found) => found,
            Err(errno) => return reply.error(errno),
        };
        let Some(pool) = self.lanes.pool(Lane::of_read(&fs, &from)) else {
            return BUFFER.with_borrow_mut(|buffer| {
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                reply_read(&fs, &from, offset, buffer.get_mut(..size).unwrap_or_default(), reply);
            });
        };
        if !pool.has_room(tenant) {
            return reply.error(no_room());
        }
        pool.run(tenant, move || {
            wait_until_paid(&fs);
            reply_read(&fs, &from, offset, &mut vec![0; size], reply);
        });
    }

    /// Writes to a file. In this order: the filesystem, the lane of the write, the write itself
    /// ([`CgroupFs::write`]), the reply.
    pub(super) fn write_file(&self, context: &RequestContext<'_>, handle: HandleId, data: &[u8], reply: ReplyWrite) {
        let found = catch_panic(RequestKind::Write, || {
            self.dispatch
                .with_file(handle, |fs, tenant| Ok((Arc::clone(fs), tenant, fs.transfer(&context.caller, handle)?)))
        });
        let (fs, tenant, to) = match found {
            Ok(found) => found,
            Err(errno) => return reply.error(errno),
        };
        let lane = Lane::of_write(&fs, &to);
        // Handing the write to another thread takes longer than most slow writes.
        let may_stay = lane == Lane::Slow && R::HAS_ONE_TENANT && !to.waits_for_the_view() && !is_throttled(&fs);
        let slot = if may_stay { self.workers.take_slow_slot() } else { None };
        let Some(pool) = self.lanes.pool(lane).filter(|_| slot.is_none()) else {
            return reply_written(&fs, &to, data, reply);
        };
        let data = truncate_write(data, to.takes_long_text());
        if !pool.has_room_for(tenant, data.len()) {
            return reply.error(no_room());
        }
        pool.run(tenant, move || {
            wait_until_paid(&fs);
            reply_written(&fs, &to, &data, reply);
        });
    }
}

/// Tells the kernel that a file is open.
fn reply_opened(reply: ReplyOpen, handle: HandleId, opening: Opening) {
    // Files have size 0: cached reads would return nothing.
    let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
    match (handle, opening.finish()) {
        (HandleId::NONE, Some(id)) => id.reply(reply, NO_HANDLE, FopenFlags::FOPEN_NOFLUSH),
        (HandleId(handle), Some(id)) => id.reply(reply, FileHandle(handle), direct),
        (HandleId(handle), None) => reply.opened(FileHandle(handle), direct),
    }
}
