//! Listing directories.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{INodeNo, ReplyDirectory};

use super::adapter::Adapter;
use super::convert;
use super::reply::{catch_panic, log_denials, no_room, on_node};
use super::workers::RequestContext;
use super::workers::throttle::{is_throttled, wait_until_paid};
use crate::activity::RequestKind;
use crate::fs::dispatch::Dispatch;
use crate::fs::{Caller, CgroupFs, FsResult, Host, NodeId};

impl<R: Dispatch> Adapter<R> {
    /// Lists a part of a directory.
    pub(super) fn list_directory(
        &self,
        context: &RequestContext<'_>,
        inode: INodeNo,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let name_max = self.listed_name_max.load(Ordering::Relaxed);
        let (caller, about) = (context.caller, on_node(RequestKind::Readdir, inode));
        let listed = catch_panic(RequestKind::Readdir, || {
            self.dispatch.with_node(&caller, about.node, |fs, node| {
                if is_throttled(fs) && fs.lists_anew(node, offset) {
                    return Ok(Some(Arc::clone(fs)));
                }
                log_denials(fs, &caller, about, || list(fs, node, offset, name_max, &mut reply)).map(|()| None)
            })
        });
        match listed {
            Ok(Some(fs)) => self.list_later(fs, (caller, about.node, offset), name_max, reply),
            listed => reply_directory(reply, listed.map(drop)),
        }
    }

    /// Lists a directory once its tenant has processor time again. `caller` waits meanwhile.
    fn list_later(
        &self,
        fs: Arc<CgroupFs<R::Host>>,
        (caller, node, offset): (Caller, NodeId, u64),
        name_max: usize,
        mut reply: ReplyDirectory,
    ) {
        let tenant = fs.tenant();
        if !self.lanes.throttled.has_room(tenant) {
            return reply.error(no_room());
        }
        let dispatch = Arc::clone(&self.dispatch);
        self.lanes.throttled.run(tenant, move || {
            wait_until_paid(&fs);
            let list = || dispatch.with_node(&caller, node, |fs, node| list(fs, node, offset, name_max, &mut reply));
            let listed = catch_panic(RequestKind::Readdir, list);
            reply_directory(reply, listed);
        });
    }
}

/// Adds a part of a listing to a reply. It leaves out names longer than `name_max` bytes: one of them would make the
/// whole listing EIO.
fn list<H: Host>(
    fs: &CgroupFs<H>,
    node: NodeId,
    offset: u64,
    name_max: usize,
    reply: &mut ReplyDirectory,
) -> FsResult<()> {
    fs.list(node, offset, |entry| {
        entry.name.len() > name_max
            || !reply.add(INodeNo(entry.inode), entry.cookie, convert::file_type(entry.kind), &entry.name)
    })
}

fn reply_directory(reply: ReplyDirectory, listed: Result<(), fuser::Errno>) {
    match listed {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}
