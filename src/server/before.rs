//! What a server has to know of those before it.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// What a server has to know of those before it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Before {
    /// Whether the view was live.
    pub(crate) is_live: bool,
    /// Whether the command that attaches had finished.
    pub(crate) is_committed: bool,
    /// Whether the view was told to end.
    #[serde(default)]
    pub(crate) is_ending: bool,
    /// The keeper's copies of the descriptors of the view's own mount. `None` if that was no longer needed.
    #[serde(skip)]
    pub(crate) self_mount_copies: Option<[RawFd; 2]>,
}
