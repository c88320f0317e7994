//! The errors of the filesystem.

use nix::errno::Errno;

use crate::policy::{Denial, Rule};

/// The error of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FsError {
    /// The kernel refused, with this errno.
    Kernel(Errno),
    /// The policy denied it.
    Denied(Denial),
}

impl FsError {
    /// The errno that the caller gets.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Kernel(errno) => *errno,
            Self::Denied(denial) => denial.errno(),
        }
    }
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<Denial> for FsError {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Rule> for FsError {
    fn from(rule: Rule) -> Self {
        Denial::new(rule).into()
    }
}

/// The result of a system call: a value, or the kernel's errno, verbatim.
pub type SysResult<T> = Result<T, Errno>;

/// The result of an operation.
pub type FsResult<T> = Result<T, FsError>;
