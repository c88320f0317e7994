//! Requests that cost their caller little, repeated many times.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::stat::stat;
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

/// How many directories are listed one after the other: `0`, `1` and so on. These are more than a server keeps listings of.
pub const LISTED_DIRECTORIES: u64 = 18;

/// One repetition in a directory; the number counts the repetitions.
type Once = fn(&Path, u64) -> std::io::Result<()>;

/// The requests that can be repeated.
const KINDS: [(&str, Once); 10] = [
    ("list", |directory, _| begin_list(&open(directory)?)),
    ("make-and-list", make_and_list),
    ("list-beside", list_beside),
    ("absent", |directory, round| match stat(&directory.join(format!("absent-{round}"))) {
        Err(nix::errno::Errno::ENOENT) => Ok(()),
        other => Err(std::io::Error::other(format!("{other:?}"))),
    }),
    ("xattrs", |directory, _| rustix::fs::listxattr(directory, &mut [0_u8; 4096]).map(drop).map_err(Into::into)),
    ("members", |directory, _| File::open(directory.join("cgroup.procs"))?.read(&mut [0; 256]).map(drop)),
    ("make", |directory, round| unless_refused(std::fs::create_dir(directory.join(format!("made-{round}"))))),
    ("remove", |directory, round| unless_refused(std::fs::remove_dir(directory.join(format!("made-{round}"))))),
    ("change-mode", |directory, round| {
        let mode = if round % 2 == 0 { 0o711 } else { 0o700 };
        unless_refused(std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)))
    }),
    ("attributes", |directory, _| stat(directory).map(drop).map_err(Into::into)),
];

/// Repeats a request in a directory.
pub fn run(kind: &str, directory: &str, count: u64) -> ExitCode {
    let Some((_, once)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        eprintln!("flood: {kind} isn't one of {:?}", KINDS.map(|(known, _)| known));
        return ExitCode::FAILURE;
    };
    match (0..count).try_for_each(|round| once(Path::new(directory), round)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flood: {kind} {directory}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ignores a refusal: changes that others have just made may not be known yet.
fn unless_refused(result: std::io::Result<()>) -> std::io::Result<()> {
    match result.as_ref().map_err(std::io::Error::kind) {
        Err(ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::AlreadyExists) => Ok(()),
        _ => result,
    }
}

fn open(directory: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Reads only the beginning of a listing.
fn begin_list(directory: &OwnedFd) -> std::io::Result<()> {
    rustix::fs::seek(directory, SeekFrom::Start(0))?;
    RawDir::new(directory, &mut [MaybeUninit::<u8>::uninit(); 4096]).next().transpose()?;
    Ok(())
}

/// Changes a directory and lists it.
fn make_and_list(directory: &Path, _round: u64) -> std::io::Result<()> {
    let (child, open) = (directory.join("comes-and-goes"), open(directory)?);
    std::fs::create_dir(&child)?;
    begin_list(&open)?;
    std::fs::remove_dir(&child)?;
    begin_list(&open)
}

/// Lists many directories, one after the other, so that no listing of one is kept until it comes again.
fn list_beside(directory: &Path, round: u64) -> std::io::Result<()> {
    begin_list(&open(&directory.join((round % LISTED_DIRECTORIES).to_string()))?)
}
