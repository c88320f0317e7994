//! The server uses its own mount to make events for programs that watch the view ([`crate::fs::inotify::replay`]).
//!
//! One thread does it, with its own descriptor table and working directory. It alone holds the mount: a detached
//! mount of the same filesystem, in which nothing can be mounted, and which keeps nobody from unmounting the view.
//! The thread doesn't hold `/dev/fuse`. If the server is killed while a request of this thread is being served, the
//! kernel closes the connection and the request ends. With a shared table the thread would hold the connection
//! itself, and wait forever for an answer.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, renameat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::{Mode, UtimensatFlags, fstat, fstatat, mkdirat, stat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, chdir, fchdir, gettid, unlinkat};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::fs::SysResult;
use crate::fs::inotify::{self, InjectedOp, Injection};
use crate::records::descriptor;
use crate::sys;

/// A mount of the view for the server's own use. It keeps the filesystem alive, so something has to end it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SelfMount {
    #[serde(with = "descriptor")]
    root: OwnedFd,
    until: ServeUntil,
    #[serde(skip)]
    at_end: Option<AtEnd>,
}

/// What is done once the thread no longer holds the mount.
struct AtEnd(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for AtEnd {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("AtEnd")
    }
}

/// How long the mount is kept.
#[derive(Debug, Serialize, Deserialize)]
enum ServeUntil {
    /// Until the view is no longer mounted in the mount namespace of this mountinfo.
    Unmounted(#[serde(with = "descriptor")] OwnedFd),
    /// Until the other end of this socket is closed.
    Closed(#[serde(with = "descriptor")] OwnedFd),
}

impl SelfMount {
    /// Copies the mount of the view on `directory`. The copy is kept for as long as the view is mounted in the server's mount namespace.
    ///
    /// # Errors
    /// Those of open(2), open_tree(2) and mount(2).
    pub fn until_unmounted(directory: &Path) -> io::Result<Self> {
        let until = ServeUntil::Unmounted(File::open("/proc/self/mountinfo")?.into());
        Ok(Self { root: detached_mount(directory)?, until, at_end: None })
    }

    /// Takes a mount that [`detached_mount`] has made, and keeps it until `lifeline`'s other end is closed.
    pub fn until_closed(root: OwnedFd, lifeline: OwnedFd) -> Self {
        Self { root, until: ServeUntil::Closed(lifeline), at_end: None }
    }

    /// Calls this once, in the process' own descriptor table, when the mount is no longer needed and the thread has let go
    /// of it.
    pub fn when_it_ends(&mut self, at_end: impl Fn() + Send + Sync + 'static) {
        self.at_end = Some(AtEnd(Arc::new(at_end)));
    }

    /// The numbers of its descriptors.
    pub fn descriptors(&self) -> [RawFd; 2] {
        let until = match &self.until {
            ServeUntil::Unmounted(mountinfo) => mountinfo.as_raw_fd(),
            ServeUntil::Closed(lifeline) => lifeline.as_raw_fd(),
        };
        [self.root.as_raw_fd(), until]
    }

    /// Starts the thread that uses the mount, and leaves the thread's id in `thread`.
    pub(in crate::fuse) fn start(mut self, thread: Arc<AtomicI32>) -> io::Result<SelfMountThread> {
        let follows = self.at_end.take().map(follow).transpose()?;
        let (own, handle) = self.start_thread(thread)?;
        if let Some(follows) = follows {
            let _ = follows.send(handle);
        }
        Ok(own)
    }

    fn start_thread(self, thread: Arc<AtomicI32>) -> io::Result<(SelfMountThread, JoinHandle<()>)> {
        let wakeup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new((self, wakeup));
        let (injections, wanted) = channel();
        let (done, answers) = channel();
        let (ready, started) = channel();
        let theirs = Arc::clone(&shared);
        let handle = thread::Builder::new().name("own mount".to_owned()).stack_size(256 * 1024).spawn(move || {
            let (own, wakeup) = &*theirs;
            let (until, is_lifeline) = match &own.until {
                ServeUntil::Unmounted(mountinfo) => (mountinfo.as_fd(), false),
                ServeUntil::Closed(lifeline) => (lifeline.as_fd(), true),
            };
            // A working directory of its own.
            let apart = unshare(CloneFlags::CLONE_FS).map_err(io::Error::from);
            let taken = apart.and_then(|()| sys::descriptors::take_files([own.root.as_fd(), until, wakeup.as_fd()]));
            drop(theirs);
            let files = match taken {
                Ok(files) => files,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _recognized = RecognizedThread::new(thread);
            if ready.send(Ok(())).is_err() {
                return;
            }
            drop(ready);
            let [root, until, wakeup] = files;
            serve(&root, &until, is_lifeline, &wakeup, &wanted, &done);
        })?;
        let started = started.recv().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)));
        let wakeup = shared.1.as_fd().try_clone_to_owned()?;
        // Drop this process' own descriptors of the mount; the thread has its own.
        drop(shared);
        started.map(|()| (SelfMountThread { wakeup, injections, answers: Mutex::new(answers) }, handle))
    }
}

/// Starts a thread that waits for the end of the one that it's sent, and then does what is to be done. That one can't: it
/// has another descriptor table. If there's none, it's done at once.
fn follow(AtEnd(at_end): AtEnd) -> io::Result<Sender<JoinHandle<()>>> {
    let (sender, followed) = channel::<JoinHandle<()>>();
    let theirs = Arc::clone(&at_end);
    let started = thread::Builder::new().name("mount's end".to_owned()).stack_size(64 * 1024).spawn(move || {
        let _ = followed.recv().map(JoinHandle::join);
        theirs();
    });
    match started {
        Ok(_) => Ok(sender),
        Err(error) => {
            at_end();
            Err(error)
        }
    }
}

