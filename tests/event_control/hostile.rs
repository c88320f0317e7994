//! Writers that do their worst: descriptors of other things, put in place of others in the last moment, and writers that end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, ReplyAttr, ReplyEmpty,
    ReplyEntry, ReplyStatfs, Request, SessionACL,
};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::dup2;
use testkit::probe::names::*;
use testkit::{Need, Programs, Session, TIMEOUT, require};

use crate::scene::{Files, MEMORY, Scene, event, number, wait_until};

/// A FUSE that answers its own process, and nobody else, until it's let go.
#[derive(Clone, Default)]
struct Silent {
    kept: Arc<Mutex<Vec<(u32, Kept)>>>,
}

#[allow(dead_code, reason = "they are held, so that nobody is answered")]
enum Kept {
    Empty(ReplyEmpty),
    Attributes(ReplyAttr),
    Statistics(ReplyStatfs),
}

const FILE: u64 = 2;

impl Silent {
    /// Whether the test itself asks, or a child of another test that closes what it has inherited before it executes its program.
    fn is_own(request: &Request) -> bool {
        let own = std::process::id().to_string();
        let field = |name: &str| testkit::status_field(request.pid(), name);
        let is_server = field("Name").is_some_and(|name| name.starts_with("vcgroupfs"));
        field("Tgid").as_ref() == Some(&own) || (field("PPid").as_ref() == Some(&own) && !is_server)
    }

    fn keep(&self, request: &Request, reply: Kept) {
        self.kept.lock().expect("the kept").push((request.pid(), reply));
    }

    fn asked_by_others(&self) -> usize {
        self.kept.lock().expect("the kept").len()
    }

    fn let_go(&self) {
        self.kept.lock().expect("the kept").clear();
    }
}

fn attributes(inode: u64) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    let (kind, perm) = if inode == FILE { (FileType::RegularFile, 0o666) } else { (FileType::Directory, 0o777) };
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Silent {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == "f" {
            true => reply.entry(&Duration::ZERO, &attributes(FILE), Generation(0)),
            false => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match Self::is_own(request) {
            true => reply.attr(&Duration::ZERO, &attributes(inode.0)),
            false => self.keep(request, Kept::Attributes(reply)),
        }
    }

    fn flush(&self, request: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        match Self::is_own(request) {
            true => reply.ok(),
            false => self.keep(request, Kept::Empty(reply)),
        }
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        match Self::is_own(request) {
            true => reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096),
            false => self.keep(request, Kept::Statistics(reply)),
        }
    }
}

/// A mount of it. Dropping it ends it for everybody, whoever has something open there.
struct SilentMount {
    fuse: Silent,
    folder: tempfile::TempDir,
    session: Option<fuser::BackgroundSession>,
}

impl SilentMount {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("vcgroupfs-silent-").tempdir().expect("a mount point");
        let fuse = Silent::default();
        let mut config = Config::default();
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(fuse.clone(), folder.path(), &config).expect("a FUSE");
        Self { fuse, folder, session: Some(session) }
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(self.folder.path().join("f")).expect("its file")
    }
}

impl Drop for SilentMount {
    fn drop(&mut self) {
        // MNT_FORCE ends the connection (fuse_umount_begin): nobody waits for an answer any more.
        let ended = umount2(self.folder.path(), MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        self.fuse.let_go();
        if let Some(session) = self.session.take().filter(|_| ended.is_ok()) {
            let _ = session.join();
        }
    }
}

#[test]
fn numbers_never_mean_the_servers_descriptors() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    let scene = Scene::view();
    // A process that has few descriptors.
    let mut writer = Session::start(&mut Command::new(&Programs::find().probe));
    writer.set("CG", scene.child("a").display());
    writer.expect(&eventfd("e"));
    writer.expect(&open("ec", "$CG/cgroup.event_control", &["O_WRONLY"]));
    writer.expect(&open("oom", "$CG/memory.oom_control", &["O_RDONLY"]));
    writer.expect(&write("ec", "$FDE $FDOOM"));
    let own =
        |number: &i32| fs::exists(format!("/proc/{}/fd/{number}", writer.pid())).expect("the writer's descriptors");
    let theirs: Vec<_> = scene.server_descriptors().into_iter().filter(|number| !own(number)).collect();
    assert!(!theirs.is_empty(), "the server has no descriptor that the writer doesn't have");
    for number in theirs {
        for text in [format!("{number} $FDOOM"), format!("$FDE {number}"), format!("{number} {number}")] {
            assert_eq!(writer.run(&write("ec", &text)).errno(), Some("EBADF"), "{text}");
        }
    }
}

