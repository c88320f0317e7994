//! Operations on files and directories.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs as rfs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timestamps, XattrFlags};
use serde_json::{Value, json};

use super::op::Op;
use super::state::{Answer, Failure, State};

/// How long the `await` operations repeat a check.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Performs an operation on files; `None` if it isn't one.
pub(super) fn execute(state: &Arc<State>, op: &Op) -> Option<Answer> {
    Some(match op {
        Op::Open { path, flags, fd } => {
            state.define(&format!("FD{}", fd.to_uppercase()), "none");
            state.expand(path).and_then(|path| open(&path, flags, 0)).map(|opened| keep(state, fd, opened))
        }
        Op::Creat { path, mode } => state
            .expand(path)
            .and_then(|path| open(&path, &["O_CREAT".into(), "O_EXCL".into(), "O_WRONLY".into()], *mode))
            .map(|_| Value::Null),
        Op::ReadFile { path } => state.expand(path).and_then(|path| read_file(&path)),
        Op::WriteFile { path, data, flags } => write_file(state, path, data, flags),
        _ => {
            return on_handle(state, op).or_else(|| on_path(state, op)).or_else(|| on_names(state, op));
        }
    })
}

/// Keeps a handle; its number becomes `$FD` and the handle's name, for paths below /proc/self/fd.
pub(super) fn keep(state: &State, name: &str, fd: OwnedFd) -> Value {
    state.define(&format!("FD{}", name.to_uppercase()), fd.as_raw_fd());
    state.keep(name, fd);
    Value::Null
}

fn stage(stage: &'static str) -> impl Fn(rustix::io::Errno) -> Failure {
    move |error| Failure::Sys(stage, error.raw_os_error())
}

fn open(path: &str, flags: &[String], mode: u32) -> Result<OwnedFd, Failure> {
    let mut all = OFlags::CLOEXEC;
    for flag in flags {
        all |= match flag.as_str() {
            "O_RDONLY" => OFlags::RDONLY,
            "O_WRONLY" => OFlags::WRONLY,
            "O_RDWR" => OFlags::RDWR,
            "O_APPEND" => OFlags::APPEND,
            "O_TRUNC" => OFlags::TRUNC,
            "O_CREAT" => OFlags::CREATE,
            "O_EXCL" => OFlags::EXCL,
            "O_DIRECT" => OFlags::DIRECT,
            "O_DIRECTORY" => OFlags::DIRECTORY,
            "O_NOFOLLOW" => OFlags::NOFOLLOW,
            "O_PATH" => OFlags::PATH,
            "O_NONBLOCK" => OFlags::NONBLOCK,
            "O_SYNC" => OFlags::SYNC,
            "O_NOATIME" => OFlags::NOATIME,
            "O_TMPFILE" => OFlags::TMPFILE,
            other => return Err(Failure::Script(format!("no open flag {other}"))),
        };
    }
    rfs::open(path, all, Mode::from_raw_mode(mode)).map_err(stage("open"))
}

