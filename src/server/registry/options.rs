//! The options of a view as its record has them, so that the same view can be made again.

use serde::{Deserialize, Serialize};

use crate::server::registry::record::EscapedName;

/// The options with which a view was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedOptions {
    /// The process of `mount --pid`.
    #[serde(default)]
    pub(crate) pid: Option<i32>,
    /// The cgroups that were named: in a hierarchy, or in each that has the cgroup.
    #[serde(default)]
    pub(crate) cgroups: Vec<(Option<String>, EscapedName)>,
    /// The shape, if one was named. The record itself has the shape that the view got.
    #[serde(default)]
    pub(crate) shape: Option<String>,
    pub(crate) policy: String,
    #[serde(default)]
    pub(crate) delegate_controllers: Vec<String>,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    #[serde(default)]
    pub(crate) hide_ancestor_limits: bool,
    /// The cgroup of `attach --place`.
    #[serde(default)]
    pub(crate) place: Option<String>,
    #[serde(default)]
    pub(crate) per_caller: bool,
    #[serde(default)]
    pub(crate) coherent: bool,
    #[serde(default)]
    pub(crate) no_passthrough: bool,
    #[serde(default)]
    pub(crate) log: LogOptions,
}

/// The options of the log that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogOptions {
    #[serde(default)]
    pub(crate) level: Option<String>,
    #[serde(default)]
    pub(crate) format: Option<String>,
    /// The absolute path of the file.
    #[serde(default)]
    pub(crate) file: Option<EscapedName>,
}
