//! The flags of a mount, besides read-only.
//!
//! A remount can't remove a flag of a mount that is locked, or in a user namespace. systemd and sandboxes remount
//! existing mounts read-only. They use the flags that mountinfo shows for the first mount with that mount point. So a
//! view's mounts have the flags of the mounts that they cover.

use std::ffi::CString;

use nix::mount::MsFlags;

/// The flags of a mount, besides read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFlags(MsFlags);

/// mountinfo's names of the flags. The first three can only be added; the others are alternatives.
const NAMES: [(&str, MsFlags); 6] = [
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
];
const RESTRICTIONS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const ACCESS_TIMES: MsFlags = MsFlags::MS_NOATIME.union(MsFlags::MS_NODIRATIME).union(MsFlags::MS_RELATIME);

impl MountFlags {
    /// The flags with which systemd mounts hierarchies.
    pub const HIERARCHY: Self = Self(RESTRICTIONS.union(MsFlags::MS_RELATIME));
    /// The flags with which systemd mounts the tmpfs around the hierarchies.
    pub const TMPFS: Self = Self(RESTRICTIONS);

    /// Reads the per-mount options of mountinfo. Unknown ones are left out.
    #[must_use]
    pub fn from_options(options: &str) -> Self {
        let known = options.split(',').filter_map(|word| NAMES.iter().find(|(name, _)| *name == word));
        Self(known.fold(MsFlags::empty(), |flags, (_, flag)| flags | *flag))
    }

    /// Returns the restrictions that both have, and the access times of `self`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self((self.0 & ACCESS_TIMES) | (self.0 & other.0 & RESTRICTIONS))
    }

    /// Returns the flags for mount(2), which always include an access time mode: otherwise mount(2) uses `relatime`,
    /// or changes nothing.
    pub(super) fn for_mount(self) -> MsFlags {
        if self.0.intersects(MsFlags::MS_NOATIME | MsFlags::MS_RELATIME) {
            self.0
        } else {
            self.0 | MsFlags::MS_STRICTATIME
        }
    }

    /// Encodes the flags as a word of a request.
    pub(super) fn word(self) -> CString {
        let names: Vec<&str> = NAMES.iter().filter(|(_, flag)| self.0.contains(*flag)).map(|(name, _)| *name).collect();
        // There's no NUL in these names.
        CString::new(names.join(",")).unwrap_or_default()
    }

    /// Decodes such a word. Returns `None` for any other text.
    pub(super) fn from_word(word: &[u8]) -> Option<Self> {
        let flags = Self::from_options(std::str::from_utf8(word).ok()?);
        (flags.word().to_bytes() == word).then_some(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for options in ["", "nosuid", "nosuid,nodev,noexec,relatime", "noexec,noatime,nodiratime", "nodiratime"] {
            let flags = MountFlags::from_options(options);
            assert_eq!(flags.word().to_bytes(), options.as_bytes());
            assert_eq!(MountFlags::from_word(options.as_bytes()), Some(flags));
        }
        for word in ["rw", "ro,nosuid", "noexec,nodev", "suid", "nosuid,", "nosuid,nosuid", "bind", "remount"] {
            assert_eq!(MountFlags::from_word(word.as_bytes()), None, "{word}");
        }
        assert_eq!(MountFlags::from_word(b"nosuid\xff"), None);
        assert_eq!(MountFlags::from_options("ro,nosuid,nodev,noexec,relatime,x=y"), MountFlags::HIERARCHY);
        assert_eq!(MountFlags::TMPFS.word().to_bytes(), b"nosuid,nodev,noexec");
    }

    #[test]
    fn times_are_always_said() {
        let given = |options| MountFlags::from_options(options).for_mount();
        assert_eq!(given("nodev"), MsFlags::MS_NODEV | MsFlags::MS_STRICTATIME);
        assert_eq!(given("relatime"), MsFlags::MS_RELATIME);
        assert_eq!(given("noatime,nodiratime"), MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME);
        assert_eq!(given("nodiratime"), MsFlags::MS_NODIRATIME | MsFlags::MS_STRICTATIME);
    }

    #[test]
    fn what_all_have() {
        let both = |a, b| MountFlags::from_options(a).and(MountFlags::from_options(b));
        assert_eq!(both("nosuid,nodev,relatime", "nodev,noexec,noatime"), MountFlags::from_options("nodev,relatime"));
        assert_eq!(both("noatime", "nosuid"), MountFlags::from_options("noatime"));
    }
}
