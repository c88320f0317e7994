//! Paths and names from the kernel in JSON.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupPath;
use crate::cgroup::mountinfo::{escape, unescape};

/// A path or name from the kernel, which needn't be UTF-8. JSON has it with escapes as in `/proc/PID/mountinfo`:
/// `\ooo` for a byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(crate) struct EscapedName(OsString);

impl From<String> for EscapedName {
    fn from(escaped: String) -> Self {
        Self(unescape(escaped.as_bytes()))
    }
}

impl From<EscapedName> for String {
    fn from(name: EscapedName) -> Self {
        name.escaped()
    }
}

impl From<&CgroupPath> for EscapedName {
    fn from(path: &CgroupPath) -> Self {
        let below = path.components().join(OsStr::new("/"));
        Self([OsStr::new("/"), &below].into_iter().collect())
    }
}

impl From<&OsStr> for EscapedName {
    fn from(name: &OsStr) -> Self {
        Self(name.to_owned())
    }
}

impl AsRef<Path> for EscapedName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl EscapedName {
    /// Returns the name with escapes: text without control characters that can be decoded.
    pub(crate) fn escaped(&self) -> String {
        escape(self.0.as_bytes())
    }

    /// The name for people, with bytes that aren't UTF-8 replaced.
    pub(crate) fn shown(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    /// The name with the escapes of all printed output.
    pub(crate) fn printed(&self) -> String {
        crate::cgroup::escaped(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_text_comes_back() {
        let name = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/a\xff \\040\n\xc3\xa4");
        let name = EscapedName::from(name);
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(json, r#""/a\\377 \\134040\\012ä""#);
        assert_eq!(serde_json::from_str::<EscapedName>(&json).unwrap(), name);
    }
}