/// Copies the mount on `directory`, and returns the copy's root. The copy is detached, and the server needn't answer
/// a request for this.
///
/// # Errors
/// Those of open(2), open_tree(2) and mount(2).
pub fn detached_mount(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let find = || open(directory, flags, Mode::empty());
    match detached_copy(find()?.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            // Before Linux 5.2: make a bind mount on top and detach it at once. It stays open by its descriptor.
            mount(Some(directory), directory, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            let opened = private(directory).and_then(|()| find());
            umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
            Ok(opened?)
        }
        done => done,
    }
}

/// Copies a mount, given its root, as [`detached_mount`] does. Linux 5.2.
///
/// # Errors
/// Those of open_tree(2).
pub fn detached_copy(view: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let root = sys::mount::copy(view)?;
    // Otherwise mounts in the view could propagate to the copy. The device number would reveal them, but the copy
    // would hold them.
    let _ = private(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())));
    Ok(root)
}

fn private(at: &Path) -> nix::Result<()> {
    mount(None::<&str>, at, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
}

/// A handle of the thread that uses the own mount.
#[derive(Debug)]
pub(in crate::fuse) struct SelfMountThread {
    wakeup: OwnedFd,
    injections: Sender<Injection>,
    answers: Mutex<Receiver<SysResult<()>>>,
}

impl inotify::Injector for SelfMountThread {
    fn inject(&self, injection: &Injection) -> SysResult<()> {
        let answers = self.answers.lock();
        self.injections.send(injection.clone()).map_err(|_| Errno::ENXIO)?;
        nix::unistd::write(&self.wakeup, &1u64.to_ne_bytes())?;
        answers.recv().unwrap_or(Err(Errno::ENXIO))
    }
}

/// While this lives, the server recognizes the thread's requests by its id. Afterwards the id may belong to another
/// thread.
struct RecognizedThread(Arc<AtomicI32>);

impl RecognizedThread {
    fn new(thread: Arc<AtomicI32>) -> Self {
        thread.store(gettid().as_raw(), Ordering::Release);
        Self(thread)
    }
}

impl Drop for RecognizedThread {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Performs operations until the mount is no longer needed. Returning closes the thread's descriptor table, and with
/// it the mount.
fn serve(
    root: &OwnedFd,
    until: &OwnedFd,
    is_lifeline: bool,
    wakeup: &OwnedFd,
    wanted: &Receiver<Injection>,
    done: &Sender<SysResult<()>>,
) {
    let Ok(device) = fstat(root).map(|stat| stat.st_dev) else { return };
    let ends = || is_lifeline || !is_mounted(until, device);
    // The view may have been unmounted before the first poll.
    if !is_lifeline && ends() {
        return;
    }
    let wakes = if is_lifeline { PollFlags::POLLIN } else { PollFlags::POLLPRI };
    loop {
        let mut ready = [PollFd::new(wakeup.as_fd(), PollFlags::POLLIN), PollFd::new(until.as_fd(), wakes)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        let [rung, changed] = ready.map(|file| file.any().unwrap_or(false));
        if changed && ends() {
            return;
        }
        if rung {
            let _ = nix::unistd::read(wakeup, &mut [0; 8]);
            while let Ok(injection) = wanted.try_recv() {
                if done.send(perform(root, device, &injection)).is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether a filesystem is mounted in the mount namespace of this mountinfo.
fn is_mounted(mountinfo: &OwnedFd, device: libc::dev_t) -> bool {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let (mut text, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        match sys::offset::read_at(mountinfo, &mut piece, text.len() as u64) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.any(|line| line.split(|byte| *byte == b' ').nth(2) == Some(number.as_bytes()))
}

/// Performs an operation. It walks by names from the root, so that watches of the directory get their event too, and
/// never onto another filesystem. It opens no directory on the way: before Linux 6.10 that would be reported to the
/// directory's watchers, even with O_PATH.
fn perform(root: &OwnedFd, device: libc::dev_t, injection: &Injection) -> SysResult<()> {
    fchdir(root)?;
    let done = injection.directory.iter().try_for_each(|name| {
        chdir(name.as_os_str())?;
        if stat(".")?.st_dev == device { Ok(()) } else { Err(Errno::EXDEV) }
    });
    let done = done.and_then(|()| perform_here(injection));
    // Leave the directory: a working directory keeps its filesystem busy.
    fchdir(root)?;
    done
}

fn perform_here(injection: &Injection) -> SysResult<()> {
    let at = AT_FDCWD;
    let name = injection.name.as_os_str();
    match &injection.operation {
        InjectedOp::Look => fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(drop),
        // Setting the access time as well would make it IN_ATTRIB (fsnotify_change).
        InjectedOp::Touch => {
            utimensat(at, name, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW, UtimensatFlags::NoFollowSymlink)
        }
        InjectedOp::Make => mkdirat(at, name, Mode::from_bits_truncate(0o755)),
        InjectedOp::Remove => unlinkat(at, name, UnlinkatFlags::RemoveDir),
        InjectedOp::Rename(to) => renameat(at, name, at, to.as_os_str()),
    }
}
