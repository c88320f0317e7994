//! Ends the processes in cgroups that were made for them. A frozen process can't be killed on v1, and receives no
//! signal but SIGKILL on v2.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::HierarchyClass;
use crate::host::interface_file::{read_file, write_file};
use crate::provision::cgroups::CreatedCgroups;
use crate::provision::cgroups::created::{CreatedCgroup, is_within};
use crate::provision::cgroups::subtree::{children, open_directory};

/// How long killed processes may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look for processes that were forked, or frozen again, since the last time.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

impl CreatedCgroups {
    /// Thaws everything in and below the cgroups. Running processes may freeze some again.
    pub(crate) fn thaw(&self) {
        for own in &self.cgroups {
            let (file, state) = match own.kind.class() {
                HierarchyClass::Unified => ("cgroup.freeze", "0"),
                _ if own.kind.controllers().is_some_and(|all| all.contains("freezer")) => ("freezer.state", "THAWED"),
                _ => continue,
            };
            // A cgroup without this file isn't frozen: a root, or any cgroup of v2 before Linux 5.2.
            own.visit(|directory| {
                let _ = write_file(directory, file, state.as_bytes());
            });
        }
    }

    /// Thaws and kills all processes in and below the cgroups, and waits for their end up to a limit.
    pub(crate) fn end_processes(&self) {
        let start = Instant::now();
        loop {
            self.thaw();
            let mut left = Vec::new();
            self.cgroups.iter().for_each(|own| left.extend(own.kill()));
            if left.is_empty() {
                return;
            }
            if start.elapsed() > KILL_TIMEOUT {
                left.sort_unstable();
                left.dedup();
                return tracing::warn!(processes = ?left, "killed processes of the command don't end");
            }
            std::thread::sleep(KILL_INTERVAL);
        }
    }
}

impl CreatedCgroup {
    /// Kills the processes in and below the cgroup. Returns their ids.
    fn kill(&self) -> Vec<i32> {
        let mut found = Vec::new();
        self.visit(|directory| {
            // A threaded cgroup of v2 lists no processes. The domain cgroup above lists those of its threads.
            let list = read_file(directory, "cgroup.procs").unwrap_or_default();
            // 0 stands for a process of another pid namespace.
            let here = list.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid > 0);
            found.extend(here.filter(|pid| pid.cast_unsigned() != std::process::id()));
        });
        // Linux 5.14 on v2: this kills all at once, including processes that are forked meanwhile.
        let is_killed = !found.is_empty()
            && self.kind.class() == HierarchyClass::Unified
            && self.open().and_then(|top| write_file(&top, "cgroup.kill", b"1")).is_ok();
        for pid in found.iter().filter(|_| !is_killed) {
            // The number may have been reused since it was listed.
            if is_within(*pid, &self.kind, &self.path) {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        found
    }

    /// Calls `visit` with this cgroup and all below, parents first. Cgroups that are removed meanwhile are skipped.
    /// The container decides how many there are and how deep, so one directory is open at a time.
    fn visit(&self, mut visit: impl FnMut(&OwnedFd)) {
        let mut walk = || -> Result<(), Errno> {
            let mut at = self.open()?;
            visit(&at);
            let mut levels = vec![children(&at)?];
            while let Some(level) = levels.last_mut() {
                if let Some(name) = level.pop() {
                    if let Ok(below) = open_directory(&at, &name)
                        && let Ok(names) = children(&below)
                    {
                        visit(&below);
                        levels.push(names);
                        at = below;
                    }
                } else {
                    levels.pop();
                    if !levels.is_empty() {
                        at = open_directory(&at, std::ffi::OsStr::new(".."))?;
                    }
                }
            }
            Ok(())
        };
        // If the cgroup is gone, everything in it is gone, too.
        let _ = walk();
    }
}
