//! One method per FUSE operation: find who calls, ask the filesystem, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::errno::Errno;

use super::convert::{self, node};
use super::offload::Offload;
use super::passthrough::Passthrough;
use super::placement::Placement;
use crate::fs::poll::Wake;
use crate::fs::{Caller, CgroupFs, Changes, Entry, Failure, Found, HandleId, Host, Outcome, Transfer};
use crate::policy::Operation;
use crate::view::{NodeId, ROOT_ID};

/// A write is cut into pieces of this size by the kernel. The first piece of one that is too long for every file is refused as the whole
/// would be (`E2BIG`), so it needn't be larger.
pub(super) const MAX_WRITE: u32 = 64 * 1024;

/// The largest read that is served at once.
const MAX_READ: usize = 128 * 1024;

/// What is opened without anything being kept for it.
const NO_HANDLE: FileHandle = FileHandle(HandleId::NONE.0);

/// FUSE's view of a filesystem.
#[derive(Debug)]
pub(super) struct Adapter<H: Host> {
    fs: Arc<CgroupFs<H>>,
    offload: Offload,
    agents: Offload,
    events: Offload,
    passthrough: Passthrough,
    placement: Placement,
    /// The kernel opens directories without asking, once it was told that there's no need to, and keeps all listings (Linux 5.1).
    opens_directories_itself: AtomicBool,
}

/// Whom a request is about, for the log.
#[derive(Clone, Copy)]
struct About<'a> {
    operation: &'a str,
    node: NodeId,
    name: Option<&'a OsStr>,
}

impl<H: Host> Adapter<H> {
    pub(super) fn new(fs: Arc<CgroupFs<H>>) -> Self {
        Self {
            fs,
            offload: Offload::default(),
            agents: Offload::default(),
            events: Offload::default(),
            passthrough: Passthrough::default(),
            placement: Placement::default(),
            opens_directories_itself: AtomicBool::default(),
        }
    }

    fn ask<T>(
        &self,
        request: &Request,
        about: About<'_>,
        question: impl FnOnce(&CgroupFs<H>, &Caller) -> Outcome<T>,
    ) -> Result<T, fuser::Errno> {
        self.request_came(request);
        ask(&self.fs, &convert::caller(request), about, question)
    }

    fn request_came(&self, request: &Request) {
        self.placement.request_came(|| self.fs.placement(&convert::caller(request)));
    }

    fn reply_entry(&self, reply: ReplyEntry, found: Result<Entry, fuser::Errno>) {
        match found {
            // fuser has one field for the node id and for st_ino. Where they differ, the attributes expire at once, and the kernel asks
            // for them by GETATTR, which has st_ino alone.
            Ok(entry) => {
                let number = entry.id.as_u64();
                let same = number == entry.attributes.inode;
                let keep = if same { entry.keep.attributes } else { Duration::ZERO };
                let attributes = convert::attributes(&entry.attributes, number);
                reply.entry_with_ttls(&keep, &entry.keep.entry, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }
}

/// Asks the filesystem; logs what it rejects. A handler must not panic, since a dead server wedges its containers; should one all the
/// same, its caller gets EIO and the server goes on.
fn ask<H: Host, T>(
    fs: &CgroupFs<H>,
    caller: &Caller,
    about: About<'_>,
    question: impl FnOnce(&CgroupFs<H>, &Caller) -> Outcome<T>,
) -> Result<T, fuser::Errno> {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let outcome = question(fs, caller);
        if let Err(Failure::Denied(denial)) = &outcome {
            fs.log_rejection(caller, about.operation, about.node, about.name, denial);
        }
        outcome
    }));
    match answer {
        Ok(outcome) => outcome.map_err(|failure| convert::errno(failure.errno())),
        Err(_) => {
            tracing::error!(operation = about.operation, "a request made its handler panic; it was answered with EIO");
            Err(fuser::Errno::EIO)
        }
    }
}

fn on<'a>(operation: &'a str, inode: INodeNo) -> About<'a> {
    About { operation, node: node(inode), name: None }
}

fn at<'a>(operation: &'a str, parent: INodeNo, name: &'a OsStr) -> About<'a> {
    About { operation, node: node(parent), name: Some(name) }
}

