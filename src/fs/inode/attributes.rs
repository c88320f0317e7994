//! The attributes that stat(2) returns.

use std::time::SystemTime;

/// The attributes of an object, as in stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number; on kernfs the "cgroup id".
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The number of links.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// Preferred block size.
    pub block_size: u32,
    /// Access, modification and change time.
    pub times: [SystemTime; 3],
}

impl Attributes {
    /// Whether it's a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}
