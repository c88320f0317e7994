//! Errors as users read them: one line that says what failed, on what, why, and what to do.

use std::{fmt, io};

use nix::errno::Errno;

use crate::agents::attach::AttachHelperError;
use crate::cgroup::escaped;
use crate::fuse::MountError;
use crate::host::PlanError;
use crate::host::discover::DiscoverError;

/// The kind of an error. The command line has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The reader of the output has closed it, which isn't a failure.
    ReaderGone,
    /// A valid request failed.
    Failed,
    /// The request is wrong: an option, an argument, or their combination.
    Usage,
    /// This kernel or this host can't do it.
    Unsupported,
    /// The caller lacks a permission.
    NotPermitted,
}

impl ErrorKind {
    /// All kinds. The position of a kind is its byte in [`ErrorKind::to_byte`].
    const ALL: [Self; 5] = [Self::ReaderGone, Self::Failed, Self::Usage, Self::Unsupported, Self::NotPermitted];

    /// Encodes the kind as a byte, for another process of the program.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// Decodes a byte of [`ErrorKind::to_byte`]. Any other byte becomes [`ErrorKind::Failed`].
    pub fn from_byte(byte: u8) -> Self {
        Self::ALL.get(usize::from(byte)).copied().unwrap_or(Self::Failed)
    }
}

/// An error: what failed and on what, why, and what the user can do.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    /// What failed, with the name of the object.
    problem: String,
    /// Why it failed.
    cause: Option<String>,
    /// What the user can do.
    remedy: Option<String>,
}

impl Error {
    /// Makes an error of any kind. `problem` says what failed, and on what.
    pub fn new(kind: ErrorKind, problem: impl Into<String>) -> Self {
        Self { kind, problem: problem.into(), cause: None, remedy: None }
    }

    /// Makes an [`ErrorKind::Failed`].
    pub fn failed(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, problem)
    }

    /// Makes an [`ErrorKind::Usage`].
    pub fn usage(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, problem)
    }

    /// Makes an [`ErrorKind::Unsupported`].
    pub fn unsupported(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, problem)
    }

    /// Makes an [`ErrorKind::NotPermitted`].
    pub fn not_permitted(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotPermitted, problem)
    }

    /// Makes the error of a failed system call: `EPERM` and `EACCES` are [`ErrorKind::NotPermitted`].
    pub fn system(problem: impl fmt::Display, error: io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => ErrorKind::NotPermitted,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, problem.to_string()).because(describe(&error))
    }

    /// Adds why it failed.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn advise(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The whole message, `problem: cause; remedy`. Names in it aren't escaped for a terminal.
    pub fn message(&self) -> String {
        let more: Vec<&str> = self.cause.iter().chain(&self.remedy).map(String::as_str).collect();
        if more.is_empty() { self.problem.clone() } else { format!("{}: {}", self.problem, more.join("; ")) }
    }
}

/// An error of a system call in words: `Permission denied (EACCES)`.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) if errno != Errno::UnknownErrno => format!("{} ({errno:?})", errno.desc()),
        _ => error.to_string(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(self.message()))
    }
}

impl From<DiscoverError> for Error {
    fn from(error: DiscoverError) -> Self {
        let problem = error.to_string();
        match error {
            DiscoverError::NoHierarchy | DiscoverError::InView => Self::unsupported(problem),
            DiscoverError::MountInfo(source) => Self::failed(problem).because(describe(&source)).advise("mount /proc"),
        }
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        let problem = error.to_string();
        match error {
            PlanError::Open { errno, .. } => Self::system(problem, errno.into()),
            PlanError::Memberships(_, source) => Self::system(problem, source),
            error if error.is_usage() => Self::usage(problem),
            _ => Self::failed(problem),
        }
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        let source = match &error {
            MountError::Device(source) | MountError::Mount { source, .. } => source,
        };
        let failed = Self::failed(error.to_string()).because(describe(source));
        let (kind, remedy) = match (&error, source.raw_os_error()) {
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
            _ => return failed,
        };
        Self { kind, ..failed }.advise(remedy)
    }
}

/// An error of writing the output, which is what a verb does with `?`.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // The reader of the output has closed it, which isn't a failure.
        let kind = if error.kind() == io::ErrorKind::BrokenPipe { ErrorKind::ReaderGone } else { ErrorKind::Failed };
        Self::new(kind, "can't write to standard output").because(describe(&error))
    }
}

impl From<AttachHelperError> for Error {
    fn from(error: AttachHelperError) -> Self {
        let kind = match &error {
            AttachHelperError::Failed { errno: Errno::EPERM | Errno::EACCES, .. } => ErrorKind::NotPermitted,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<crate::host::server_cgroup::ServerInsideSubtree> for Error {
    fn from(error: crate::host::server_cgroup::ServerInsideSubtree) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<crate::host::Attached> for Error {
    fn from(error: crate::host::Attached) -> Self {
        let kind = if error.errno == Errno::EPERM { ErrorKind::NotPermitted } else { ErrorKind::Failed };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_cause_and_remedy() {
        let error = || Error::failed("can't open x");
        assert_eq!(error().to_string(), "can't open x");
        assert_eq!(error().because("it has ended").to_string(), "can't open x: it has ended");
        assert_eq!(error().advise("try again").to_string(), "can't open x: try again");
        assert_eq!(
            error().because("it has ended").advise("try again").to_string(),
            "can't open x: it has ended; try again"
        );
        let refused = Error::system("can't open x", io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(refused.to_string(), "can't open x: Permission denied (EACCES)");
        assert_eq!(refused.kind(), ErrorKind::NotPermitted);
    }
}
