//! What the servers need: memory for many views, and its growth over many operations.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, read, unlinkat};

use super::args::Plan;
use super::guard::{self, CgroupTree};
use super::host::{Hierarchy, Programs, Version};
use super::kills::{self, Gaps};
use super::process::{self, Memory};
use super::site::{self, MANY_CHILDREN};
use super::subject::{Kind, Missing, Server};

/// Memory of a subject's servers, per number of views.
pub(crate) type MemoryCell = Result<Memory, Missing>;

const NO_SERVER: Missing = Missing::Cannot("the kernel has no server");

#[derive(Debug)]
pub(crate) struct Resources {
    /// The columns.
    pub(crate) kinds: &'static [Kind],
    /// Per number of views, per subject.
    pub(crate) memory: Vec<(usize, Vec<MemoryCell>)>,
    /// Per subject.
    pub(crate) growth: Vec<Result<Growth, Missing>>,
    /// Per subject.
    pub(crate) kills: Vec<Result<Gaps, Missing>>,
    pub(crate) faults: Vec<String>,
}

/// The state of a server at a point of the growth run.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Point {
    pub(crate) operations: u64,
    pub(crate) rss_kib: u64,
    pub(crate) descriptors: usize,
}

#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Growth {
    /// After the warm-up, in the middle, at the end.
    pub(crate) points: Vec<Point>,
    pub(crate) micros_per_operation: f64,
}

pub(crate) fn measure(plan: &Plan, programs: &Programs, hierarchy: &Hierarchy, base: &CgroupTree) -> Result<Resources> {
    let kinds = Kind::compared(programs);
    let mut resources =
        Resources { kinds, memory: Vec::new(), growth: Vec::new(), kills: Vec::new(), faults: Vec::new() };
    let mut columns = Vec::new();
    for &kind in kinds {
        columns.push(views(plan, programs, hierarchy, base, kind, &mut resources.faults)?);
    }
    for (index, count) in plan.views.iter().enumerate() {
        let cells = columns.iter().map(|column| column.get(index).cloned().unwrap_or(Err(NO_SERVER)));
        resources.memory.push((*count, cells.collect()));
    }
    if plan.operations > 0 {
        for &kind in kinds {
            resources.growth.push(growth(plan, programs, hierarchy, base, kind, &mut resources.faults)?);
        }
    }
    if plan.kills > 0 {
        for &kind in kinds {
            resources.kills.push(kills::measure(plan, programs, hierarchy, base, kind, &mut resources.faults)?);
        }
    }
    Ok(resources)
}

/// Mounts more and more views, each of a cgroup of its own, and reads the memory of all servers.
fn views(
    plan: &Plan,
    programs: &Programs,
    hierarchy: &Hierarchy,
    base: &CgroupTree,
    kind: Kind,
    faults: &mut Vec<String>,
) -> Result<Vec<MemoryCell>> {
    if kind == Kind::Kernel {
        return Ok(vec![Err(NO_SERVER); plan.views.len()]);
    }
    let mut servers: Vec<Server> = Vec::new();
    let mut cells = Vec::new();
    for count in &plan.views {
        // lxcfs: one server for all containers.
        let wanted = if kind == Kind::Lxcfs { 1 } else { *count };
        let mut started = Ok(());
        while servers.len() < wanted && started.is_ok() {
            guard::step(|| format!("mount view {} of {}", servers.len() + 1, kind.name()))?;
            let label = format!("{}-view{}", kind.name(), servers.len());
            let path = base.path().join(&label);
            fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
            started = Server::start(kind, programs, hierarchy, &path, &label).and_then(|server| {
                // A server that was never used may not have allocated what it needs.
                let listed = fs::read_dir(server.root()).map(Iterator::count);
                servers.push(server);
                listed.map(drop).map_err(|error| Missing::Failed(format!("{}: list the view: {error}", kind.name())))
            });
        }
        if let Err(missing) = started {
            cells.resize(plan.views.len(), Err(missing));
            break;
        }
        // The time is what is measured: the servers are left alone.
        sleep(plan.idle);
        let pids: Vec<_> = servers.iter().flat_map(Server::pids).collect();
        cells.push(Ok(process::memory(&pids)));
    }
    for server in servers {
        guard::step(|| format!("umount the views of {}", kind.name()))?;
        if let Err(error) = server.stop() {
            faults.push(format!("{}: {error:#}", kind.name()));
        }
    }
    Ok(cells)
}

