//! The kinds of requests that are told apart.

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the operation of that name")]
pub enum RequestKind {
    Lookup,
    Getattr,
    /// An open for reading only.
    Open,
    /// An open for writing.
    OpenWrite,
    Read,
    Write,
    Truncate,
    Readdir,
    Opendir,
    Readlink,
    Mkdir,
    Rmdir,
    Rename,
    Create,
    Mknod,
    Unlink,
    Link,
    Symlink,
    Chmod,
    Chown,
    Utimens,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Poll,
    Lseek,
    Fsync,
    Statfs,
    Release,
}

impl RequestKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 30] = [
        Self::Lookup,
        Self::Getattr,
        Self::Open,
        Self::OpenWrite,
        Self::Read,
        Self::Write,
        Self::Truncate,
        Self::Readdir,
        Self::Opendir,
        Self::Readlink,
        Self::Mkdir,
        Self::Rmdir,
        Self::Rename,
        Self::Create,
        Self::Mknod,
        Self::Unlink,
        Self::Link,
        Self::Symlink,
        Self::Chmod,
        Self::Chown,
        Self::Utimens,
        Self::Setxattr,
        Self::Getxattr,
        Self::Listxattr,
        Self::Removexattr,
        Self::Poll,
        Self::Lseek,
        Self::Fsync,
        Self::Statfs,
        Self::Release,
    ];

    /// Its stable name, for scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Getattr => "getattr",
            Self::Open => "open",
            Self::OpenWrite => "open-write",
            Self::Read => "read",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Readdir => "readdir",
            Self::Opendir => "opendir",
            Self::Readlink => "readlink",
            Self::Mkdir => "mkdir",
            Self::Rmdir => "rmdir",
            Self::Rename => "rename",
            Self::Create => "create",
            Self::Mknod => "mknod",
            Self::Unlink => "unlink",
            Self::Link => "link",
            Self::Symlink => "symlink",
            Self::Chmod => "chmod",
            Self::Chown => "chown",
            Self::Utimens => "utimens",
            Self::Setxattr => "setxattr",
            Self::Getxattr => "getxattr",
            Self::Listxattr => "listxattr",
            Self::Removexattr => "removexattr",
            Self::Poll => "poll",
            Self::Lseek => "lseek",
            Self::Fsync => "fsync",
            Self::Statfs => "statfs",
            Self::Release => "release",
        }
    }

    /// The name of what it's about, as `explain` and the log have it: an open is about what it opens for.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Open => Self::Read.name(),
            Self::OpenWrite => Self::Write.name(),
            other => other.name(),
        }
    }

    /// The kind with this number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back() {
        for (number, kind) in (0..).zip(RequestKind::ALL) {
            assert_eq!((kind as u8, RequestKind::of_number(number)), (number, Some(kind)));
            assert_eq!(RequestKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(RequestKind::of_number(200), None);
    }
}
