//! How long callers wait when a server is killed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use super::args::Plan;
use super::guard::{self, CgroupTree};
use super::host::{Hierarchy, Programs};
use super::subject::{Kind, Missing, Server};

/// How long the next server may take.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The pause before a kill: the server is idle, and what the start before has left is done.
const PAUSE: Duration = Duration::from_millis(300);

/// The times without answers, in milliseconds, the shortest first.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Gaps {
    pub(crate) millis: Vec<f64>,
}

impl Gaps {
    /// The time that this part of the kills doesn't exceed.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let rank = (part * self.millis.len() as f64).ceil() as usize;
        self.millis.get(rank.max(1) - 1).copied().unwrap_or_default()
    }
}

/// Kills servers of fresh views, while a caller asks all the time.
pub(crate) fn measure(
    plan: &Plan,
    programs: &Programs,
    hierarchy: &Hierarchy,
    base: &CgroupTree,
    kind: Kind,
    faults: &mut Vec<String>,
) -> Result<Result<Gaps, Missing>> {
    match kind {
        Kind::Kernel => return Ok(Err(Missing::Cannot("the kernel has no server"))),
        Kind::Lxcfs | Kind::Bindfs => return Ok(Err(Missing::Cannot("its mount ends with its server"))),
        Kind::Vcgroupfs | Kind::Before => {}
    }
    let mut millis = Vec::new();
    while millis.len() < plan.kills {
        guard::step(|| format!("kill servers of {}, {} of {}", kind.name(), millis.len(), plan.kills))?;
        let label = format!("{}-kills{}", kind.name(), millis.len());
        let path = base.path().join(&label);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let server = match Server::start(kind, programs, hierarchy, &path, &label) {
            Ok(server) => server,
            Err(missing) => return Ok(Err(missing)),
        };
        // Once for each view: the keeper pauses before it starts another one within a minute.
        let gap = gap(&server);
        let stopped = server.stop();
        match gap {
            Ok(gap) => millis.push(gap.as_secs_f64() * 1e3),
            Err(error) if guard::interrupted() => return Err(error),
            // A vcgroupfs of before may have had no keeper.
            Err(_) if kind == Kind::Before => return Ok(Err(Missing::Cannot("its view ends with its server"))),
            Err(error) => return Ok(Err(Missing::Failed(format!("{}: kills: {error:#}", kind.name())))),
        }
        faults.extend(stopped.err().map(|error| format!("{}: {error:#}", kind.name())));
    }
    millis.sort_by(f64::total_cmp);
    Ok(Ok(Gaps { millis }))
}

/// The process of a view that answers.
fn server_of(server: &Server) -> Option<u32> {
    let is_it =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "vcgroupfs");
    server.pids().into_iter().find(is_it)
}

/// Kills the server, and returns the longest time that a caller waits until the next one answers.
fn gap(server: &Server) -> Result<Duration> {
    std::thread::sleep(PAUSE);
    let killed = server_of(server).context("no server")?;
    ask(server.root())?;
    let start = Instant::now();
    kill(Pid::from_raw(killed.cast_signed()), Signal::SIGKILL)?;
    let mut longest = Duration::ZERO;
    loop {
        let asked = Instant::now();
        ask(server.root())?;
        longest = longest.max(asked.elapsed());
        // Until it has ended it may have answered.
        if server_of(server).is_some_and(|next| next != killed) {
            return Ok(longest);
        }
        if start.elapsed() > START_TIMEOUT {
            bail!("no other server was started");
        }
    }
}

/// Asks for what FUSE never caches.
fn ask(root: &Path) -> Result<()> {
    loop {
        match statvfs(root) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("statfs"),
        }
    }
}
