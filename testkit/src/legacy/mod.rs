//! Linux 3.10's cgroup v1, for a program that runs on a later kernel: a supervisor answers some of the program's system calls.
//!
//! * A list of processes (`cgroup.procs`, `tasks`, `cgroup.threads`) is made when it's *opened* for reading, in the opener's pid namespace
//!   (`cgroup_pidlist_open`), and stays as it is. Later kernels make it when it's read, in the reader's.
//! * pwrite(2) is ESPIPE where the kernel has made a seq_file (`seq_open` takes FMODE_PWRITE away): lists that are open for reading, and
//!   `SEQ_FILES` in any case. The supervisor answers the same to pread(2) of the latter, which those kernels let pass: so that whoever gets
//!   on here needs it nowhere.
//! * A writer that migrates another thread than itself in `devices` needs CAP_SYS_ADMIN at that moment (`devcgroup_can_attach`).
//!
//! What it doesn't have: all who have a list open in one pid namespace see it made anew when one of them opens it once more; and who is there
//! already is asked for CAP_SYS_ADMIN as well.

mod listener;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, Whence, lseek, setfsgid, setfsuid};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

pub use listener::Listener;
use listener::{Answer, Notice};

/// The lists of processes.
const LISTS: [&str; 3] = ["cgroup.procs", "tasks", "cgroup.threads"];

/// Further files that can be written and are seq_files there.
const SEQ_FILES: [&str; 9] = [
    "freezer.state",
    "memory.oom_control",
    "blkio.weight",
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
    "net_prio.ifpriomap",
    "pids.max",
];

/// How many lists the supervisor keeps. It isn't told when one is closed.
const LISTS_MAX: usize = 512;

/// The most bytes of a read about which the supervisor is asked. No caller reads more of a list at once; FUSE servers do, from `/dev/fuse`.
const READ_BYTES_MAX: u32 = 256 * 1024;

/// The most bytes of a write about which the supervisor is asked.
const WRITE_BYTES_MAX: u32 = 64;

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether this kernel itself is that old.
pub fn is_so_anyway() -> bool {
    release() < (3, 13)
}

/// Whether a supervisor can answer on this kernel, and give descriptors (Linux 5.9).
pub fn can_be_had() -> bool {
    cfg!(target_arch = "x86_64") && release() >= (5, 9)
}

fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|one: char| !one.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Has system calls of the calling thread, and of all that it starts, answered by the process that holds the returned listener.
///
/// # Errors
/// Where seccomp(2) has no listeners (before Linux 5.0); see [`can_be_had`].
pub fn submit() -> std::io::Result<OwnedFd> {
    listener::install(&mut filter())
}

/// The system calls about which the supervisor is asked.
fn filter() -> Vec<libc::sock_filter> {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const X86_64: u32 = 0xc000_003e;
    let argument = |number: u32| 16 + 8 * number;
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let compare = |how: u32, value, jt, jf| op(libc::BPF_JMP | how | libc::BPF_K, value, jt, jf);
    let give = |verdict| op(libc::BPF_RET | libc::BPF_K, verdict, 0, 0);
    let (allow, ask) = (give(libc::SECCOMP_RET_ALLOW), give(libc::SECCOMP_RET_USER_NOTIF));

    let mut program = vec![load(ARCHITECTURE), compare(libc::BPF_JEQ, X86_64, 1, 0), allow, load(NUMBER)];
    // What is only found or only written needs no answer.
    let silent = (libc::O_PATH | libc::O_DIRECTORY | libc::O_WRONLY).cast_unsigned();
    for (call, flags) in [(libc::SYS_open, 1), (libc::SYS_openat, 2)] {
        let test = compare(libc::BPF_JSET, silent, 0, 1);
        program.extend([compare(libc::BPF_JEQ, call as u32, 0, 4), load(argument(flags)), test, allow, ask]);
    }
    for (call, most) in [(libc::SYS_read, READ_BYTES_MAX), (libc::SYS_write, WRITE_BYTES_MAX)] {
        let test = compare(libc::BPF_JGT, most, 0, 1);
        program.extend([compare(libc::BPF_JEQ, call as u32, 0, 4), load(argument(2)), test, allow, ask]);
    }
    for call in [libc::SYS_pread64, libc::SYS_pwrite64] {
        program.extend([compare(libc::BPF_JEQ, call as u32, 0, 1), ask]);
    }
    program.push(allow);
    program
}

