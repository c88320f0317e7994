//! The caller of a request.

/// The thread that makes a request, as FUSE's header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its *thread* id in the server's pid namespace; 0 if the thread isn't visible from there.
    pub tid: i32,
    /// Its filesystem user id (fsuid).
    pub uid: u32,
    /// Its filesystem group id (fsgid).
    pub gid: u32,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}
