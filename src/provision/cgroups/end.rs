//! The end of the processes in cgroups that were made for them. What is frozen can't be killed on v1, and doesn't see a signal on v2 either.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::HierarchyClass;
use crate::host::server_cgroup::{read_file, write_file};
use crate::provision::cgroups::{CreatedCgroup, CreatedCgroups, children, open_directory};

/// How long processes that were killed may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often they are looked for meanwhile: those that were forked, or frozen once more, since the last time.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

impl CreatedCgroups {
    /// Thaws what is frozen in them or below, by whomever. Those that run may freeze some again.
    pub(crate) fn thaw(&self) {
        for own in &self.cgroups {
            let (file, state) = match own.kind.class() {
                HierarchyClass::Unified => ("cgroup.freeze", "0"),
                _ if own.kind.controllers().is_some_and(|all| all.contains("freezer")) => ("freezer.state", "THAWED"),
                _ => continue,
            };
            // Where there's none, nothing is frozen: in a root, and before Linux 5.2 on v2.
            own.visit(|directory| {
                let _ = write_file(directory, file, state.as_bytes());
            });
        }
    }

    /// Thaws and kills all processes that are in them or below, and waits for their end, but not for ever.
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
    /// Kills what is in it or below, and returns whom.
    fn kill(&self) -> Vec<i32> {
        let mut found = Vec::new();
        self.visit(|directory| {
            // A threaded cgroup of v2 lists no processes; those of its threads are in the one above.
            let list = read_file(directory, "cgroup.procs").unwrap_or_default();
            // 0: in none of this pid namespace's cgroups, or in another one.
            let here = list.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid > 0);
            found.extend(here.filter(|pid| pid.cast_unsigned() != std::process::id()));
        });
        // At once and whoever is forked meanwhile; Linux 5.14, on v2.
        let is_killed = !found.is_empty()
            && self.kind.class() == HierarchyClass::Unified
            && self.open().and_then(|top| write_file(&top, "cgroup.kill", b"1")).is_ok();
        for pid in found.iter().filter(|_| !is_killed) {
            // Since it was listed its number may have gone to another's process.
            if super::is_within(*pid, &self.kind, &self.path) {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        found
    }

    /// Calls `visit` with this cgroup and all below, the upper ones first. How many they are, and how deep, is up to the container; one
    /// directory is open at a time. What is removed meanwhile is left out.
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
        // It's gone with all that was in it.
        let _ = walk();
    }
}