/// Answers until no process is left that asks.
///
/// # Errors
/// Those of the listener, and of reading the own mounts.
pub fn supervise(listener: &Listener) -> std::io::Result<()> {
    let mut supervisor = Supervisor { hierarchies: hierarchies()?, lists: Vec::new() };
    while let Some(notice) = listener.receive()? {
        let answer = supervisor.answer(&notice).unwrap_or(Answer::GoOn);
        listener.answer(&notice, answer);
    }
    Ok(())
}

/// A mounted hierarchy of cgroup v1.
#[derive(Debug)]
struct Mounted {
    device: (u32, u32),
    has_devices: bool,
}

fn hierarchies() -> std::io::Result<Vec<Mounted>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mounted = text.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let (major, minor) = mount.get(2)?.split_once(':')?;
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
        (kind == "cgroup").then_some(())?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let has_devices = options.split(',').any(|option| option == "devices");
        Some(Mounted { device, has_devices })
    });
    Ok(mounted.collect())
}

/// Whether an absolute path of a thread leads to a hierarchy, according to the thread's mounts.
fn leads_to_a_hierarchy(thread: u32, path: &Path) -> bool {
    let text = fs::read_to_string(format!("/proc/{thread}/mountinfo")).unwrap_or_default();
    let covering = text.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        path.starts_with(point).then_some((point.len(), filesystem))
    });
    // The last of those that are mounted on the same directory.
    let nearest = covering.max_by_key(|(length, _)| *length);
    nearest.is_some_and(|(_, filesystem)| filesystem.starts_with("cgroup "))
}

/// A list that is or was open.
#[derive(Debug)]
struct List {
    file: Arc<OwnedFd>,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Supervisor {
    hierarchies: Vec<Mounted>,
    lists: Vec<List>,
}

impl Supervisor {
    /// `None` if the file isn't one about which the supervisor decides.
    fn answer(&mut self, notice: &Notice) -> Option<Answer> {
        let [first, second, third, ..] = notice.arguments;
        match i64::from(notice.call) {
            libc::SYS_open => self.open(notice.thread, libc::AT_FDCWD, second, first),
            libc::SYS_openat => self.open(notice.thread, first as i32, third, second),
            libc::SYS_read => self.read(notice, None),
            libc::SYS_pread64 => self.read(notice, Some(notice.arguments[3])),
            libc::SYS_write => self.write(notice),
            libc::SYS_pwrite64 => {
                let (name, _) = self.interface_file(notice.thread, first)?;
                let is_seq_file = SEQ_FILES.contains(&name.as_str()) || self.list(notice.thread, first).is_some();
                if is_seq_file { Some(Answer::Failed(Errno::ESPIPE)) } else { self.write(notice) }
            }
            _ => None,
        }
    }

