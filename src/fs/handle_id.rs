//! The number of an open file.

/// The number of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

impl HandleId {
    /// What is open without anything being kept for it: directories, and files that the kernel reads by itself.
    pub const NONE: Self = Self(0);
}
