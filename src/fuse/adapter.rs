//! One method per FUSE operation: find who calls, ask the filesystem, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileHandle, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{self, node};
use super::deferred::{NO_HANDLE, list, list_later, owes, reply_directory, reply_opened, settle, show_size_later};
use super::passthrough::Passthrough;
use super::reply::{
    About, Waiter, at, caught, kept_of, logged, on, reply_empty, reply_found, reply_read, reply_written, reply_xattr,
};
use super::workers::fair_pool::Offload;
use super::workers::{Asked, Workers};
use crate::fs::dispatch::Dispatch;
use crate::fs::ops::Wake;
use crate::fs::{Caller, CgroupFs, Found, FsResult, HandleId, SetAttr};
use crate::fs::{NodeId, ROOT_ID};
use crate::policy::Operation;

/// A write is cut into pieces of this size by the kernel. The first piece of one that is too long for every file is refused as the whole
/// would be (`E2BIG`), so it needn't be larger.
pub(super) const MAX_WRITE: u32 = 64 * 1024;

/// The largest read that is served at once.
const MAX_READ: usize = 128 * 1024;

/// FUSE's view of a filesystem.
#[derive(Debug)]
pub(super) struct Adapter<R: Dispatch> {
    route: Arc<R>,
    offload: Offload,
    agents: Offload,
    events: Offload,
    /// What waits until its tenant has processor time again.
    owing: Offload,
    passthrough: Arc<Passthrough>,
    workers: Workers,
    /// The kernel opens directories without asking, once it was told that there's no need to, and keeps all listings (Linux 5.1).
    opens_directories_itself: AtomicBool,
    /// The longest name that the kernel takes in a listing, in bytes.
    longest_listed: AtomicUsize,
}

impl<R: Dispatch> Adapter<R> {
    pub(super) fn new(route: Arc<R>, workers: Workers) -> Self {
        let slow = || Offload::new(R::SLOW_AT_ONCE);
        Self {
            route,
            offload: slow(),
            agents: slow(),
            events: slow(),
            owing: Offload::new(1),
            passthrough: Arc::default(),
            workers,
            opens_directories_itself: AtomicBool::default(),
            longest_listed: AtomicUsize::default(),
        }
    }

    fn ask<T>(
        &self,
        asked: &Asked<'_>,
        about: About<'_>,
        question: impl FnOnce(&CgroupFs<R::Host>, &Caller, NodeId) -> FsResult<T>,
    ) -> Result<T, fuser::Errno> {
        let caller = &asked.caller;
        caught(about.operation, || {
            self.route.at(caller, about.node, |fs, node| {
                logged(fs, caller, About { node, ..about }, || question(fs, caller, node))
            })
        })
    }

    /// Asks for an entry, and replies with it, or with its absence.
    fn reply_entry(
        &self,
        asked: &Asked<'_>,
        about: About<'_>,
        reply: ReplyEntry,
        question: impl FnOnce(&CgroupFs<R::Host>, &Caller, NodeId) -> FsResult<Found>,
    ) {
        let caller = &asked.caller;
        let found = caught(about.operation, || {
            self.route.with_entry(caller, about.node, |fs, node| {
                logged(fs, caller, About { node, ..about }, || question(fs, caller, node))
            })
        });
        reply_found(reply, R::KEEPS, found);
    }

    /// A request has come. The turn has to be taken before, and to end after, everything that a handler does.
    fn turn(&self, request: &Request) -> Asked<'_> {
        self.workers.turn(request)
    }
}

/// For how long the kernel may keep something.
fn kept<R: Dispatch>(keep: Duration) -> Duration {
    if R::KEEPS { keep } else { Duration::ZERO }
}

