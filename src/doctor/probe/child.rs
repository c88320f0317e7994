//! The child that probes. Inside the target's namespaces it asks the kernel about paths, reads regular files, and
//! executes nothing. It writes its results to a pipe, line by line.
//!
//! The models of the programs run here to choose the files. They run again outside, on the results.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::sendfile::sendfile;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{AccessFlags, faccessat, pipe2};
use serde::{Deserialize, Serialize};

use crate::cgroup::{MountEntry, parse_memberships, parse_mountinfo};
use crate::doctor::facts::{
    CopyCheck, FUSE, Facts, FsType, PathProbe, ProbeOutcome, ProbeResults, Process, ROOT, VIEW, directories, join,
    mount_of,
};
use crate::doctor::paths::paths_to_probe;
use crate::doctor::probe::enter::enter;
use crate::doctor::probe::target::ProbeTarget;
use crate::doctor::reading::Files;
use crate::doctor::verdict::readings;

/// A line from the child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Line {
    Process(Process),
    /// The child is about to probe this path.
    Probing(String),
    Probed(String, ProbeOutcome),
    /// The content of a file; `None` if it can't be read.
    Content(String, Option<String>),
    /// A file of a view, read in two ways.
    CopyCheck(String, CopyCheck),
    /// The child can't go on.
    Failed {
        what: String,
        errno: i32,
    },
    Done,
}

/// The maximum size that is read of a file, in bytes. The interface files that models ask for have a few lines.
const MAX_CONTENT_BYTES: u64 = 64 << 10;

/// Runs the child. It touches nothing on mounts of the devices `silent`. Mounts of the devices `by_caller` show each
/// process other content.
pub(crate) fn run_child(
    target: ProbeTarget,
    silent: &[(u32, u32)],
    by_caller: &[(u32, u32)],
    pipe: OwnedFd,
) -> std::io::Result<()> {
    let entered = enter(target, by_caller, pipe.as_fd());
    let say = LineWriter(RefCell::new(File::from(pipe)));
    let (process, own_files) = match entered {
        Ok(entered) => entered,
        Err(error) => return say.line(&Line::Failed { what: error.what, errno: error.errno }),
    };
    say.line(&Line::Process(process.clone()))?;
    let memberships = parse_memberships(process.cgroup.as_bytes());
    let mounts = parse_mountinfo(process.mountinfo.as_bytes());
    let asked = paths_to_probe(&memberships, &mounts);
    let facts = Facts::new(process, ProbeResults::default());
    let live = LiveFiles {
        say: &say,
        mounts: &facts.mounts,
        silent,
        own_files,
        places: RefCell::default(),
        contents: RefCell::default(),
    };
    for path in asked {
        live.probe(&path)?;
    }
    readings(&facts.system(), &live);
    if let Some((path, copied)) = live.copied(&facts)? {
        say.line(&Line::CopyCheck(path, copied))?;
    }
    say.line(&Line::Done)
}

/// Writes lines to the pipe.
struct LineWriter(RefCell<File>);

impl LineWriter {
    fn line(&self, line: &Line) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.0.borrow_mut().write_all(&text)
    }
}

/// Asks the kernel, reports each result, and asks nothing twice.
struct LiveFiles<'a> {
    say: &'a LineWriter,
    mounts: &'a [MountEntry],
    silent: &'a [(u32, u32)],
    /// The directory of its own descriptors.
    own_files: OwnedFd,
    places: RefCell<BTreeMap<String, ProbeOutcome>>,
    contents: RefCell<BTreeMap<String, Option<String>>>,
}

