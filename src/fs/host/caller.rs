//! Whoever makes a request.

/// Whoever makes a request, as FUSE's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its *thread* id in the server's pid namespace; 0 if it can't be seen from there.
    pub tid: i32,
    /// Its fsuid.
    pub uid: u32,
    /// Its fsgid.
    pub gid: u32,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}
