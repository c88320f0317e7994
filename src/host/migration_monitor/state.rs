//! The state of migrations, and of others' writes to pid lists.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nix::sys::fanotify::Fanotify;
use parking_lot::{Condvar, Mutex};

use crate::cgroup::CgroupPath;
use crate::host::proc::held_process::HeldProcess;
use crate::limit::LogLimiter;
use crate::view::View;

/// Detects others who migrate processes.
#[derive(Debug, Default)]
pub(in crate::host) struct MigrationMonitor {
    /// Held for no longer than a few system calls, so that requests don't wait long.
    pub(super) state: Mutex<MonitorState>,
    /// Wakes the thread while it checks less often.
    pub(super) begun: Condvar,
    pub(super) log: LogLimiter,
    /// Whether the log already says that nothing can be seen.
    pub(super) is_blind: AtomicBool,
    /// Device and inode of the program.
    pub(super) program: OnceLock<Option<(u64, u64)>>,
}

#[derive(Debug, Default)]
pub(super) struct MonitorState {
    pub(super) group: Option<Arc<Fanotify>>,
    /// The hierarchies that are marked.
    pub(super) marked: BTreeSet<usize>,
    pub(super) used: Option<Instant>,
    /// The time up to which all writes were read.
    pub(super) read: Option<Instant>,
    pub(super) is_lull: bool,
    pub(super) next: u64,
    pub(super) migrations: VecDeque<Migration>,
}

/// A migration by the container.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) id: u64,
    pub(super) hierarchy: usize,
    pub(super) view: Arc<View>,
    /// The write that somebody else has made during it.
    pub(super) foreign_write: Option<ForeignWrite>,
    pub(super) done: Option<(Instant, HeldProcess)>,
}

/// A write by somebody else to a list of processes.
#[derive(Clone, Debug)]
pub(super) struct ForeignWrite {
    /// The cgroup of the list; `None` if the queue overflowed.
    pub(super) cgroup: Option<CgroupPath>,
    /// The writer's process id; 0 if it isn't visible.
    pub(super) writer: i32,
}

impl MigrationMonitor {
    pub(super) fn wake(&self, is_lull: bool) {
        if is_lull {
            self.begun.notify_one();
        }
    }

    /// Whether a process is of this program: another view's server, its agents, or the command that starts and ends
    /// them. None of these takes processes out of a served container, and several views would report each other all
    /// the time.
    pub(super) fn is_own_program(&self, pid: i32) -> bool {
        let file = |of: &str| std::fs::metadata(format!("/proc/{of}/exe")).ok().map(|file| (file.dev(), file.ino()));
        let own = self.program.get_or_init(|| file("self"));
        own.is_some() && *own == file(&pid.to_string())
    }
}
