//! Names and paths, which needn't be UTF-8, as text in JSON: with escapes as in `/proc/PID/mountinfo`, `\ooo` for a byte.
//! For `#[serde(with = "...")]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::mountinfo::{escape, unescape};

/// Writes a name.
///
/// # Errors
/// Those of the format.
pub fn serialize<S: Serializer>(name: impl AsRef<OsStr>, to: S) -> Result<S::Ok, S::Error> {
    escape(name.as_ref().as_bytes()).serialize(to)
}

/// Reads a name.
///
/// # Errors
/// Those of the format.
pub fn deserialize<'a, D: Deserializer<'a>, T: From<OsString>>(from: D) -> Result<T, D::Error> {
    Ok(unescape(String::deserialize(from)?.as_bytes()).into())
}
