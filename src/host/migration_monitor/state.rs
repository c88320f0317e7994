//! What is known of migrations, and of who else has written pid lists.

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

/// Looks for others who migrate processes.
#[derive(Debug, Default)]
pub(in crate::host) struct MigrationMonitor {
    /// No request waits for whoever holds it for longer than a few system calls.
    pub(super) state: Mutex<MonitorState>,
    /// Wakes the thread, when it looks seldom.
    pub(super) begun: Condvar,
    pub(super) log: LogLimiter,
    /// Whether it has been said that nothing can be seen.
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
    /// When all that had been written until then was read.
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
    /// The write that somebody else has made meanwhile.
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
