//! A cgroup's path in its hierarchy.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::mountinfo::{escape, unescape};

/// The longest name of a cgroup, in bytes: the longest that fits in a path (`PATH_MAX`, with its NUL). A cgroupfs
/// itself has no limit, although its statfs(2) returns 255.
pub const NAME_MAX: usize = 4095;

/// A cgroup's path from the root of its hierarchy, kept as components, so that paths are compared component by component.
///
/// No component is empty, `.` or `..`, so no path leads upwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath {
    components: Vec<OsString>,
}

/// Why a string isn't a [`CgroupPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It doesn't begin with `/`.
    #[error("a cgroup's path begins with '/'")]
    NotAbsolute,
    /// A component is `.` or `..`.
    #[error("it has a component '.' or '..'")]
    Dots,
    /// A component holds a NUL byte, a newline or a `/`: no cgroup has such a name.
    #[error("a name of a cgroup has no '/', line break or NUL")]
    ForbiddenByte,
    /// A component is longer than [`NAME_MAX`] bytes, or a single name is empty.
    #[error("a name of a cgroup has 1 to 4095 bytes")]
    NameLength,
}

impl TryFrom<String> for CgroupPath {
    type Error = PathError;

    /// Reads a path with escapes as in `/proc/PID/mountinfo`.
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(unescape(text.as_bytes()))
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        escape(path.to_os_string().as_bytes())
    }
}

impl CgroupPath {
    /// The root of a hierarchy, `/`.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses an absolute path; repeated and trailing slashes are ignored.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Self, PathError> {
        let bytes = text.as_ref().as_bytes();
        let Some(rest) = bytes.strip_prefix(b"/") else {
            return Err(PathError::NotAbsolute);
        };
        let mut components = Vec::new();
        for part in rest.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            check_name(part)?;
            components.push(OsString::from_vec(part.to_vec()));
        }
        Ok(Self { components })
    }

    /// The path of these components, which are names of existing directories.
    pub fn from_components(components: Vec<OsString>) -> Self {
        Self { components }
    }

    /// The components from the root down.
    pub fn components(&self) -> &[OsString] {
        &self.components
    }

    /// The path as the kernel writes it, byte by byte.
    pub fn to_os_string(&self) -> OsString {
        let mut text = OsString::new();
        for component in &self.components {
            text.push("/");
            text.push(component);
        }
        if text.is_empty() { OsString::from("/") } else { text }
    }

    /// The number of components; 0 for the root.
    pub fn depth(&self) -> usize {
        self.components.len()
    }

    /// Whether it's the root of the hierarchy.
    pub fn is_root(&self) -> bool {
        self.components.is_empty()
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&OsStr> {
        self.components.last().map(OsString::as_os_str)
    }

    /// Returns the parent; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.components.split_last()?;
        Some(Self { components: above.to_vec() })
    }

    /// The child with this name.
    ///
    /// # Errors
    /// When `name` can't be a cgroup's name.
    pub fn join(&self, name: impl AsRef<OsStr>) -> Result<Self, PathError> {
        let name = name.as_ref();
        check_name(name.as_bytes())?;
        let mut components = self.components.clone();
        components.push(name.to_os_string());
        Ok(Self { components })
    }

    /// This path with another one's components below it.
    pub fn join_path(&self, below: &Self) -> Self {
        let mut components = self.components.clone();
        components.extend(below.components.iter().cloned());
        Self { components }
    }

    /// Whether it's `other` or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.components.starts_with(&other.components)
    }

    /// The path from `ancestor` to this one; `None` if this isn't within `ancestor`.
    pub fn relative_to(&self, ancestor: &Self) -> Option<Self> {
        let rest = self.components.strip_prefix(ancestor.components.as_slice())?;
        Some(Self { components: rest.to_vec() })
    }

    /// The deepest cgroup that contains both.
    pub fn common_ancestor(&self, other: &Self) -> Self {
        let shared = self.components.iter().zip(&other.components).take_while(|(a, b)| a == b);
        Self { components: shared.map(|(a, _)| a.clone()).collect() }
    }

    /// The path of its first `depth` components, or of all if it has fewer.
    pub fn prefix(&self, depth: usize) -> Self {
        Self { components: self.components.iter().take(depth).cloned().collect() }
    }
}

/// Checks that `name` can be the name of a cgroup.
///
/// # Errors
/// See [`PathError`].
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(PathError::NameLength);
    }
    if name == b"." || name == b".." {
        return Err(PathError::Dots);
    }
    // cgroup_mkdir() refuses '\n', since /proc/PID/cgroup has one line per hierarchy.
    if name.iter().any(|byte| matches!(byte, b'/' | b'\0' | b'\n')) {
        return Err(PathError::ForbiddenByte);
    }
    Ok(())
}

/// Prints the path for people. Escapes in it can't be decoded ([`escaped`](super::escaped)).
impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("/");
        }
        for component in &self.components {
            write!(f, "/{}", super::escaped(component))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> CgroupPath {
        CgroupPath::parse(text).unwrap()
    }

    #[test]
    fn reads_and_prints() {
        for (text, printed, depth) in
            [("/", "/", 0), ("//", "/", 0), ("/a", "/a", 1), ("//a///b/", "/a/b", 2), ("/a b/\\x", "/a b/\\x", 2)]
        {
            assert_eq!((path(text).to_string().as_str(), path(text).depth()), (printed, depth), "{text}");
        }
    }

    #[test]
    fn refuses() {
        let long = format!("/{}", "x".repeat(NAME_MAX + 1));
        for (text, error) in [
            ("", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("/..", PathError::Dots),
            ("/a/../b", PathError::Dots),
            ("/a/.", PathError::Dots),
            ("/a\nb", PathError::ForbiddenByte),
            ("/a\0b", PathError::ForbiddenByte),
            (long.as_str(), PathError::NameLength),
        ] {
            assert_eq!(CgroupPath::parse(text), Err(error), "{text:?}");
        }
        assert!(CgroupPath::root().join("a/b").is_err());
        assert!(CgroupPath::root().join("").is_err());
    }

    #[test]
    fn names_are_as_long_as_the_kernels() {
        let long = format!("/{}", "x".repeat(NAME_MAX));
        assert_eq!(path(&long).to_string(), long);
    }

    #[test]
    fn compares_components_not_letters() {
        assert!(!path("/lxc/c10").is_within(&path("/lxc/c1")));
        assert!(path("/lxc/c1/x").is_within(&path("/lxc/c1")));
        assert!(path("/lxc").is_within(&CgroupPath::root()));
        assert_eq!(path("/a/bc").common_ancestor(&path("/a/b")), path("/a"));
        assert_eq!(path("/a/b/c").relative_to(&path("/a")), Some(path("/b/c")));
        assert_eq!(path("/ab").relative_to(&path("/a")), None);
    }

    proptest! {
        #[test]
        fn printing_and_reading_again_is_the_identity(parts in prop::collection::vec("[a-z.@:\\\\ ]{1,12}", 0..6)) {
            prop_assume!(parts.iter().all(|part| part != "." && part != ".."));
            let text = format!("/{}", parts.join("/"));
            let parsed = path(&text);
            prop_assert_eq!(path(&parsed.to_string()), parsed);
        }

        #[test]
        fn no_bytes_make_it_panic_or_climb(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(parsed) = CgroupPath::parse(OsStr::from_bytes(&bytes)) {
                prop_assert!(parsed.components().iter().all(|name| check_name(name.as_bytes()).is_ok()));
            }
        }
    }
}