thread_local! {
    /// What a worker reads into.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<R: Dispatch> fuser::Filesystem for Adapter<R> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each by itself: asked for together, one that the kernel lacks would lose all.
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // A stored listing is checked against the directory's modification time.
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ];
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "this kernel's FUSE lacks it");
            }
        }
        if self.route.keeps_listings() && config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok() {
            self.opens_directories_itself.store(true, Ordering::Relaxed);
        }
        let _ = config.set_max_write(MAX_WRITE);
        self.longest_listed.store(convert::longest_listed(config), Ordering::Relaxed);
        let passes =
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
        self.passthrough.enable(passes);
        self.route.reading().begin(passes, convert::splice_ends_at_size());
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asked = self.turn(request);
        self.reply_entry(&asked, at("lookup", parent, name), reply, |fs, caller, parent| {
            fs.lookup_for(caller, parent, name)
        });
    }

    fn forget(&self, request: &Request, inode: INodeNo, lookups: u64) {
        self.workers.in_between(request.unique(), || {
            if self.route.forget(node(inode), lookups) {
                self.passthrough.forget(node(inode), || self.route.knows(node(inode)));
            }
        });
    }

    fn getattr(&self, request: &Request, inode: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let asked = self.turn(request);
        let found = match handle.map(|handle| HandleId(handle.0)).filter(|handle| *handle != HandleId::NONE) {
            Some(handle) => caught("getattr", || self.route.with_file(handle, |fs, _| fs.file_attributes(handle))),
            None => self.ask(&asked, on("getattr", inode), |fs, _, node| fs.attributes(node, None)),
        };
        match found {
            Ok((found, keep)) => reply.attr(&kept::<R>(keep), &convert::attributes(&found, found.inode)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let asked = self.turn(request);
        let changes =
            SetAttr { mode, uid, gid, access: atime.map(convert::time), modification: mtime.map(convert::time) };
        let operation = match (size, mode, uid.or(gid)) {
            (Some(_), ..) => "truncate",
            (None, Some(_), _) => "chmod",
            (None, None, Some(_)) => "chown",
            (None, None, None) => "utimens",
        };
        let changed = self
            .ask(&asked, on(operation, inode), |fs, caller, node| fs.change(caller, node, &changes, size.is_some()));
        match changed {
            Ok((found, keep)) => reply.attr(&kept::<R>(keep), &convert::attributes(&found, found.inode)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let asked = self.turn(request);
        use std::os::unix::ffi::OsStrExt;
        match self.ask(&asked, on("readlink", inode), |fs, _, node| fs.link_target(node)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        let asked = self.turn(request);
        // mknod(2) of a regular file is a creat(2) (do_mknodat).
        let is_file = matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG);
        let operation = if is_file { Operation::CreateFile } else { Operation::MakeNode };
        self.reply_entry(
            &asked,
            at("mknod", parent, name),
            reply,
            |fs, _, parent| Err(fs.make_node(parent, operation)),
        );
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let asked = self.turn(request);
        self.reply_entry(&asked, at("mkdir", parent, name), reply, |fs, caller, parent| {
            fs.make_directory(caller, parent, name, mode & !umask & 0o7777).map(Found::Something)
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.turn(request);
        let answer = self
            .ask(&asked, at("unlink", parent, name), |fs, _, parent| Err(fs.make_node(parent, Operation::MakeNode)));
        reply_empty(reply, answer);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.turn(request);
        let answer =
            self.ask(&asked, at("rmdir", parent, name), |fs, caller, parent| fs.remove_directory(caller, parent, name));
        reply_empty(reply, answer);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, _target: &Path, reply: ReplyEntry) {
        let asked = self.turn(request);
        self.reply_entry(&asked, at("symlink", parent, name), reply, |fs, _, parent| {
            Err(fs.make_node(parent, Operation::MakeNode))
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let asked = self.turn(request);
        let about = at("rename", parent, name);
        let answer = caught(about.operation, || {
            self.route.with_nodes(&asked.caller, (about.node, node(new_parent)), |fs, from, to| {
                let rename = || fs.rename(&asked.caller, from, name, to, new_name, flags.bits());
                logged(fs, &asked.caller, About { node: from, ..about }, rename)
            })
        });
        reply_empty(reply, answer);
    }

    fn link(&self, request: &Request, _inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asked = self.turn(request);
        self.reply_entry(&asked, at("link", parent, name), reply, |fs, _, parent| {
            Err(fs.make_node(parent, Operation::MakeNode))
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let asked = self.turn(request);
        let answer = self.ask(&asked, at("create", parent, name), |fs, _, parent| {
            Err::<(), _>(fs.make_node(parent, Operation::CreateFile))
        });
        reply.error(answer.err().unwrap_or(fuser::Errno::EACCES));
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let asked = self.turn(request);
        let (mode, direct) = (convert::open_mode(flags), flags.0 & libc::O_DIRECT != 0);
        let about = on(if mode.write { "write" } else { "read" }, inode);
        let opened = caught(about.operation, || {
            self.route.with_opened(&asked.caller, about.node, |fs, id| {
                let opening = || self.passthrough.open(fs, id, about.node, asked.caller.uid, &reply);
                let mut early = fs.opens_without_a_handle(id, mode, direct).then(opening);
                if let Some(opening) = early.take_if(|opening| opening.has_id()) {
                    fs.is_retry(&asked.caller, id);
                    return Ok((HandleId::NONE, (opening, None)));
                }
                let about = About { node: id, ..about };
                let handle = logged(fs, &asked.caller, about, || fs.open(&asked.caller, id, mode, direct))?;
                let opening = early.unwrap_or_else(opening);
                if opening.has_id() && !mode.write {
                    fs.release(handle);
                    return Ok((HandleId::NONE, (opening, None)));
                }
                let shows_size = !opening.has_id() && !mode.write && fs.may_show_less(handle);
                let owing = (shows_size && owes(fs)).then(|| Arc::clone(fs));
                if shows_size && owing.is_none() {
                    fs.show_size(&asked.caller, handle).inspect_err(|_| fs.release(handle))?;
                }
                Ok((handle, (opening, owing)))
            })
        });
        match opened {
            Ok((handle, (opening, None))) => reply_opened(reply, handle, opening),
            Ok((handle, (opening, Some(fs)))) => {
                show_size_later(&self.owing, &self.route, fs, (asked.caller, handle, opening), reply)
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = self.turn(request);
        let size = (size as usize).min(MAX_READ);
        let handle = HandleId(handle.0);
        // A reply that is dropped says EIO.
        let _ = self.route.with_file(handle, |fs, tenant| {
            let mut from = match caught("read", || fs.transfer(&asked.caller, handle)) {
                Ok(from) => from,
                Err(errno) => {
                    reply.error(errno);
                    return Ok(());
                }
            };
            // What nobody's read(2) asks for fills a page.
            from.fill_for_splice(owner.is_none());
            let beside = if from.waits_for_an_agent() { &self.agents } else { &self.owing };
            if !from.waits_for_an_agent() && !owes(fs) {
                BUFFER.with_borrow_mut(|buffer| {
                    if buffer.len() < size {
                        buffer.resize(size, 0);
                    }
                    reply_read(fs, &from, offset, buffer.get_mut(..size).unwrap_or_default(), reply);
                });
            } else if beside.has_room(tenant) {
                let fs = Arc::clone(fs);
                beside.run(tenant, move || {
                    settle(&fs);
                    reply_read(&fs, &from, offset, &mut vec![0; size], reply);
                });
            } else {
                reply.error(fuser::Errno::EAGAIN);
            }
            Ok(())
        });
    }

    fn write(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asked = self.turn(request);
        let handle = HandleId(handle.0);
        // A reply that is dropped says EIO.
        let _ = self.route.with_file(handle, |fs, tenant| {
            let to = match caught("write", || fs.transfer(&asked.caller, handle)) {
                Ok(to) => to,
                Err(errno) => {
                    reply.error(errno);
                    return Ok(());
                }
            };
            let beside = if to.waits_for_an_agent() {
                &self.agents
            } else if to.takes_long() {
                &self.offload
            } else if to.registers_an_event() {
                &self.events
            } else if owes(fs) {
                &self.owing
            } else {
                reply_written(fs, &to, data, reply);
                return Ok(());
            };
            let kept = kept_of(data, to.takes_long_text());
            if beside.has_room_for(tenant, kept.len()) {
                let (fs, data) = (Arc::clone(fs), kept);
                beside.run(tenant, move || {
                    settle(&fs);
                    reply_written(&fs, &to, &data, reply);
                });
            } else {
                reply.error(fuser::Errno::EAGAIN);
            }
            Ok(())
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // There's nothing to flush, and the kernel never asks again: a close that waits for its server was what hung lxcfs on Linux 3.10.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.workers.turn_for_nobody();
        self.passthrough.close(node(inode));
        self.route.release(HandleId(handle.0));
        reply.ok();
    }

    fn fsync(&self, request: &Request, inode: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let asked = self.turn(request);
        let handle = HandleId(handle.0);
        let answer = match handle {
            HandleId::NONE => self.ask(&asked, on("fsync", inode), |fs, _, _| fs.sync(handle)),
            _ => caught("fsync", || self.route.with_file(handle, |fs, _| fs.sync(handle))),
        };
        reply_empty(reply, answer);
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let asked = self.turn(request);
        if self.opens_directories_itself.load(Ordering::Relaxed) {
            return reply.error(fuser::Errno::ENOSYS);
        }
        match self.ask(&asked, on("opendir", inode), |fs, _, node| fs.open_directory(node)) {
            Ok(()) => {
                let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(NO_HANDLE, if self.route.keeps_listings() { cached } else { FopenFlags::empty() });
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, request: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let asked = self.turn(request);
        let longest = self.longest_listed.load(Ordering::Relaxed);
        let (caller, about) = (asked.caller, on("readdir", inode));
        let listed = caught("readdir", || {
            self.route.at(&caller, about.node, |fs, node| {
                if owes(fs) && fs.lists_anew(node, offset) {
                    return Ok(Some(Arc::clone(fs)));
                }
                logged(fs, &caller, about, || list(fs, node, offset, longest, &mut reply)).map(|()| None)
            })
        });
        match listed {
            Ok(Some(fs)) => list_later(&self.owing, &self.route, fs, (caller, about.node, offset), longest, reply),
            listed => reply_directory(reply, listed.map(drop)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // kernfs' directories have no fsync.
        reply.error(fuser::Errno::EINVAL);
    }

    fn statfs(&self, request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let asked = self.turn(request);
        let inode = if inode.0 == 0 { INodeNo(ROOT_ID.as_u64()) } else { inode };
        match self.ask(&asked, on("statfs", inode), |fs, _, node| fs.statistics(node)) {
            Ok(found) => reply.statfs(0, 0, 0, 0, 0, found.block_size, found.name_length, found.block_size),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let asked = self.turn(request);
        let answer =
            self.ask(&asked, on("setxattr", inode), |fs, caller, node| fs.set_xattr(caller, node, name, value, flags));
        reply_empty(reply, answer);
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let asked = self.turn(request);
        reply_xattr(reply, size, self.ask(&asked, on("getxattr", inode), |fs, _, node| fs.xattr(node, name)));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let asked = self.turn(request);
        let names = self.ask(&asked, on("listxattr", inode), |fs, caller, node| fs.xattrs(caller, node));
        reply_xattr(reply, size, names);
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.turn(request);
        let answer = self.ask(&asked, on("removexattr", inode), |fs, caller, node| fs.remove_xattr(caller, node, name));
        reply_empty(reply, answer);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        notifier: fuser::PollNotifier,
        events: fuser::PollEvents,
        flags: fuser::PollFlags,
        reply: ReplyPoll,
    ) {
        let asked = self.turn(request);
        let waits = flags.contains(fuser::PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        let waker = waits.then(|| Box::new(Waiter(notifier)) as Box<dyn Wake>);
        let unasked = fuser::PollEvents::POLLERR | fuser::PollEvents::POLLHUP;
        let handle = HandleId(handle.0);
        let ready = match handle {
            HandleId::NONE => self.ask(&asked, on("poll", inode), |fs, _, node| fs.poll(node, handle, waker)),
            _ => caught("poll", || self.route.with_file(handle, |fs, _| fs.poll(ROOT_ID, handle, waker))),
        };
        match ready {
            Ok(ready) => {
                let ready = fuser::PollEvents::from_bits_truncate(u32::from(ready));
                reply.poll(ready & (events | unasked));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EOPNOTSUPP);
    }

    fn lseek(&self, request: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let asked = self.turn(request);
        // SEEK_DATA and SEEK_HOLE; the others the kernel does itself.
        match self.ask(&asked, on("lseek", inode), |fs, _, node| fs.seek(node, offset, whence)) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }
}
