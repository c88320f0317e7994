//! The state of a view as the program reads it that takes the view over.

use std::os::fd::OwnedFd;

use serde::Deserialize;

use crate::fuse::{AbortGuard, SelfMount};
use crate::records::descriptor;
use crate::server::before::Before;
use crate::server::control::ControlSocket;
use crate::server::handover::document::Served;
use crate::server::handover::stored::Stored;
use crate::server::handover::trial::Trial;
use crate::server::logging::ServerLog;
use crate::server::registry::Registered;
use crate::server::serve::Server;

/// What is read.
#[derive(Debug, Deserialize)]
pub(crate) struct State {
    pub(crate) served: Served<Server, SelfMount, AbortGuard>,
    #[serde(with = "descriptor")]
    pub(crate) records: OwnedFd,
    pub(crate) registered: Option<Registered>,
    pub(crate) control: Option<ControlSocket>,
    pub(crate) log: ServerLog,
    pub(crate) before: Before,
    /// Whether the program that reads this has to prove itself.
    pub(crate) trial: Option<Trial>,
    /// The mark of the filter of system calls that the process has.
    #[serde(default)]
    pub(crate) filter: u64,
    #[serde(default)]
    pub(crate) stored: Stored,
}
