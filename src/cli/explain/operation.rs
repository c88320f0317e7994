//! The operations that `explain` knows.

use clap::ValueEnum;

use crate::fs::explain::Question;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Operation {
    /// Find the path
    Lookup,
    /// Read the file, or list the cgroup
    Read,
    /// Write the file
    Write,
    /// Set the file's length
    Truncate,
    /// Make a cgroup of that name
    Mkdir,
    /// Remove the cgroup
    Rmdir,
    /// Rename the cgroup: rename OLD NEW. With one path, only that end is judged
    Rename,
    /// Change the permission bits
    Chmod,
    /// Change the owner
    Chown,
    /// Change the times
    Utimens,
    /// Set or remove an extended attribute
    Setxattr,
    /// Migrate a process into the cgroup
    Migrate,
    /// Start a process in the cgroup (clone3 with CLONE_INTO_CGROUP)
    CloneInto,
    /// Create a file of that name
    Create,
    /// Remove the file
    Unlink,
    /// Make a hard link
    Link,
    /// Make a symlink
    Symlink,
    /// Make a device or a fifo
    Mknod,
}

impl From<Operation> for Question {
    fn from(operation: Operation) -> Self {
        use crate::policy::Operation as Policy;
        match operation {
            Operation::Lookup | Operation::Read => Self::Of(Policy::Read),
            Operation::Write => Self::Of(Policy::Write),
            Operation::Truncate => Self::Truncate,
            Operation::Rmdir => Self::Of(Policy::RemoveDirectory),
            Operation::Rename => Self::Of(Policy::Rename),
            Operation::Chmod | Operation::Chown | Operation::Utimens => Self::Of(Policy::ChangeAttributes),
            Operation::Setxattr => Self::Of(Policy::ChangeXattrs),
            Operation::Migrate => Self::Migrate,
            Operation::CloneInto => Self::CloneInto,
            Operation::Mkdir => Self::In(Policy::MakeDirectory),
            Operation::Create => Self::In(Policy::CreateFile),
            Operation::Unlink => Self::Unlink,
            Operation::Link | Operation::Symlink | Operation::Mknod => Self::In(Policy::MakeNode),
        }
    }
}