fn reply_empty(reply: ReplyEmpty, answer: Result<(), fuser::Errno>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn reply_xattr(reply: ReplyXattr, size: u32, answer: Result<Vec<u8>, fuser::Errno>) {
    match answer {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}

/// Writes `data` and replies with how much was written.
fn reply_written<H: Host>(fs: &CgroupFs<H>, to: &Transfer<H>, inode: INodeNo, data: &[u8], reply: ReplyWrite) {
    match ask(fs, to.caller(), on("write", inode), |fs, _| fs.write(to, data)) {
        Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(errno) => reply.error(errno),
    }
}

/// Reads into `space` and replies with it.
fn reply_read<H: Host>(
    fs: &CgroupFs<H>,
    from: &Transfer<H>,
    inode: INodeNo,
    offset: u64,
    space: &mut [u8],
    reply: ReplyData,
) {
    let read = ask(fs, from.caller(), on("read", inode), |fs, _| {
        let count = fs.read(from, offset, space)?;
        space.get(..count).ok_or(Failure::Kernel(Errno::EIO))
    });
    match read {
        Ok(data) => reply.data(data),
        Err(errno) => reply.error(errno),
    }
}

/// Those who wait for an open file, as FUSE knows them.
struct Waiter(fuser::PollNotifier);

impl Wake for Waiter {
    fn wake(self: Box<Self>) {
        // ENOENT: nobody waits any more.
        let _ = self.0.notify();
    }
}

thread_local! {
    /// What a worker reads into.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<H: Host> fuser::Filesystem for Adapter<H> {
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
        if self.fs.keeps_listings() && config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok() {
            self.opens_directories_itself.store(true, Ordering::Relaxed);
        }
        let _ = config.set_max_write(MAX_WRITE);
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok() {
            self.passthrough.enable();
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found =
            self.ask(request, at("lookup", parent, name), |fs, caller| fs.lookup_for(caller, node(parent), name));
        match found {
            // Node id 0 is ENOENT that is kept.
            Ok(Found::Nothing(keep)) if !keep.is_zero() => {
                reply.entry_with_ttls(&Duration::ZERO, &keep, &convert::nothing(), Generation(0));
            }
            Ok(Found::Nothing(_)) => reply.error(fuser::Errno::ENOENT),
            Ok(Found::Something(entry)) => self.reply_entry(reply, Ok(entry)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _request: &Request, inode: INodeNo, lookups: u64) {
        if self.fs.forget(node(inode), lookups) {
            self.passthrough.forget(node(inode));
        }
    }

    fn getattr(&self, request: &Request, inode: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let handle = handle.map(|handle| HandleId(handle.0));
        match self.ask(request, on("getattr", inode), |fs, _| fs.attributes(node(inode), handle)) {
            Ok((found, keep)) => reply.attr(&keep, &convert::attributes(&found, found.inode)),
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
        let changes =
            Changes { mode, uid, gid, access: atime.map(convert::time), modification: mtime.map(convert::time) };
        let operation = match (size, mode, uid.or(gid)) {
            (Some(_), ..) => "truncate",
            (None, Some(_), _) => "chmod",
            (None, None, Some(_)) => "chown",
            (None, None, None) => "utimens",
        };
        let changed = self
            .ask(request, on(operation, inode), |fs, caller| fs.change(caller, node(inode), &changes, size.is_some()));
        match changed {
            Ok((found, keep)) => reply.attr(&keep, &convert::attributes(&found, found.inode)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        use std::os::unix::ffi::OsStrExt;
        match self.ask(request, on("readlink", inode), |fs, _| fs.link_target(node(inode))) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        // mknod(2) of a regular file is a creat(2) (do_mknodat).
        let is_file = matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG);
        let operation = if is_file { Operation::CreateFile } else { Operation::MakeNode };
        let made = self.ask(request, at("mknod", parent, name), |fs, _| Err(fs.make_node(node(parent), operation)));
        self.reply_entry(reply, made);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.ask(request, at("mkdir", parent, name), |fs, caller| {
            fs.make_directory(caller, node(parent), name, mode & !umask & 0o7777)
        });
        self.reply_entry(reply, made);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer =
            self.ask(request, at("unlink", parent, name), |fs, _| Err(fs.make_node(node(parent), Operation::MakeNode)));
        reply_empty(reply, answer);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(
            reply,
            self.ask(request, at("rmdir", parent, name), |fs, caller| fs.remove_directory(caller, node(parent), name)),
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, _target: &Path, reply: ReplyEntry) {
        let made = self
            .ask(request, at("symlink", parent, name), |fs, _| Err(fs.make_node(node(parent), Operation::MakeNode)));
        self.reply_entry(reply, made);
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
        let answer = self.ask(request, at("rename", parent, name), |fs, caller| {
            fs.rename(caller, node(parent), name, node(new_parent), new_name, flags.bits())
        });
        reply_empty(reply, answer);
    }

    fn link(&self, request: &Request, _inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let made =
            self.ask(request, at("link", parent, name), |fs, _| Err(fs.make_node(node(parent), Operation::MakeNode)));
        self.reply_entry(reply, made);
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
        let answer = self.ask(request, at("create", parent, name), |fs, _| {
            Err::<(), _>(fs.make_node(node(parent), Operation::CreateFile))
        });
        reply.error(answer.err().unwrap_or(fuser::Errno::EACCES));
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (mode, direct) = (convert::open_mode(flags), flags.0 & libc::O_DIRECT != 0);
        if self.fs.opens_without_a_look(node(inode), mode, direct)
            && let Some(id) = self.passthrough.id(&self.fs, node(inode), &reply)
        {
            self.request_came(request);
            return reply.opened_passthrough(NO_HANDLE, FopenFlags::FOPEN_NOFLUSH, &id);
        }
        let operation = if mode.write { "write" } else { "read" };
        match self.ask(request, on(operation, inode), |fs, caller| fs.open(caller, node(inode), mode, direct)) {
            Ok(HandleId(handle)) => {
                // Files have size 0: cached reads would return nothing.
                let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                match self.passthrough.id(&self.fs, node(inode), &reply) {
                    Some(id) if mode.write => reply.opened_passthrough(FileHandle(handle), direct, &id),
                    Some(id) => {
                        self.fs.release(HandleId(handle));
                        reply.opened_passthrough(NO_HANDLE, FopenFlags::FOPEN_NOFLUSH, &id);
                    }
                    None => reply.opened(FileHandle(handle), direct),
                }
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = (size as usize).min(MAX_READ);
        let from = match self.ask(request, on("read", inode), |fs, caller| fs.transfer(caller, HandleId(handle.0))) {
            Ok(from) => from,
            Err(errno) => return reply.error(errno),
        };
        if from.waits_for_an_agent() {
            if !self.agents.has_room() {
                return reply.error(fuser::Errno::EAGAIN);
            }
            let fs = Arc::clone(&self.fs);
            return self.agents.run(move || reply_read(&fs, &from, inode, offset, &mut vec![0; size], reply));
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            reply_read(&self.fs, &from, inode, offset, buffer.get_mut(..size).unwrap_or_default(), reply);
        });
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let to = match self.ask(request, on("write", inode), |fs, caller| fs.transfer(caller, HandleId(handle.0))) {
            Ok(to) => to,
            Err(errno) => return reply.error(errno),
        };
        let beside = if to.waits_for_reclaim() {
            &self.offload
        } else if to.waits_for_an_agent() {
            &self.agents
        } else if to.registers_an_event() {
            &self.events
        } else {
            return reply_written(&self.fs, &to, inode, data, reply);
        };
        if !beside.has_room() {
            return reply.error(fuser::Errno::EAGAIN);
        }
        let (fs, data) = (Arc::clone(&self.fs), data.to_vec());
        beside.run(move || reply_written(&fs, &to, inode, &data, reply));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // There's nothing to flush, and the kernel never asks again: a close that waits for its server was what hung lxcfs on Linux 3.10.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(HandleId(handle.0));
        reply.ok();
    }

    fn fsync(&self, request: &Request, inode: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(reply, self.ask(request, on("fsync", inode), |fs, _| fs.sync(HandleId(handle.0))));
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.opens_directories_itself.load(Ordering::Relaxed) {
            return reply.error(fuser::Errno::ENOSYS);
        }
        match self.ask(request, on("opendir", inode), |fs, _| fs.open_directory(node(inode))) {
            Ok(()) => {
                let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(NO_HANDLE, if self.fs.keeps_listings() { cached } else { FopenFlags::empty() });
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, request: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.ask(request, on("readdir", inode), |fs, _| {
            fs.list(node(inode), offset, |entry| {
                !reply.add(INodeNo(entry.inode), entry.cookie, convert::file_type(entry.kind), &entry.name)
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
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
        let inode = if inode.0 == 0 { INodeNo(ROOT_ID.as_u64()) } else { inode };
        match self.ask(request, on("statfs", inode), |fs, _| fs.statistics(node(inode))) {
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
        let answer = self.ask(request, on("setxattr", inode), |fs, _| fs.set_xattr(node(inode), name, value, flags));
        reply_empty(reply, answer);
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.ask(request, on("getxattr", inode), |fs, _| fs.xattr(node(inode), name)));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.ask(request, on("listxattr", inode), |fs, caller| fs.xattrs(caller, node(inode)));
        reply_xattr(reply, size, names);
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.ask(request, on("removexattr", inode), |fs, _| fs.remove_xattr(node(inode), name)));
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
        let waits = flags.contains(fuser::PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        let waker = waits.then(|| Box::new(Waiter(notifier)) as Box<dyn Wake>);
        let unasked = fuser::PollEvents::POLLERR | fuser::PollEvents::POLLHUP;
        match self.ask(request, on("poll", inode), |fs, _| fs.poll(node(inode), HandleId(handle.0), waker)) {
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

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        // SEEK_DATA and SEEK_HOLE; the others the kernel does itself. A file of size 0 has neither data nor hole (generic_file_llseek).
        reply.error(fuser::Errno::ENXIO);
    }
}
