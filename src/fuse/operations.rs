//! One method per FUSE operation: begin the request, ask the filesystem, reply.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileHandle, FopenFlags, INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::Adapter;
use super::convert::{self, node};
use super::reply::{
    NO_HANDLE, RequestSubject, Waiter, catch_panic, log_denials, on_entry, on_node, reply_empty, reply_xattr,
};
use crate::activity::{self, RequestKind};
use crate::fs::dispatch::Dispatch;
use crate::fs::ops::Wake;
use crate::fs::{Caller, HandleId, ROOT_ID, SetAttr};
use crate::policy::Operation;

/// Returns how long the kernel may cache an answer.
fn kept<R: Dispatch>(keep: Duration) -> Duration {
    if R::KEEPS { keep } else { Duration::ZERO }
}

impl<R: Dispatch> fuser::Filesystem for Adapter<R> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.negotiate(config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let context = self.begin(request);
        self.reply_entry(&context, on_entry(RequestKind::Lookup, parent, name), reply, |fs, caller, parent| {
            fs.lookup_for(caller, parent, name)
        });
    }

    fn forget(&self, request: &Request, inode: INodeNo, lookups: u64) {
        self.workers.forget(request.unique(), || {
            if self.dispatch.forget(node(inode), lookups) {
                self.passthrough.forget(node(inode), || self.dispatch.knows(node(inode)));
            }
        });
    }

    fn getattr(&self, request: &Request, inode: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let context = self.begin(request);
        let found = match handle.map(|handle| HandleId(handle.0)).filter(|handle| *handle != HandleId::NONE) {
            Some(handle) => {
                catch_panic(RequestKind::Getattr, || self.ask_file(&context, handle, |fs| fs.file_attributes(handle)))
            }
            None => self.ask(&context, on_node(RequestKind::Getattr, inode), |fs, _, node| fs.attributes(node, None)),
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
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let context = self.begin(request);
        let changes =
            SetAttr { mode, uid, gid, access: atime.map(convert::time), modification: mtime.map(convert::time) };
        let kind = match (size, mode, uid.or(gid)) {
            (Some(_), ..) => RequestKind::Truncate,
            (None, Some(_), _) => RequestKind::Chmod,
            (None, None, Some(_)) => RequestKind::Chown,
            (None, None, None) => RequestKind::Utimens,
        };
        let changed = self.ask(&context, on_node(kind, inode), |fs, caller, node| {
            fs.set_attributes(caller, node, &changes, size.is_some())
        });
        match changed {
            Ok((found, keep)) => reply.attr(&kept::<R>(keep), &convert::attributes(&found, found.inode)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let context = self.begin(request);
        use std::os::unix::ffi::OsStrExt;
        match self.ask(&context, on_node(RequestKind::Readlink, inode), |fs, _, node| fs.link_target(node)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        let context = self.begin(request);
        // mknod(2) of a regular file is a creat(2) (do_mknodat).
        let is_file = matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG);
        let operation = if is_file { Operation::CreateFile } else { Operation::MakeNode };
        self.reply_entry(&context, on_entry(RequestKind::Mknod, parent, name), reply, |fs, _, parent| {
            Err(fs.make_node(parent, operation))
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let context = self.begin(request);
        self.make_directory(&context, (parent, name), mode & !umask & 0o7777, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let context = self.begin(request);
        let answer = self.ask(&context, on_entry(RequestKind::Unlink, parent, name), |fs, _, parent| {
            Err(fs.make_node(parent, Operation::MakeNode))
        });
        reply_empty(reply, answer);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let context = self.begin(request);
        let answer = self.ask(&context, on_entry(RequestKind::Rmdir, parent, name), |fs, caller, parent| {
            fs.remove_directory(caller, parent, name)
        });
        reply_empty(reply, answer);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, _target: &Path, reply: ReplyEntry) {
        let context = self.begin(request);
        self.reply_entry(&context, on_entry(RequestKind::Symlink, parent, name), reply, |fs, _, parent| {
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
        let context = self.begin(request);
        let about = on_entry(RequestKind::Rename, parent, name);
        let answer = catch_panic(about.kind, || {
            self.dispatch.with_nodes(&context.caller, (about.node, node(new_parent)), |fs, from, to| {
                let rename = || fs.rename(&context.caller, from, name, to, new_name, flags.bits());
                log_denials(fs, &context.caller, RequestSubject { node: from, ..about }, rename)
            })
        });
        reply_empty(reply, answer);
    }

    fn link(&self, request: &Request, _inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let context = self.begin(request);
        self.reply_entry(&context, on_entry(RequestKind::Link, parent, name), reply, |fs, _, parent| {
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
        let context = self.begin(request);
        let answer = self.ask(&context, on_entry(RequestKind::Create, parent, name), |fs, _, parent| {
            Err::<(), _>(fs.make_node(parent, Operation::CreateFile))
        });
        reply.error(answer.err().unwrap_or(fuser::Errno::EACCES));
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let context = self.begin(request);
        let is_direct = flags.0 & libc::O_DIRECT != 0;
        self.open_file(&context, inode, convert::open_mode(flags), is_direct, reply);
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let context = self.begin(request);
        self.read_file(&context, HandleId(handle.0), (offset, size), owner.is_none(), reply);
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let context = self.begin(request);
        self.write_file(&context, HandleId(handle.0), data, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // There's nothing to flush, and after ENOSYS the kernel never asks again. A close that waits for its server
        // hung lxcfs on Linux 3.10.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _guard = self.workers.begin_unattended(request);
        let records = self.dispatch.records();
        if records.activity().is_watched() {
            let nobody = Caller { tid: 0, uid: 0, gid: 0 };
            let _ = self.dispatch.with_file(HandleId(handle.0), |fs, _| {
                fs.describe_file(&nobody, HandleId(handle.0));
                Ok(())
            });
        }
        if !records.is_closed_before() {
            records.note_closed();
            self.passthrough.close(node(inode));
        }
        self.dispatch.release(HandleId(handle.0));
        activity::note(RequestKind::Release, 0, None);
        reply.ok();
    }

    fn fsync(&self, request: &Request, inode: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let context = self.begin(request);
        let handle = HandleId(handle.0);
        let answer = match handle {
            HandleId::NONE => self.ask(&context, on_node(RequestKind::Fsync, inode), |fs, _, _| fs.sync(handle)),
            _ => catch_panic(RequestKind::Fsync, || self.ask_file(&context, handle, |fs| fs.sync(handle))),
        };
        reply_empty(reply, answer);
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let context = self.begin(request);
        if self.opens_directories_itself.load(Ordering::Relaxed) {
            return reply.error(fuser::Errno::ENOSYS);
        }
        match self.ask(&context, on_node(RequestKind::Opendir, inode), |fs, _, node| fs.open_directory(node)) {
            Ok(()) => {
                let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(NO_HANDLE, if self.dispatch.keeps_listings() { cached } else { FopenFlags::empty() });
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, request: &Request, inode: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let context = self.begin(request);
        self.list_directory(&context, inode, offset, reply);
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // kernfs' directories have no fsync.
        reply.error(fuser::Errno::EINVAL);
    }

    fn statfs(&self, request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let context = self.begin(request);
        let inode = if inode.0 == 0 { INodeNo(ROOT_ID.as_u64()) } else { inode };
        match self.ask(&context, on_node(RequestKind::Statfs, inode), |fs, _, node| fs.statistics(node)) {
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
        let context = self.begin(request);
        let answer = self.ask(&context, on_node(RequestKind::Setxattr, inode), |fs, caller, node| {
            fs.set_xattr(caller, node, name, value, flags)
        });
        reply_empty(reply, answer);
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let context = self.begin(request);
        reply_xattr(
            reply,
            size,
            self.ask(&context, on_node(RequestKind::Getxattr, inode), |fs, _, node| fs.xattr(node, name)),
        );
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let context = self.begin(request);
        let names =
            self.ask(&context, on_node(RequestKind::Listxattr, inode), |fs, caller, node| fs.xattrs(caller, node));
        reply_xattr(reply, size, names);
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let context = self.begin(request);
        let answer = self.ask(&context, on_node(RequestKind::Removexattr, inode), |fs, caller, node| {
            fs.remove_xattr(caller, node, name)
        });
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
        let context = self.begin(request);
        let waits = flags.contains(fuser::PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        let waker = waits.then(|| Box::new(Waiter(notifier)) as Box<dyn Wake>);
        let unasked = fuser::PollEvents::POLLERR | fuser::PollEvents::POLLHUP;
        let handle = HandleId(handle.0);
        let ready = match handle {
            HandleId::NONE => {
                self.ask(&context, on_node(RequestKind::Poll, inode), |fs, _, node| fs.poll(node, handle, waker))
            }
            _ => {
                catch_panic(RequestKind::Poll, || self.ask_file(&context, handle, |fs| fs.poll(ROOT_ID, handle, waker)))
            }
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
        let context = self.begin(request);
        // Only SEEK_DATA and SEEK_HOLE arrive here; the kernel handles the others itself.
        match self.ask(&context, on_node(RequestKind::Lseek, inode), |fs, _, node| fs.seek(node, offset, whence)) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }
}
