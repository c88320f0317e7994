//! The child that looks: inside the target's namespaces it opens nothing for reading or writing and executes nothing, it only asks the kernel
//! about paths. What it finds goes to a pipe, a line each.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};

use super::enter::enter;
use super::facts::{Answer, FUSE, Place, Process, ROOT, mount_of, places};
use super::target::Target;
use crate::cgroup::{parse_memberships, parse_mountinfo};

/// A line from the child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Line {
    Process(Process),
    /// It's about to look at this path.
    Asking(String),
    Place(String, Answer),
    /// It can't go on.
    Failed {
        what: String,
        errno: i32,
    },
    Done,
}

/// The child's whole life. On mounts of the devices `silent` it doesn't touch anything; those of `by_caller` show everybody something else.
pub(super) fn look(
    target: Target,
    silent: &[(u32, u32)],
    by_caller: &[(u32, u32)],
    pipe: OwnedFd,
) -> std::io::Result<()> {
    let entered = enter(target, by_caller, pipe.as_fd());
    let mut pipe = std::fs::File::from(pipe);
    let mut say = |line: &Line| {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        pipe.write_all(&text)
    };
    let process = match entered {
        Ok(process) => process,
        Err(failure) => return say(&Line::Failed { what: failure.what, errno: failure.errno }),
    };
    say(&Line::Process(process.clone()))?;
    let memberships = parse_memberships(process.cgroup.as_bytes());
    let mounts = parse_mountinfo(process.mountinfo.as_bytes());
    for path in places(&memberships, &mounts) {
        let is_silent = mount_of(&mounts, &path).is_some_and(|mount| silent.contains(&mount.device));
        let answer = if is_silent {
            Answer::Silent
        } else {
            say(&Line::Asking(path.clone()))?;
            place(&path).map_or_else(|errno| Answer::Failed(errno as i32), Answer::Found)
        };
        say(&Line::Place(path, answer))?;
    }
    say(&Line::Done)
}

/// Looks at one path. A place that statfs can't be asked about counts as failed: its files can't be used either.
fn place(path: &str) -> Result<Place, Errno> {
    // O_PATH opens nothing: no device, no fifo.
    let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let attributes = fstat(&file)?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // the type's width varies
    let magic = fstatfs(&file)?.filesystem_type().0 as i64;
    // A view tells by the mode what it rejects, which capabilities override for access(2). The kernel's own roots have no write bits either,
    // and can be written by root.
    let has_write_bits = magic != FUSE || attributes.st_mode & 0o222 != 0;
    let may_write = faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok();
    Ok(Place {
        magic,
        directory: attributes.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits(),
        writable: has_write_bits && may_write,
        one_mount: is_on_one_mount(path).unwrap_or(false),
    })
}

/// As libcontainer opens files on v2 (`OpenFile` of its cgroups package).
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
