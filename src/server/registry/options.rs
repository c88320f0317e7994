//! The options of a view as its record has them, so that the same view can be made again.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use crate::server::registry::record::EscapedName;

/// The options with which a view was made. Those that weren't given are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedOptions {
    /// The process of `mount --pid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// The cgroups that were named, as on the command line: `[HIERARCHY=]PATH`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cgroup: Vec<EscapedName>,
    /// The shape, if one was named. The record itself has the shape that the view got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<String>,
    pub(crate) policy: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) delegate_controllers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aliases: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hide_ancestor_limits: bool,
    /// The cgroup of `attach --place`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) per_caller: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) coherent: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_passthrough: bool,
    #[serde(default, skip_serializing_if = "LogOptions::is_empty")]
    pub(crate) log: LogOptions,
}

/// The options of the log that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) level: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<String>,
    /// The absolute path of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<EscapedName>,
}

impl LogOptions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The options as words of a command line.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let level = self.level.as_ref().map(|level| ["--log-level".into(), level.into()]);
        let format = self.format.as_ref().map(|format| ["--log-format".into(), format.into()]);
        let file = self.file.as_ref().map(|file| ["--log-file".into(), file.as_ref().as_os_str().to_owned()]);
        [level, format, file].into_iter().flatten().flatten().collect()
    }
}
