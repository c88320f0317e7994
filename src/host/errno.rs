//! Converts errors of the standard library to errnos.

use nix::errno::Errno;

/// The errno of an error; `EIO` if it isn't a system call's.
pub(super) fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// An errno that may be missing as a number, for `#[serde(with = "...")]`.
pub(super) mod optional {
    use nix::errno::Errno;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::host) fn serialize<S: Serializer>(errno: &Option<Errno>, to: S) -> Result<S::Ok, S::Error> {
        errno.map(|errno| errno as i32).serialize(to)
    }

    pub(in crate::host) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Errno>, D::Error> {
        Ok(Option::<i32>::deserialize(from)?.map(Errno::from_raw))
    }
}
