//! The operations and their outcomes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One operation. Paths, data and process numbers may hold `$NAME`s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are the arguments of the system call of the same name")]
pub enum Op {
    /// Defines `$name`.
    Set {
        name: String,
        value: String,
    },
    /// lstat(2): type, mode, uid, gid, size, nlink, ino.
    Stat {
        path: String,
    },
    /// fstat(2) of a kept handle.
    Fstat {
        fd: String,
    },
    /// statfs(2).
    Statfs {
        path: String,
    },
    /// faccessat(2) with AT_EACCESS; `mode` is made of the letters `r`, `w`, `x`, or is empty.
    Access {
        path: String,
        mode: String,
    },
    /// Names and types, sorted by name.
    Readdir {
        path: String,
    },
    /// open(2), kept as `fd`. `flags` are names like `O_RDWR`.
    Open {
        path: String,
        flags: Vec<String>,
        fd: String,
    },
    /// read(2), once.
    Read {
        fd: String,
        len: usize,
    },
    /// pread(2), once.
    Pread {
        fd: String,
        len: usize,
        off: u64,
    },
    /// read(2) with buffers of `len` bytes up to the end; value: the whole text.
    ReadAll {
        fd: String,
        len: usize,
    },
    /// write(2), once.
    Write {
        fd: String,
        data: String,
    },
    /// pwrite(2), once.
    Pwrite {
        fd: String,
        data: String,
        off: u64,
    },
    /// open for reading, read to the end, close. The stage of a failure is `open` or `read`.
    ReadFile {
        path: String,
    },
    /// open with O_WRONLY and `flags`, one write(2), close. The stage of a failure is `open` or `write`.
    WriteFile {
        path: String,
        data: String,
        flags: Vec<String>,
    },
    /// lseek(2); `whence` is `set`, `cur` or `end`.
    Lseek {
        fd: String,
        off: i64,
        whence: String,
    },
    Ftruncate {
        fd: String,
        len: u64,
    },
    /// truncate(2).
    Truncate {
        path: String,
        len: u64,
    },
    Close {
        fd: String,
    },
    /// dup(2), kept as `to`.
    Dup {
        fd: String,
        to: String,
    },
    Fsync {
        fd: String,
    },
    Fallocate {
        fd: String,
        len: u64,
    },
    /// poll(2) for everything, without waiting; value: the names of the events that are set.
    Poll {
        fd: String,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Rmdir {
        path: String,
    },
    Unlink {
        path: String,
    },
    /// renameat2(2); flags `noreplace`, `exchange`, `whiteout`.
    Rename {
        from: String,
        to: String,
        flags: Vec<String>,
    },
    Link {
        from: String,
        to: String,
    },
    Symlink {
        target: String,
        path: String,
    },
    /// mknod(2) of a `fifo` or a `file`.
    Mknod {
        path: String,
        kind: String,
    },
    /// open(2) with O_CREAT|O_EXCL|O_WRONLY.
    Creat {
        path: String,
        mode: u32,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    /// lchown(2).
    Chown {
        path: String,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// utimensat(2) with both times at `sec`, or now.
    Utimens {
        path: String,
        sec: Option<i64>,
    },
    Getxattr {
        path: String,
        name: String,
    },
    Setxattr {
        path: String,
        name: String,
        value: String,
    },
    Listxattr {
        path: String,
    },
    Removexattr {
        path: String,
        name: String,
    },
    /// umask(2) of the probe.
    Umask {
        mask: u32,
    },
    /// seteuid(2), for all threads of the probe.
    Seteuid {
        uid: u32,
    },
    /// capset(2): the calling thread alone keeps no capability.
    DropCapabilities,
    /// setegid(2), for all threads of the probe.
    Setegid {
        gid: u32,
    },
    /// Sets up an io_uring, and has the kernel make a worker for it.
    StartRing,
    /// open for writing by that worker.
    OpenByRing {
        path: String,
        fd: String,
    },
    /// Starts a process that sleeps; `$name` becomes its number. With `uid`, it runs as that user and group.
    Spawn {
        name: String,
        uid: Option<u32>,
    },
    /// Starts `count` processes that sleep, without names.
    SpawnMany {
        count: usize,
    },
    /// Starts a thread that waits for `on`; `$name` becomes its number.
    Thread {
        name: String,
    },
    /// Starts `count` threads that sleep, without names.
    ThreadMany {
        count: usize,
    },
    /// Has a thread of `thread` perform an operation.
    On {
        thread: String,
        #[serde(rename = "do")]
        then: Box<Op>,
    },
    /// Sends SIGKILL to a process that was spawned, and waits for its end.
    Kill {
        name: String,
    },
    /// Waits for the end of a process that was spawned (the kernel has killed it).
    Wait {
        name: String,
    },
    /// /proc/PID/cgroup, or /proc/PID/task/TID/cgroup when `who` is a thread of the probe.
    Membership {
        who: String,
    },
    /// /proc/thread-self/cgroup.
    ThreadMembership,
    /// Reads a file repeatedly until it contains `text`; value: whether that happened in time.
    Await {
        path: String,
        text: String,
    },
    /// poll(2) without waiting, repeatedly, until `event` is set; value: whether that happened in time.
    AwaitPoll {
        fd: String,
        event: String,
    },
    /// Whether two paths have the same st_ino.
    SameInode {
        a: String,
        b: String,
    },
    /// Whether pread(2) of `len` bytes at `off` returns the same as that part of a newly opened `path`.
    SliceMatches {
        fd: String,
        path: String,
        len: usize,
        off: u64,
    },
    /// splice(2) of the file into a pipe, once; value: the text.
    Splice {
        fd: String,
    },
    /// Compares the numbers with which two open files begin: `less`, `equal` or `greater`.
    CompareNumbers {
        a: String,
        b: String,
    },
    /// eventfd(2), kept as `fd`; it never waits.
    Eventfd {
        fd: String,
    },
    /// epoll_create(2), kept as `fd`.
    Epoll {
        fd: String,
    },
    /// epoll_ctl(2): waits for everything that poll tells, at each change (`edge`) or as long as it holds.
    EpollAdd {
        epoll: String,
        fd: String,
        edge: bool,
    },
    /// epoll_ctl(2): waits for PRI alone, as long as it holds.
    EpollAddPri {
        epoll: String,
        fd: String,
    },
    /// epoll_wait(2) for one file, at most `ms` long; value: the names of its events.
    EpollWait {
        epoll: String,
        ms: u32,
    },
    /// poll(2) for PRI alone, at most `ms` long; value: the names of the events.
    PollPri {
        fd: String,
        ms: u32,
    },
    /// Has a thread poll(2) for PRI alone, at most `ms` long, performs `then` once that thread sleeps, and waits for it; value: the names of
    /// the events, and the outcome.
    PollDuring {
        fd: String,
        ms: u32,
        then: Box<Op>,
    },
    /// inotify_init(2), kept as `fd`; it never waits.
    Inotify {
        fd: String,
    },
    /// inotify_add_watch(2) for `events` such as `CREATE`; value: the watch's number.
    InotifyAdd {
        inotify: String,
        path: String,
        events: Vec<String>,
    },
    /// Reads events until there are `count`, at most `ms` long; value: for each the watch's number, what happened, and the name.
    InotifyRead {
        inotify: String,
        count: usize,
        ms: u32,
    },
    /// Starts a process that keeps the first CPU busy.
    Busy {
        name: String,
    },
    /// A socket at `path` that descriptors can be posted to, kept as `fd`.
    Mailbox {
        path: String,
        fd: String,
    },
    /// Posts a kept handle to any process' mailbox at `path`.
    Post {
        fd: String,
        path: String,
    },
    /// Takes a descriptor that was posted to a mailbox, kept as `fd`.
    Fetch {
        mailbox: String,
        fd: String,
    },
    /// In a new thread that has its own descriptors (unshare(2) of CLONE_FILES), makes an eventfd whose number there, `$OWN`, means nothing in
    /// the other threads, and writes `data` to `to`.
    WriteWithOwnDescriptors {
        to: String,
        data: String,
    },
    /// ioctl(2) TIOCGWINSZ, which no regular file knows.
    Ioctl {
        fd: String,
    },
    /// Whether a listing of a directory has a name.
    Sees {
        dir: String,
        name: String,
    },
    /// writev(2), once.
    Writev {
        fd: String,
        data: Vec<String>,
    },
    /// mmap(2) of a page for reading, which isn't touched.
    Mmap {
        fd: String,
        shared: bool,
    },
    /// flock(2) without waiting; `kind` is `shared`, `exclusive` or `unlock`.
    Flock {
        fd: String,
        kind: String,
    },
    Fchmod {
        fd: String,
        mode: u32,
    },
    /// getdents64(2) with buffers of `buffer` bytes, where after `seek` entries the directory is read on from there once more. Value: the
    /// names, and whether the second reading gave what came behind that place.
    Getdents {
        path: String,
        buffer: usize,
        seek: usize,
    },
    /// st_atime and st_mtime in seconds; `recent`, unless they were set to something long ago.
    Times {
        path: String,
    },
    /// Everything below a directory: by relative path the line of `stat`, and of a file the content or the error of reading it.
    Tree {
        path: String,
    },
    /// The names in an open directory, from its beginning.
    List {
        fd: String,
    },
    /// Waits until two directories have the same tree of names; value: whether that happened in time.
    Settle {
        path: String,
        real: String,
    },
    /// Waits for the end of each process that was spawned and to which the kernel has sent SIGKILL.
    Reap,
    /// Drops handles, processes, threads and credentials, and defines these variables.
    Reset {
        set: Vec<(String, String)>,
    },
}

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The operation succeeded with this value (`null` if it has none).
    Ok(Value),
    /// The operation failed.
    Err {
        /// The name of the error, for example `EACCES`.
        errno: String,
        /// The system call that failed, for operations that make several.
        stage: String,
    },
    /// The script is wrong: an unknown name, flag or handle. Never an answer of the filesystem.
    Bad(String),
}

impl Outcome {
    /// The name of the error, if the operation failed.
    pub fn errno(&self) -> Option<&str> {
        match self {
            Self::Err { errno, .. } => Some(errno),
            Self::Ok(_) | Self::Bad(_) => None,
        }
    }

    /// Whether the operation succeeded.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok(_))
    }

    /// The value, if it is text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Ok(value) => value.as_str(),
            _ => None,
        }
    }

    /// `ok`, or the error's name with the stage. Tables compare this.
    pub fn brief(&self) -> String {
        match self {
            Self::Ok(_) => "ok".into(),
            Self::Err { errno, .. } => errno.clone(),
            Self::Bad(what) => format!("bad script: {what}"),
        }
    }
}
