//! The directory of the records. It's used only if nobody but root can write to it: otherwise others could redirect
//! root's writes, and forge records.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use crate::records::descriptor;

/// The path of the records. A lock on each record tells whether its server lives, so a crash needs no cleanup.
pub(crate) const DIRECTORY: &str = "/run/vcgroupfs";

/// The file whose lock a process holds while it makes or removes records.
const LOCK_FILE: &str = "records.lock";

const GROUP_OR_OTHERS_WRITE: libc::mode_t = 0o022;

/// The open [`DIRECTORY`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Directory(#[serde(with = "descriptor")] OwnedFd);

/// The lock for making or removing records, held until it's dropped.
#[derive(Debug)]
pub(crate) struct RecordsLock(#[allow(dead_code, reason = "holds the lock")] File);

impl Directory {
    /// Opens the directory; `None` if there's none.
    ///
    /// # Errors
    /// If others than root can write to it; those of open(2).
    pub(crate) fn find() -> io::Result<Option<Self>> {
        match Self::open(&above()?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Opens the directory, and makes it if there's none.
    ///
    /// # Errors
    /// As [`Self::find`]; those of mkdir(2).
    pub(crate) fn make() -> io::Result<Self> {
        let above = above()?;
        match mkdirat(&above, name(), Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                let made = Self::open(&above)?;
                // Every user may list the live views, whatever the umask is.
                File::from(made.0.try_clone()?).set_permissions(Permissions::from_mode(0o755))?;
                Ok(made)
            }
            Err(Errno::EEXIST) => Self::open(&above),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Another directory, for tests.
    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Self {
        Self(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).unwrap())
    }

    fn open(above: &OwnedFd) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = match openat(above, name(), flags, Mode::empty()) {
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(untrusted_directory("isn't a directory")),
            directory => directory?,
        };
        let found = fstat(&directory)?;
        if is_roots_alone(&found) {
            return Ok(Self(directory));
        }
        let mode = found.st_mode & 0o7777;
        Err(untrusted_directory(&format!(
            "isn't root's alone (user {}, group {}, mode {mode:04o})",
            found.st_uid, found.st_gid
        )))
    }

    /// The path of a file in it, by its descriptor.
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.number())).join(name)
    }

    /// The number of its descriptor.
    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Opens a file in it.
    ///
    /// # Errors
    /// `EPERM` if it isn't a regular file that only root can write; those of open(2).
    pub(crate) fn file(&self, name: &OsStr, flags: OFlag) -> io::Result<(File, FileStat)> {
        // Opening a fifo would wait for a writer.
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = openat(&self.0, name, flags, Mode::from_bits_truncate(0o600))?;
        let found = fstat(&file)?;
        let is_file = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        if is_file && is_roots_alone(&found) { Ok((file.into(), found)) } else { Err(Errno::EPERM.into()) }
    }

    /// Looks at a name in it, without following a symlink.
    ///
    /// # Errors
    /// Those of stat(2).
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<FileStat> {
        Ok(fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Makes a file that only root can read, and replaces an existing one.
    ///
    /// # Errors
    /// Those of open(2) and unlink(2).
    pub(crate) fn new_file(&self, name: &OsStr) -> io::Result<File> {
        let _ = self.remove(name);
        Ok(self.file(name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?.0)
    }

    /// Opens a lock file that only root can open, and makes it if there's none.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub(crate) fn lock_file(&self, name: &str) -> io::Result<File> {
        let (file, found) = self.file(OsStr::new(name), OFlag::O_RDWR | OFlag::O_CREAT)?;
        // A user who can open it can lock it.
        if found.st_mode & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    }

    /// Renames within the directory.
    ///
    /// # Errors
    /// Those of rename(2).
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a name from it.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Returns all names in it.
    ///
    /// # Errors
    /// Those of reading a directory.
    pub(crate) fn names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::openat(&self.0, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            names.push(OsStr::from_bytes(entry?.file_name().to_bytes()).to_os_string());
        }
        Ok(names)
    }

    /// Takes the lock for making or removing records.
    ///
    /// # Errors
    /// `EAGAIN` if another process holds it and `waits` is false; those of open(2).
    pub(crate) fn lock_records(&self, waits: bool) -> io::Result<RecordsLock> {
        let file = self.lock_file(LOCK_FILE)?;
        write_lock(file.as_fd(), waits)?;
        Ok(RecordsLock(file))
    }
}

/// Locks a whole file for writing (fcntl(2)). Unlike flock(2), this needs a descriptor that is open for writing.
///
/// # Errors
/// `EAGAIN` if it's locked and `waits` is false.
pub(crate) fn write_lock(file: BorrowedFd<'_>, waits: bool) -> Result<(), Errno> {
    let whole = whole_file(libc::F_WRLCK);
    let tried = fcntl(file, if waits { FcntlArg::F_OFD_SETLKW(&whole) } else { FcntlArg::F_OFD_SETLK(&whole) });
    match tried {
        // Before Linux 3.15 the process owns the lock, until it closes any descriptor of the file. This process has
        // no other.
        Err(Errno::EINVAL) => fcntl(file, if waits { FcntlArg::F_SETLKW(&whole) } else { FcntlArg::F_SETLK(&whole) }),
        tried => tried,
    }
    .map(drop)
}

/// Whether another process holds a write lock, owned by a process or an open file. The check needs read access. Read
/// locks don't count, since every reader can take one.
pub(crate) fn is_write_locked(file: &File) -> bool {
    let mut found = whole_file(libc::F_RDLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut found)).is_ok() && found.l_type == libc::F_WRLCK as libc::c_short
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    let whence = libc::SEEK_SET as libc::c_short;
    libc::flock { l_type: kind as libc::c_short, l_whence: whence, l_start: 0, l_len: 0, l_pid: 0 }
}

fn above() -> io::Result<OwnedFd> {
    let above = Path::new(DIRECTORY).parent().ok_or(Errno::ENOENT)?;
    Ok(open(above, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn name() -> &'static OsStr {
    Path::new(DIRECTORY).file_name().unwrap_or_default()
}

fn is_roots_alone(found: &FileStat) -> bool {
    found.st_uid == 0 && found.st_mode & GROUP_OR_OTHERS_WRITE == 0
}

fn untrusted_directory(what: &str) -> io::Error {
    let advice = format!("remove it, or 'chown root:root {DIRECTORY}; chmod 755 {DIRECTORY}' if all in it is root's");
    io::Error::other(format!("{DIRECTORY} {what}, so that others could forge what is there: {advice}"))
}
