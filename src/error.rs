//! What goes wrong, as users read it: one line that says what failed, on what, why, and what to do.

use std::{fmt, io};

use crate::agents::attach::EntryError;
use crate::cgroup::escaped;
use crate::fuse::MountError;
use crate::host::PlanError;
use crate::host::discover::DiscoverError;

/// What kind of error it is. The command line has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Whoever reads the output has gone, which is no failure.
    ReaderGone,
    /// Something that was asked for properly didn't work.
    Failed,
    /// What was asked for makes no sense.
    Usage,
    /// This kernel or this host can't do it.
    Unsupported,
    /// The caller may not do it.
    NotPermitted,
}

impl ErrorKind {
    /// All of them. The position of each is the byte that stands for it between two processes of the program.
    const ALL: [Self; 5] = [Self::ReaderGone, Self::Failed, Self::Usage, Self::Unsupported, Self::NotPermitted];

    /// The byte that stands for the kind between two processes of the program.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// The kind that a byte stands for. A byte that stands for none is [`ErrorKind::Failed`].
    pub fn from_byte(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or(Self::Failed)
    }
}

/// An error with the message that its user reads.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error of any kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Something that didn't work.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// Something that was asked for and makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Something that this kernel or this host can't do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Something that the caller may not do.
    pub fn not_permitted(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotPermitted, message)
    }

    /// A system call that failed while the program did `what`: `EPERM` and `EACCES` are [`ErrorKind::NotPermitted`].
    pub fn system(what: impl fmt::Display, error: io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => ErrorKind::NotPermitted,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, format!("{what}: {error}"))
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message as it is, which may have names in it that aren't fit for a terminal.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.message))
    }
}

impl From<DiscoverError> for Error {
    fn from(error: DiscoverError) -> Self {
        let kind = if matches!(error, DiscoverError::NoHierarchy | DiscoverError::InView) {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Failed
        };
        Self::new(kind, error.to_string())
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        let kind = match &error {
            _ if error.is_usage() => ErrorKind::Usage,
            PlanError::Open { errno: nix::errno::Errno::EACCES | nix::errno::Errno::EPERM, .. } => {
                ErrorKind::NotPermitted
            }
            _ => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        let source = match &error {
            MountError::Device(source) | MountError::Mount { source, .. } => source.raw_os_error(),
        };
        let (kind, advice) = match (&error, source) {
            (MountError::Device(_), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => (
                ErrorKind::Unsupported,
                "this kernel has no FUSE, or the device isn't there: try 'modprobe fuse', and in a container pass /dev/fuse in",
            ),
            (MountError::Device(_), Some(libc::EPERM | libc::EACCES)) => {
                (ErrorKind::NotPermitted, "run it as root, and in a container allow the device /dev/fuse (char 10:229)")
            }
            (MountError::Mount { .. }, Some(libc::EPERM)) => {
                (ErrorKind::NotPermitted, "mounting takes CAP_SYS_ADMIN: run it as root of the host")
            }
            (MountError::Mount { .. }, Some(libc::ENODEV)) => {
                (ErrorKind::Unsupported, "this kernel has no FUSE: try 'modprobe fuse'")
            }
            _ => (ErrorKind::Failed, ""),
        };
        let message = if advice.is_empty() { error.to_string() } else { format!("{error} ({advice})") };
        Self::new(kind, message)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // Whoever reads the output has gone: that's no failure.
        let kind = if error.kind() == io::ErrorKind::BrokenPipe { ErrorKind::ReaderGone } else { ErrorKind::Failed };
        Self::new(kind, error.to_string())
    }
}

impl From<EntryError> for Error {
    fn from(error: EntryError) -> Self {
        let kind = match &error {
            EntryError::Failed { errno: nix::errno::Errno::EPERM | nix::errno::Errno::EACCES, .. } => {
                ErrorKind::NotPermitted
            }
            _ => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<crate::host::refuge::NoRefuge> for Error {
    fn from(error: crate::host::refuge::NoRefuge) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<crate::host::discover::Attached> for Error {
    fn from(error: crate::host::discover::Attached) -> Self {
        let kind = if error.errno == nix::errno::Errno::EPERM { ErrorKind::NotPermitted } else { ErrorKind::Failed };
        Self::new(kind, error.to_string())
    }
}