fn text(bytes: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

fn read_up_to_end(fd: &OwnedFd, len: usize) -> Result<Vec<u8>, rustix::io::Errno> {
    let mut all = Vec::new();
    let mut buffer = vec![0; len];
    loop {
        match rustix::io::read(fd, &mut buffer)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

pub(super) fn read_file(path: &str) -> Answer {
    let fd = open(path, &["O_RDONLY".into()], 0)?;
    read_up_to_end(&fd, 65536).map(|bytes| text(&bytes)).map_err(stage("read"))
}

fn write_file(state: &State, path: &str, data: &str, flags: &[String]) -> Answer {
    let mut all = vec!["O_WRONLY".to_string()];
    all.extend(flags.iter().cloned());
    let fd = open(&state.expand(path)?, &all, 0)?;
    let data = state.expand(data)?;
    rustix::io::write(&fd, data.as_bytes()).map(|count| json!(count)).map_err(stage("write"))
}

fn on_handle(state: &State, op: &Op) -> Option<Answer> {
    let work = || -> Answer {
        Ok(match op {
            Op::Fstat { fd } => stat_value(&rfs::fstat(&*state.fd(fd)?)?),
            Op::Read { fd, len } => {
                let mut buffer = vec![0; *len];
                let count = rustix::io::read(&*state.fd(fd)?, &mut buffer)?;
                text(&buffer[..count])
            }
            Op::Pread { fd, len, off } => {
                let mut buffer = vec![0; *len];
                let count = rustix::io::pread(&*state.fd(fd)?, &mut buffer, *off)?;
                text(&buffer[..count])
            }
            Op::ReadAll { fd, len } => text(&read_up_to_end(&*state.fd(fd)?, *len)?),
            Op::Write { fd, data } => json!(rustix::io::write(&*state.fd(fd)?, state.expand(data)?.as_bytes())?),
            Op::Pwrite { fd, data, off } => {
                json!(rustix::io::pwrite(&*state.fd(fd)?, state.expand(data)?.as_bytes(), *off)?)
            }
            Op::Lseek { fd, off, whence } => {
                let to = match whence.as_str() {
                    "set" => rfs::SeekFrom::Start(off.unsigned_abs()),
                    "cur" => rfs::SeekFrom::Current(*off),
                    "end" => rfs::SeekFrom::End(*off),
                    other => return Err(Failure::Script(format!("no whence {other}"))),
                };
                json!(rfs::seek(&*state.fd(fd)?, to)?)
            }
            Op::Ftruncate { fd, len } => null(rfs::ftruncate(&*state.fd(fd)?, *len)?),
            Op::Close { fd } => state.forget(fd)?,
            Op::Dup { fd, to } => {
                let copy = rustix::io::fcntl_dupfd_cloexec(&*state.fd(fd)?, 0)?;
                keep(state, to, copy)
            }
            Op::Fsync { fd } => null(rfs::fsync(&*state.fd(fd)?)?),
            Op::Fallocate { fd, len } => null(rfs::fallocate(&*state.fd(fd)?, rfs::FallocateFlags::empty(), 0, *len)?),
            Op::Poll { fd } => poll_now(&*state.fd(fd)?)?,
            Op::AwaitPoll { fd, event } => {
                let fd = state.fd(fd)?;
                let mut found = Ok(Value::Null);
                let seen = patiently(|| {
                    found = poll_now(&fd);
                    found
                        .as_ref()
                        .is_ok_and(|set| set.as_array().is_some_and(|set| set.iter().any(|name| name == event)))
                });
                found.map(|_| json!(seen))?
            }
            Op::CompareNumbers { a, b } => {
                let number = |fd: &str| -> Result<u64, Failure> {
                    let mut buffer = [0; 64];
                    let count = rustix::io::pread(&*state.fd(fd)?, &mut buffer, 0)?;
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    text.trim().parse().map_err(|_| Failure::Script(format!("{text:?} is no number")))
                };
                json!(format!("{:?}", number(a)?.cmp(&number(b)?)).to_lowercase())
            }
            Op::Writev { fd, data } => {
                let data = data.iter().map(|one| state.expand(one)).collect::<Result<Vec<_>, _>>()?;
                let slices: Vec<_> = data.iter().map(|one| std::io::IoSlice::new(one.as_bytes())).collect();
                json!(rustix::io::writev(&*state.fd(fd)?, &slices)?)
            }
            Op::Mmap { fd, shared } => null(super::map::map_a_page(&*state.fd(fd)?, *shared)?),
            Op::Flock { fd, kind } => {
                let kind = match kind.as_str() {
                    "shared" => rfs::FlockOperation::NonBlockingLockShared,
                    "exclusive" => rfs::FlockOperation::NonBlockingLockExclusive,
                    "unlock" => rfs::FlockOperation::NonBlockingUnlock,
                    other => return Err(Failure::Script(format!("no lock {other}"))),
                };
                null(rfs::flock(&*state.fd(fd)?, kind)?)
            }
            Op::Fchmod { fd, mode } => null(rfs::fchmod(&*state.fd(fd)?, Mode::from_raw_mode(*mode))?),
            Op::Splice { fd } => splice(&*state.fd(fd)?)?,
            Op::Ioctl { fd } => null(rustix::termios::tcgetwinsize(&*state.fd(fd)?).map(drop)?),
            Op::SliceMatches { fd, path, len, off } => {
                let whole = read_up_to_end(&open(&state.expand(path)?, &["O_RDONLY".into()], 0)?, 65536)?;
                let mut buffer = vec![0; *len];
                let count = rustix::io::pread(&*state.fd(fd)?, &mut buffer, *off)?;
                let rest = usize::try_from(*off).ok().and_then(|off| whole.get(off..)).unwrap_or_default();
                json!(count > 0 && rest.starts_with(&buffer[..count]))
            }
            _ => return Err(Failure::Script(String::new())),
        })
    };
    let mine = matches!(
        op,
        Op::Fstat { .. }
            | Op::Read { .. }
            | Op::Pread { .. }
            | Op::ReadAll { .. }
            | Op::Write { .. }
            | Op::Pwrite { .. }
            | Op::Lseek { .. }
            | Op::Ftruncate { .. }
            | Op::Close { .. }
            | Op::Dup { .. }
            | Op::Fsync { .. }
            | Op::Fallocate { .. }
            | Op::Poll { .. }
            | Op::AwaitPoll { .. }
            | Op::CompareNumbers { .. }
            | Op::Writev { .. }
            | Op::Mmap { .. }
            | Op::Flock { .. }
            | Op::Fchmod { .. }
            | Op::Splice { .. }
            | Op::Ioctl { .. }
            | Op::SliceMatches { .. }
    );
    mine.then(work)
}

fn null((): ()) -> Value {
    Value::Null
}

fn splice(fd: &OwnedFd) -> Answer {
    let (output, input) = rustix::pipe::pipe()?;
    let count = rustix::pipe::splice(fd, None, &input, None, 4096, rustix::pipe::SpliceFlags::empty())?;
    let mut buffer = vec![0; count];
    let count = if count == 0 { 0 } else { rustix::io::read(&output, &mut buffer)? };
    Ok(text(&buffer[..count]))
}

fn poll_now(fd: &OwnedFd) -> Answer {
    let wanted = [
        ("IN", PollFlags::IN),
        ("OUT", PollFlags::OUT),
        ("PRI", PollFlags::PRI),
        ("ERR", PollFlags::ERR),
        ("HUP", PollFlags::HUP),
        ("RDNORM", PollFlags::RDNORM),
        ("WRNORM", PollFlags::WRNORM),
    ];
    let mut fds = [PollFd::new(fd, wanted.iter().fold(PollFlags::empty(), |all, (_, flag)| all | *flag))];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let set = fds[0].revents();
    Ok(json!(wanted.iter().filter(|(_, flag)| set.contains(*flag)).map(|(name, _)| *name).collect::<Vec<_>>()))
}

pub(super) fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::RegularFile => "file",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        _ => "other",
    }
}

fn stat_value(stat: &rfs::Stat) -> Value {
    json!({
        "type": type_name(FileType::from_raw_mode(stat.st_mode)),
        "mode": format!("{:04o}", stat.st_mode & 0o7777),
        "uid": stat.st_uid,
        "gid": stat.st_gid,
        "size": stat.st_size,
        "nlink": stat.st_nlink,
        "ino": stat.st_ino,
    })
}

fn list(path: &str) -> Result<Vec<(String, &'static str)>, Failure> {
    let fd =
        rfs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(stage("open"))?;
    let mut names = Vec::new();
    for entry in rfs::Dir::new(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push((name, type_name(entry.file_type())));
        }
    }
    names.sort();
    Ok(names)
}