/// They aren't touched: neither fetched, which would mean to close them, nor asked.
#[test]
fn files_of_a_silent_fuse_block_nobody_else() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    let scene = Scene::view();
    let files = Files::open(&scene.child("a"));
    let (event, silent) = (event(), SilentMount::new());
    let (file, path) = (silent.file(), File::open(silent.folder.path()).expect("its root"));
    for bad in [&file, &path] {
        assert_eq!(files.write(&format!("{} {}", number(bad), number(&files.oom))), Err(Errno::EINVAL));
        assert_eq!(files.write(&format!("{} {}", number(&event), number(bad))), Err(Errno::EINVAL));
        assert_eq!(files.write(&format!("{} {}", number(bad), number(bad))), Err(Errno::EINVAL));
    }
    wait_until("the helpers' end", || scene.helpers() == 0);
    assert_eq!(silent.fuse.asked_by_others(), 0);
    files.at_oom(&event).expect("the control");
}

/// Another thread puts a file that nobody can close in the eventfd's place while it's being fetched.
#[test]
fn descriptors_that_are_replaced_meanwhile_do_no_harm() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    let scene = Scene::view();
    let dir = scene.child("a");
    let files = Files::open(&dir);
    let (event, silent) = (event(), SilentMount::new());
    let file = silent.file();
    let (socket, _other) = UnixDatagram::pair().expect("sockets");
    let mut target = event.as_fd().try_clone_to_owned().expect("another number of the eventfd");
    let changing = target.as_raw_fd();
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let mut outcomes = std::collections::BTreeMap::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                for source in [event.as_fd(), file.as_fd(), event.as_fd(), socket.as_fd()] {
                    dup2(source, &mut target).expect("dup2");
                }
            }
        });
        // On a busy machine it takes longer until one finds the eventfd each time that it's looked at.
        let is_over = |registered: usize| match registered {
            0 => start.elapsed() > TIMEOUT,
            _ => start.elapsed() > Duration::from_secs(4) || registered == FEWER_THAN_A_VIEW_TAKES,
        };
        while !is_over(outcomes.get("registered").copied().unwrap_or_default()) {
            let text = format!("{changing} {}", number(&files.oom));
            let outcome = files.write(&text).map_or_else(|errno| format!("{errno:?}"), |()| "registered".to_owned());
            *outcomes.entry(outcome).or_insert(0usize) += 1;
            // The view goes on.
            assert!(fs::read_to_string(dir.join("memory.limit_in_bytes")).is_ok());
        }
        stop.store(true, Ordering::Release);
    });
    eprintln!("{outcomes:?}; {} waited for the silent one", silent.fuse.asked_by_others());
    let legal = ["registered", "EINVAL", "EACCES", "EBADF", "EIO", "EAGAIN"];
    assert!(outcomes.keys().all(|outcome| legal.contains(&outcome.as_str())), "{outcomes:?}");
    assert!(outcomes.contains_key("registered"), "{outcomes:?}");
    assert!(scene.helpers() <= 4 + 1, "helpers that wait are few");
    drop(silent);
    wait_until("the helpers' end", || scene.helpers() == 0);
    wait_until("the next registration", || files.at_oom(&event).is_ok());
}

/// After this many registrations a view has still room: 1024 is what it takes.
const FEWER_THAN_A_VIEW_TAKES: usize = 1000;

/// A writer that is killed while it registers, its eventfd with it.
#[test]
fn writers_that_are_killed_leave_nothing_behind() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(MEMORY), Need::FetchedDescriptors);
    let scene = Scene::view();
    let dir = scene.child("a");
    Files::open(&dir).at_oom(&event()).expect("the control");
    let before = scene.server_files();
    let mut ops = vec![
        eventfd("e"),
        open("ec", &format!("{}/cgroup.event_control", dir.display()), &["O_WRONLY"]),
        open("oom", &format!("{}/memory.oom_control", dir.display()), &["O_RDONLY"]),
    ];
    ops.extend((0..500).map(|_| write("ec", "$FDE $FDOOM")));
    let script: Vec<_> =
        ops.iter().map(|op| serde_json::to_string(op).expect("an operation has a JSON form")).collect();
    for round in 0..10 {
        let mut command = Command::new(&Programs::find().probe);
        let mut writer = command.args(&script).stdout(Stdio::piped()).spawn().expect("a writer");
        // The three, and some registrations.
        let lines = BufReader::new(writer.stdout.take().expect("its output is a pipe")).lines();
        let told: Vec<_> = lines.take(4 + round).map_while(Result::ok).collect();
        assert!(told.len() == 4 + round && told.iter().all(|line| line.starts_with("{\"ok\"")), "{told:?}");
        // The time is what the test varies: the writer is killed at another moment of a registration each time.
        thread::sleep(Duration::from_micros(250 * round as u64));
        writer.kill().and_then(|()| writer.wait()).expect("its end");
    }
    wait_until("the helpers' end", || scene.helpers() == 0);
    wait_until("the descriptors' end", || scene.server_files() <= before);
    fs::remove_dir(&dir).expect("rmdir of what nobody uses");
}
