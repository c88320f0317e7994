//! The benchmark's own processes, and what `/proc` says about them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::guard;

/// Ticks per second in `/proc/PID/stat`: a constant of Linux's user interface.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// A child of the benchmark, terminated when dropped. Until then it stays waitable, so its number can't be reused.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    ended: bool,
}

impl Process {
    /// Starts a program whose output goes to the file `log`, in a process group of its own: a Ctrl-C on the terminal
    /// is the benchmark's to handle.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self::from_child(&child))
    }

    pub(crate) fn from_child(child: &Child) -> Self {
        Self::adopt(child.id())
    }

    /// Takes over a process that became the benchmark's child when its own parent ended.
    pub(crate) fn adopt(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        guard::add_process(pid);
        Self { pid, ended: false }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Whether the process waits for something. Fails if it has ended.
    pub(crate) fn is_asleep(&self) -> Result<bool> {
        match stat_fields(self.pid()).as_deref() {
            Some([state, ..]) if state != "Z" => Ok(state == "S"),
            _ => bail!("the process {} has ended", self.pid()),
        }
    }

    /// Whether the process has ended; reaps it. `Some(true)`: with status 0.
    pub(crate) fn try_wait(&mut self) -> Option<bool> {
        if self.ended {
            return Some(false);
        }
        let success = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => status == 0,
            Ok(WaitStatus::Signaled(..)) | Err(_) => false,
            Ok(_) => return None,
        };
        self.ended = true;
        guard::remove_process(self.pid);
        Some(success)
    }

    /// Waits up to `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<bool> {
        testkit::found_within(limit, || self.try_wait())
    }

    /// SIGTERM, then SIGKILL.
    pub(crate) fn terminate(&mut self) {
        for (signal, limit) in [(Signal::SIGTERM, 5), (Signal::SIGKILL, 5)] {
            if self.try_wait().is_some() {
                return;
            }
            let _ = kill(self.pid, signal);
            self.wait(Duration::from_secs(limit));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// Runs a program to its end and returns its output; an error has the output as its message.
///
/// The output goes through a file: a daemon that the program leaves behind may keep a pipe open for ever.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<String> {
    let mut process = Process::start(command, log)?;
    let status = process.wait(limit);
    let output = fs::read_to_string(log).unwrap_or_default().trim().to_owned();
    match status {
        Some(true) => Ok(output),
        Some(false) if output.is_empty() => bail!("failed without a message"),
        Some(false) => bail!("{output}"),
        None => bail!("not done after {} s", limit.as_secs()),
    }
}

/// Fields of `/proc/PID/stat` after the command name; the first is the state.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// All processes below `roots`, and `roots`.
pub(crate) fn with_descendants(roots: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(parent) = stat_fields(pid).and_then(|fields| fields.get(1)?.parse().ok()) else {
            continue;
        };
        children.entry(parent).or_default().push(pid);
    }
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found
}

/// The benchmark's direct children.
pub(crate) fn children() -> Vec<u32> {
    let own = std::process::id();
    with_descendants(&[own])
        .into_iter()
        .filter(|pid| stat_fields(*pid).and_then(|fields| fields.get(1)?.parse().ok()) == Some(own))
        .collect()
}

/// User and system time of the processes and of their children that ended, in ticks.
pub(crate) fn cpu_ticks(pids: &[u32]) -> u64 {
    let fields = pids.iter().filter_map(|pid| stat_fields(*pid));
    fields.map(|fields| fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()).sum()
}

/// Resident memory in KiB: `VmRSS`, and the proportional share (PSS).
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    pub(crate) pss_kib: u64,
    pub(crate) processes: usize,
}

pub(crate) fn memory(pids: &[u32]) -> Memory {
    let value = |pid: &u32, file: &str, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Memory {
        rss_kib: pids.iter().map(|pid| value(pid, "status", "VmRSS:")).sum(),
        pss_kib: pids.iter().map(|pid| value(pid, "smaps_rollup", "Pss:")).sum(),
        processes: pids.len(),
    }
}

/// Open descriptors of the processes.
pub(crate) fn descriptors(pids: &[u32]) -> usize {
    pids.iter().filter_map(|pid| Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())).sum()
}