    fn open(&mut self, thread: u32, at: i32, flags: u64, path: u64) -> Option<Answer> {
        let object = self.object(thread, at, &string(thread, path)?)?;
        self.mounted(&object)?;
        // Closed on exec here; there it's as whoever asks wants it.
        let flags = OFlag::from_bits_truncate(flags as i32);
        let kept = flags.intersection(OFlag::O_ACCMODE | OFlag::O_NONBLOCK | OFlag::O_TRUNC | OFlag::O_APPEND);
        let status = status(thread)?;
        let id = |key| field(&status, key)?.split_ascii_whitespace().nth(3)?.parse().ok();
        let (uid, gid) = (id("Uid:")?, id("Gid:")?);
        // What it is, is found with all rights, and only opened with theirs.
        let found = open(&object, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        // This thread alone: the capabilities over files go and come with the user.
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
        let opened = open(path.as_str(), kept | OFlag::O_CLOEXEC, Mode::empty());
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
        let file = match opened {
            Ok(file) => Arc::new(file),
            Err(errno) => return Some(Answer::Failed(errno)),
        };
        let text = list_for(thread, &object)?;
        let theirs = file.try_clone().ok()?;
        if self.lists.len() >= LISTS_MAX {
            self.lists.remove(0);
        }
        self.lists.push(List { file, text });
        Some(Answer::Opened(theirs, flags.contains(OFlag::O_CLOEXEC)))
    }

    /// Where the supervisor finds a list that a thread is about to open. It doesn't look on other filesystems than those of cgroups: that
    /// may be a view which waits for the supervisor.
    fn object(&self, thread: u32, at: i32, path: &str) -> Option<PathBuf> {
        let number = ["/proc/self/fd/", "/proc/thread-self/fd/"].iter().find_map(|start| path.strip_prefix(start));
        if let Some(number) = number {
            let link = PathBuf::from(format!("/proc/{thread}/fd/{}", number.parse::<u32>().ok()?));
            return LISTS.contains(&name_behind(&link)?.as_str()).then_some(link);
        }
        let path = Path::new(path);
        if !path.file_name()?.to_str().is_some_and(|name| LISTS.contains(&name)) {
            return None;
        }
        if path.is_absolute() {
            return leads_to_a_hierarchy(thread, path)
                .then(|| PathBuf::from(format!("/proc/{thread}/root{}", path.display())));
        }
        let base = match at {
            libc::AT_FDCWD => format!("/proc/{thread}/cwd"),
            number => format!("/proc/{thread}/fd/{number}"),
        };
        self.mounted(Path::new(&base))?;
        Some(Path::new(&base).join(path))
    }

    /// The hierarchy to which an object belongs.
    fn mounted(&self, object: &Path) -> Option<&Mounted> {
        // No FUSE is asked anything by that.
        let found = statx(CWD, object, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
        let device = (found.stx_dev_major, found.stx_dev_minor);
        self.hierarchies.iter().find(|mounted| mounted.device == device)
    }

    /// The name of a thread's open file, if it belongs to a hierarchy.
    fn interface_file(&self, thread: u32, number: u64) -> Option<(String, &Mounted)> {
        let link = PathBuf::from(format!("/proc/{thread}/fd/{number}"));
        let name = name_behind(&link)?;
        let is_known = LISTS.contains(&name.as_str()) || SEQ_FILES.contains(&name.as_str());
        is_known.then(|| self.mounted(&link)).flatten().map(|mounted| (name, mounted))
    }

    fn list(&self, thread: u32, number: u64) -> Option<&List> {
        self.lists.iter().rev().find(|list| listener::is_same_file(list.file.as_fd(), thread, number))
    }

    /// Reads a list as it was when it was opened.
    fn read(&self, notice: &Notice, offset: Option<u64>) -> Option<Answer> {
        let [number, buffer, count, ..] = notice.arguments;
        let (name, _) = self.interface_file(notice.thread, number)?;
        if SEQ_FILES.contains(&name.as_str()) {
            return offset.map(|_| Answer::Failed(Errno::ESPIPE));
        }
        let list = self.list(notice.thread, number)?;
        let start = match offset {
            Some(offset) => usize::try_from(offset).ok()?,
            None => usize::try_from(lseek(&*list.file, 0, Whence::SeekCur).ok()?).ok()?,
        };
        let rest = list.text.get(start..).unwrap_or_default();
        let part = rest.get(..usize::try_from(count).ok()?).unwrap_or(rest);
        memory(notice.thread, true)?.write_all_at(part, buffer).ok()?;
        if offset.is_none() {
            lseek(&*list.file, i64::try_from(part.len()).ok()?, Whence::SeekCur).ok()?;
        }
        Some(Answer::Done(i64::try_from(part.len()).ok()?))
    }

    /// `None` if the kernel shall execute the call.
    fn write(&self, notice: &Notice) -> Option<Answer> {
        let [number, buffer, count, ..] = notice.arguments;
        let (name, mounted) = self.interface_file(notice.thread, number)?;
        if !mounted.has_devices || !LISTS.contains(&name.as_str()) || count > u64::from(WRITE_BYTES_MAX) {
            return None;
        }
        let mut text = vec![0; usize::try_from(count).ok()?];
        memory(notice.thread, false)?.read_exact_at(&mut text, buffer).ok()?;
        let target: u32 = String::from_utf8(text).ok()?.trim().parse().ok()?;
        let status = status(notice.thread)?;
        let effective = u64::from_str_radix(field(&status, "CapEff:")?, 16).ok()?;
        if effective & CAP_SYS_ADMIN != 0 && is_shared(notice.thread, "user") {
            return None;
        }
        let own = |status: &str| field(status, "NSpid:")?.split_ascii_whitespace().last()?.parse::<u32>().ok();
        let is_first = name == "tasks" || field(&status, "Tgid:")? == notice.thread.to_string();
        if is_first && (target == 0 || Some(target) == own(&status)) {
            return None;
        }
        // Nobody has that number: ESRCH comes first.
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", notice.thread)).ok()?;
        let is_target = |process: &Path| {
            let status = fs::read_to_string(process.join("status")).ok()?;
            let is_inside = fs::read_link(process.join("ns/pid")).ok()? == namespace;
            Some(is_inside && own(&status)? == target)
        };
        let exists = target == 0
            || if is_shared(notice.thread, "pid") {
                // Threads are found as well, though not listed.
                Path::new(&format!("/proc/{target}")).exists()
            } else {
                fs::read_dir("/proc").ok()?.flatten().any(|process| is_target(&process.path()) == Some(true))
            };
        exists.then_some(Answer::Failed(Errno::EPERM))
    }
}

/// The text of a list, as the kernel shows it in a thread's pid namespace.
fn list_for(thread: u32, object: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(object).ok()?;
    if !is_shared(thread, "pid") {
        let mut command = Command::new("nsenter");
        command.arg(format!("--pid=/proc/{thread}/ns/pid")).args(["--", "cat"]).stdin(file);
        return Some(command.output().ok()?.stdout);
    }
    let mut text = Vec::new();
    // That of a cgroup that is gone can't be read.
    let _ = file.read_to_end(&mut text);
    Some(text)
}

/// Whether a thread is in the supervisor's namespace of this kind.
fn is_shared(thread: u32, kind: &str) -> bool {
    let theirs = fs::read_link(format!("/proc/{thread}/ns/{kind}"));
    theirs.is_ok_and(|theirs| fs::read_link(format!("/proc/self/ns/{kind}")).is_ok_and(|own| own == theirs))
}

/// The last name in the path of a descriptor's file.
fn name_behind(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?.into_os_string().into_string().ok()?;
    let path = target.strip_suffix(" (deleted)").unwrap_or(&target);
    path.starts_with('/').then(|| path.rsplit('/').next().map(str::to_owned)).flatten()
}

fn status(thread: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{thread}/status")).ok()
}

fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

fn memory(thread: u32, write: bool) -> Option<File> {
    File::options().read(!write).write(write).open(format!("/proc/{thread}/mem")).ok()
}

/// The text that a thread has at an address.
fn string(thread: u32, address: u64) -> Option<String> {
    let memory = memory(thread, false)?;
    let (mut text, mut part, mut at) = (Vec::new(), [0; 256], address);
    while text.len() < 4096 {
        // Not beyond the page, behind which there may be nothing.
        let most = usize::try_from(4096 - at % 4096).ok()?.min(part.len());
        let read = memory.read_at(&mut part[..most], at).ok().filter(|read| *read > 0)?;
        match part[..read].iter().position(|byte| *byte == 0) {
            Some(end) => {
                text.extend_from_slice(&part[..end]);
                return String::from_utf8(text).ok();
            }
            None => text.extend_from_slice(&part[..read]),
        }
        at += read as u64;
    }
    None
}