fn on_path(state: &State, op: &Op) -> Option<Answer> {
    let work = |path: &str| -> Answer {
        let path = state.expand(path)?;
        let path = path.as_str();
        Ok(match op {
            Op::Stat { .. } => stat_value(&rfs::lstat(path)?),
            Op::Statfs { .. } => {
                let found = rfs::statfs(path)?;
                json!({"type": format!("{:#x}", found.f_type), "namelen": found.f_namelen})
            }
            Op::Access { mode, .. } => access(path, mode)?,
            Op::Readdir { .. } => {
                json!(list(path)?.iter().map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>())
            }
            Op::Sees { name, .. } => {
                let name = state.expand(name)?;
                json!(list(path)?.iter().any(|(seen, _)| *seen == name))
            }
            Op::Truncate { len, .. } => null(nix::unistd::truncate(path, i64::try_from(*len).unwrap_or(i64::MAX))?),
            Op::Mkdir { mode, .. } => null(rfs::mkdir(path, Mode::from_raw_mode(*mode))?),
            Op::Rmdir { .. } => null(rfs::rmdir(path)?),
            Op::Unlink { .. } => null(rfs::unlink(path)?),
            Op::Mknod { kind, .. } => {
                let kind = if kind == "fifo" { FileType::Fifo } else { FileType::RegularFile };
                null(rfs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), 0)?)
            }
            Op::Chmod { mode, .. } => null(rfs::chmod(path, Mode::from_raw_mode(*mode))?),
            Op::Chown { uid, gid, .. } => null(std::os::unix::fs::lchown(path, *uid, *gid)?),
            Op::Utimens { sec, .. } => {
                let time = sec.map_or(rfs::Timespec { tv_sec: 0, tv_nsec: rfs::UTIME_NOW }, |tv_sec| rfs::Timespec {
                    tv_sec,
                    tv_nsec: 0,
                });
                let times = Timestamps { last_access: time, last_modification: time };
                null(rfs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            Op::Getxattr { name, .. } => {
                let mut buffer = [0_u8; 65536];
                let count = rfs::lgetxattr(path, name.as_str(), &mut buffer)?;
                text(&buffer[..count])
            }
            Op::Setxattr { name, value, .. } => {
                null(rfs::lsetxattr(path, name.as_str(), value.as_bytes(), XattrFlags::empty())?)
            }
            Op::Listxattr { .. } => {
                let mut buffer = [MaybeUninit::<u8>::uninit(); 65536];
                let (found, _) = rfs::llistxattr(path, &mut buffer)?;
                let mut names: Vec<_> =
                    found.split(|b| *b == 0).filter(|n| !n.is_empty()).map(String::from_utf8_lossy).collect();
                names.sort();
                json!(names)
            }
            Op::Removexattr { name, .. } => null(rfs::lremovexattr(path, name.as_str())?),
            Op::Await { text, .. } => await_text(path, text),
            _ => return Err(Failure::Script(String::new())),
        })
    };
    Some(match op {
        Op::Stat { path }
        | Op::Statfs { path }
        | Op::Access { path, .. }
        | Op::Readdir { path }
        | Op::Sees { dir: path, .. }
        | Op::Truncate { path, .. }
        | Op::Mkdir { path, .. }
        | Op::Rmdir { path }
        | Op::Unlink { path }
        | Op::Mknod { path, .. }
        | Op::Chmod { path, .. }
        | Op::Chown { path, .. }
        | Op::Utimens { path, .. }
        | Op::Getxattr { path, .. }
        | Op::Setxattr { path, .. }
        | Op::Listxattr { path }
        | Op::Removexattr { path, .. }
        | Op::Await { path, .. } => work(path),
        _ => return None,
    })
}

