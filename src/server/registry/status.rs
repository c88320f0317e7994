//! The status of a view: which processes serve it, and how often that failed.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cgroup::stat_field;

/// The part of a record that changes while the view exists. See [`super::Registered::update`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The process id of the current server, or of the last one. The keeper's if none was started yet.
    pub(crate) server: u32,
    /// The process id of the keeper, which starts the server again. `None` for a server without one.
    #[serde(default)]
    pub(crate) keeper: Option<u32>,
    pub(crate) state: ServerState,
    /// The version of the program that serves it. `None` for one that didn't say.
    #[serde(default)]
    pub(crate) version: Option<String>,
    /// How many times the server was started again.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// When the server was last started again, in seconds since 1970.
    #[serde(default)]
    pub(crate) last_restart: Option<u64>,
    /// Why the last server ended, or why the keeper has given up, in the user's words: `killed by SIGKILL`.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Whether a view is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServerState {
    /// The server is being started, for the first time or again. Callers of the view wait.
    Starting,
    /// The view is served.
    Live,
    /// Nobody serves the view any more. Callers get an error.
    Failed,
}

impl ServerState {
    /// The word for it, as in the record.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Failed => "failed",
        }
    }
}

impl Status {
    /// The status of a view whose server has no keeper.
    pub(crate) fn of_server(server: u32) -> Self {
        Self {
            server,
            keeper: None,
            state: ServerState::Live,
            version: None,
            restarts: 0,
            last_restart: None,
            reason: None,
        }
    }

    /// The status of a view whose keeper has started no server yet.
    pub(crate) fn of_keeper(keeper: u32) -> Self {
        Self { keeper: Some(keeper), state: ServerState::Starting, ..Self::of_server(keeper) }
    }
}

/// The time now, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// When a process was started, in clock ticks since the boot. With its id this names a process for good.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    // Fields `state` and `starttime` (proc_pid_stat(5)). The command may have bytes that aren't text.
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let has_ended = stat_field(&stat, 3).is_none_or(|state| "ZXx".contains(state));
    stat_field(&stat, 22).filter(|_| !has_ended)?.parse().ok()
}

/// Whether the process that was started then runs.
pub(crate) fn is_running(pid: u32, start: u64) -> bool {
    start_time(pid) == Some(start)
}