impl LiveFiles<'_> {
    fn is_silent(&self, path: &str) -> bool {
        mount_of(self.mounts, path).is_some_and(|mount| self.silent.contains(&mount.device))
    }

    fn probe(&self, path: &str) -> std::io::Result<ProbeOutcome> {
        if let Some(answer) = self.places.borrow().get(path) {
            return Ok(answer.clone());
        }
        let answer = if self.is_silent(path) {
            ProbeOutcome::Silent
        } else {
            self.say.line(&Line::Probing(path.to_owned()))?;
            probe_path(path).map_or_else(|errno| ProbeOutcome::Failed(errno as i32), ProbeOutcome::Found)
        };
        self.say.line(&Line::Probed(path.to_owned(), answer.clone()))?;
        self.places.borrow_mut().insert(path.to_owned(), answer.clone());
        Ok(answer)
    }

    fn content(&self, path: &str) -> std::io::Result<Option<String>> {
        if let Some(content) = self.contents.borrow().get(path) {
            return Ok(content.clone());
        }
        let content = if self.is_silent(path) {
            None
        } else {
            self.say.line(&Line::Probing(path.to_owned()))?;
            let mut text = Vec::new();
            let read = self.open(path).and_then(|file| file.take(MAX_CONTENT_BYTES).read_to_end(&mut text));
            read.ok().map(|_| String::from_utf8_lossy(&text).into_owned())
        };
        self.say.line(&Line::Content(path.to_owned(), content.clone()))?;
        self.contents.borrow_mut().insert(path.to_owned(), content.clone());
        Ok(content)
    }

    /// Opens a regular file for reading, and nothing else. The opened file is the one that was checked, whatever the
    /// container does to the path in between. Opening a device can have effects, and opening a fifo can block.
    fn open(&self, path: &str) -> std::io::Result<File> {
        let found = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        if fstat(&found)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(Errno::EINVAL.into());
        }
        let number = found.as_raw_fd().to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        Ok(openat(&self.own_files, number.as_str(), flags, Mode::empty())?.into())
    }

    /// Reads a file of the view in two ways, if there is one; if several exist, one in which they differ.
    fn copied(&self, facts: &Facts) -> std::io::Result<Option<(String, CopyCheck)>> {
        let mut found = None;
        // No kernel passes reads of the first two through: their readers are notified.
        for file in ["cgroup.events", "memory.oom_control", "memory.max", "memory.limit_in_bytes", "pids.max"] {
            for member in &facts.memberships {
                let Some(path) = member.location.path() else { continue };
                for directory in directories(&member.kind) {
                    let path = format!("{}/{file}", join(&directory, path));
                    let is_view = mount_of(self.mounts, &path).is_some_and(|mount| mount.fstype == VIEW);
                    if !is_view || !matches!(self.probe(&path)?, ProbeOutcome::Found(_)) {
                        continue;
                    }
                    self.say.line(&Line::Probing(path.clone()))?;
                    match self.copy(&path) {
                        Ok(copied) if copied.by_read != copied.by_sendfile => return Ok(Some((path, copied))),
                        Ok(copied) if copied.by_read > 0 => found = found.or(Some((path, copied))),
                        _ => {}
                    }
                }
            }
        }
        Ok(found)
    }

    fn copy(&self, path: &str) -> std::io::Result<CopyCheck> {
        let mut text = Vec::new();
        self.open(path)?.take(MAX_CONTENT_BYTES).read_to_end(&mut text)?;
        let file = self.open(path)?;
        let (_read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let by_sendfile = sendfile(&write, &file, None, 32 << 10)?;
        Ok(CopyCheck { by_read: text.len() as u64, by_sendfile: by_sendfile as u64 })
    }
}

/// If a result can't be written, the child ends at its next line.
impl Files for LiveFiles<'_> {
    fn read(&self, path: &str) -> Option<String> {
        self.content(path).ok().flatten()
    }

    fn exists(&self, path: &str) -> bool {
        self.probe(path).is_ok_and(|answer| matches!(answer, ProbeOutcome::Found(_)))
    }

    fn is_cgroup2(&self, path: &str) -> bool {
        let magic = |answer: ProbeOutcome| match answer {
            ProbeOutcome::Found(place) => FsType::of(place.magic) == FsType::Cgroup2,
            _ => false,
        };
        self.probe(path).is_ok_and(magic)
    }
}

/// Probes one path. If statfs(2) fails there, the probe fails: its files can't be used either.
fn probe_path(path: &str) -> Result<PathProbe, Errno> {
    // O_PATH opens no device and no fifo.
    let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let attributes = fstat(&file)?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // the type's width varies
    let magic = fstatfs(&file)?.filesystem_type().0 as i64;
    // A view clears the write bits of files whose writes it rejects, but capabilities override them in access(2). The
    // kernel's own roots have no write bits either, and root can write to them.
    let has_write_bits = magic != FUSE || attributes.st_mode & 0o222 != 0;
    let may_write = faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok();
    Ok(PathProbe {
        magic,
        directory: attributes.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits(),
        writable: has_write_bits && may_write,
        one_mount: is_on_one_mount(path).unwrap_or(false),
    })
}

/// Whether libcontainer can open a path below `/sys/fs/cgroup` on v2 (`OpenFile` of its cgroups package).
fn is_on_one_mount(path: &str) -> Option<bool> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let below = path.strip_prefix(ROOT)?.trim_start_matches('/');
    let root: OwnedFd = open(ROOT, flags, Mode::empty()).ok()?;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV
        | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let open = |root: BorrowedFd<'_>| openat2(root, below, OpenHow::new().flags(flags).resolve(resolve));
    Some(below.is_empty() || open(root.as_fd()).is_ok())
}