fn access(path: &str, mode: &str) -> Answer {
    let mut wanted = rfs::Access::EXISTS;
    for letter in mode.chars() {
        wanted |= match letter {
            'r' => rfs::Access::READ_OK,
            'w' => rfs::Access::WRITE_OK,
            'x' => rfs::Access::EXEC_OK,
            other => return Err(Failure::Script(format!("no access mode {other}"))),
        };
    }
    // Before Linux 5.8, which brought faccessat2, only the real ids can be asked about; but for seteuid(2) they're the effective ones.
    match rfs::accessat(CWD, path, wanted, AtFlags::EACCESS) {
        Err(rustix::io::Errno::NOSYS) => Ok(null(rfs::accessat(CWD, path, wanted, AtFlags::empty())?)),
        done => Ok(null(done?)),
    }
}

fn await_text(path: &str, wanted: &str) -> Value {
    json!(patiently(|| fs::read_to_string(Path::new(path)).is_ok_and(|found| found.contains(wanted))))
}

/// Whether a condition becomes true within [`AWAIT_TIMEOUT`].
pub(super) fn patiently(is_true: impl FnMut() -> bool) -> bool {
    crate::comes_true(AWAIT_TIMEOUT, is_true)
}

fn on_names(state: &State, op: &Op) -> Option<Answer> {
    let work = || -> Answer {
        Ok(match op {
            Op::Rename { from, to, flags } => {
                let mut all = RenameFlags::empty();
                for flag in flags {
                    all |= match flag.as_str() {
                        "noreplace" => RenameFlags::NOREPLACE,
                        "exchange" => RenameFlags::EXCHANGE,
                        "whiteout" => RenameFlags::WHITEOUT,
                        other => return Err(Failure::Script(format!("no rename flag {other}"))),
                    };
                }
                let (from, to) = (state.expand(from)?, state.expand(to)?);
                if all.is_empty() {
                    null(rfs::rename(from, to)?)
                } else {
                    null(rfs::renameat_with(CWD, from, CWD, to, all)?)
                }
            }
            Op::Link { from, to } => null(rfs::link(state.expand(from)?, state.expand(to)?)?),
            Op::Symlink { target, path } => null(rfs::symlink(state.expand(target)?, state.expand(path)?)?),
            Op::SameInode { a, b } => {
                json!(rfs::lstat(state.expand(a)?)?.st_ino == rfs::lstat(state.expand(b)?)?.st_ino)
            }
            _ => return Err(Failure::Script(String::new())),
        })
    };
    matches!(op, Op::Rename { .. } | Op::Link { .. } | Op::Symlink { .. } | Op::SameInode { .. }).then(work)
}
