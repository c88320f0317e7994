//! The id of an open file.

/// The id of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

impl HandleId {
    /// The handle of directories, and of files that the kernel reads itself: the server keeps no state for them.
    pub const NONE: Self = Self(0);
}