/// A mix of operations, over and over, on a fresh server.
fn growth(
    plan: &Plan,
    programs: &Programs,
    hierarchy: &Hierarchy,
    base: &CgroupTree,
    kind: Kind,
    faults: &mut Vec<String>,
) -> Result<Result<Growth, Missing>> {
    if kind == Kind::Kernel {
        return Ok(Err(NO_SERVER));
    }
    guard::step(|| format!("mount {} for the growth run", kind.name()))?;
    let label = format!("{}-growth", kind.name());
    let path = base.path().join(&label);
    // The cgroups shall be old when the server is started.
    site::populate(&path)?;
    let server = match Server::start(kind, programs, hierarchy, &path, &label) {
        Ok(server) => server,
        Err(missing) => return Ok(Err(missing)),
    };
    let result = mix_with_points(plan, hierarchy, kind, &server);
    if let Err(error) = server.stop() {
        faults.push(format!("{}: {error:#}", kind.name()));
    }
    match result {
        Ok(growth) => Ok(Ok(growth)),
        Err(error) if guard::interrupted() => Err(error),
        Err(error) => Ok(Err(Missing::Failed(format!("{}: growth run: {error:#}", kind.name())))),
    }
}

fn mix_with_points(plan: &Plan, hierarchy: &Hierarchy, kind: Kind, server: &Server) -> Result<Growth> {
    let root = open(server.root(), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .context("open the view")?;
    let mut mix = Mix::new(root, hierarchy.version);
    let point = |operations| {
        let pids = server.pids();
        let memory = process::memory(&pids);
        Point { operations, rss_kib: memory.rss_kib, descriptors: process::descriptors(&pids) }
    };
    // Once over every cgroup: what is kept per cgroup in use isn't growth.
    for _ in 0..MANY_CHILDREN {
        mix.cycle()?;
    }
    let cycles = (plan.operations / Mix::OPERATIONS).max(2);
    let mut points = vec![point(0)];
    let start = Instant::now();
    for done in 1..=cycles {
        mix.cycle()?;
        if done % 256 == 0 {
            guard::step(|| format!("growth run on {}, {} operations", kind.name(), done * Mix::OPERATIONS))?;
        }
        if done == cycles / 2 || done == cycles {
            points.push(point(done * Mix::OPERATIONS));
        }
    }
    let micros_per_operation = start.elapsed().as_secs_f64() * 1e6 / (cycles * Mix::OPERATIONS) as f64;
    Ok(Growth { points, micros_per_operation })
}

/// Reads, stats and lists existing cgroups in turn; makes, uses and removes new ones, never with the same name.
struct Mix {
    root: OwnedFd,
    file: &'static str,
    done: u64,
}

impl Mix {
    const OPERATIONS: u64 = 10;

    fn new(root: OwnedFd, version: Version) -> Self {
        let file = if version == Version::V1 { "pids.current" } else { "cpu.stat" };
        Self { root, file, done: 0 }
    }

    fn read(&self, path: &str) -> Result<()> {
        let file = openat(&self.root, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let mut buffer = [0; 4096];
        let count = read(&file.with_context(|| format!("open {path}"))?, &mut buffer);
        anyhow::ensure!(count.with_context(|| format!("read {path}"))? > 0, "{path} is empty");
        Ok(())
    }

    fn cycle(&mut self) -> Result<()> {
        let done = self.done;
        self.done += 1;
        for step in 0..4 {
            self.read(&format!("many/c{:04}/{}", (done + step * 250) % MANY_CHILDREN as u64, self.file))?;
        }
        for step in 0..2 {
            let path = format!("many/c{:04}/cgroup.procs", (done + step * 500) % MANY_CHILDREN as u64);
            fstatat(&self.root, path.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).with_context(|| format!("stat {path}"))?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        for entry in Dir::from_fd(openat(&self.root, c"few", flags, Mode::empty()).context("open few")?)? {
            entry.context("readdir")?;
        }
        let new = CString::new(format!("new/n{done}"))?;
        mkdirat(&self.root, new.as_c_str(), Mode::from_bits_truncate(0o755)).context("mkdir")?;
        self.read(&format!("new/n{done}/{}", self.file))?;
        unlinkat(&self.root, new.as_c_str(), UnlinkatFlags::RemoveDir).context("rmdir")
    }
}
