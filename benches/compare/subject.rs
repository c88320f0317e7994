//! The subjects, and how each is mounted on a test cgroup.

use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::guard::Mounted;
use super::host::{Hierarchy, Programs, Version, WORK, is_mounted};
use super::process::{self, Process};

/// How long a server may take to mount, or to end.
const SERVER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Kernel,
    Vcgroupfs,
    Lxcfs,
    Bindfs,
    /// Another vcgroupfs.
    Before,
}

impl Kind {
    /// The subjects that are compared with these programs, the kernel first.
    pub(crate) fn compared(programs: &Programs) -> &'static [Self] {
        match programs.before {
            // A change is measured.
            Some(_) => &[Self::Kernel, Self::Vcgroupfs, Self::Before],
            None => &[Self::Kernel, Self::Vcgroupfs, Self::Lxcfs, Self::Bindfs],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Vcgroupfs => "vcgroupfs",
            Self::Lxcfs => "lxcfs",
            Self::Bindfs => "bindfs",
            Self::Before => "before",
        }
    }
}

/// Why there is no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The program isn't there.
    NotInstalled,
    /// The program is there and doesn't serve: its message.
    NotAvailable(String),
    /// The subject has no such thing.
    Cannot(&'static str),
    /// The operation failed, or did something else than it said.
    Failed(String),
}

impl Missing {
    /// Whether the run as a whole has failed.
    pub(crate) fn is_error(&self, require_all: bool) -> bool {
        match self {
            Self::Cannot(_) => false,
            Self::Failed(_) => true,
            Self::NotInstalled | Self::NotAvailable(_) => require_all,
        }
    }
}

/// What a cell of a table says; the reason follows in a footnote.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInstalled => "not installed",
            Self::NotAvailable(_) => "not available",
            Self::Cannot(_) => "-",
            Self::Failed(_) => "FAILED",
        })
    }
}

/// A running server with its mount.
#[derive(Debug)]
pub(crate) struct Server {
    processes: Vec<Process>,
    dir: PathBuf,
    umount: Option<PathBuf>,
    /// Where the test cgroup appears.
    root: PathBuf,
    mounted: Option<Mounted>,
}

impl Server {
    /// Serves `cgroup`, a path below the hierarchy's mountpoint; `label` names the mountpoint.
    pub(crate) fn start(
        kind: Kind,
        programs: &Programs,
        hierarchy: &Hierarchy,
        cgroup: &Path,
        label: &str,
    ) -> Result<Self, Missing> {
        let result = match kind {
            Kind::Kernel => Ok(Self {
                processes: Vec::new(),
                dir: PathBuf::new(),
                umount: None,
                root: cgroup.to_owned(),
                mounted: None,
            }),
            Kind::Vcgroupfs => Self::vcgroupfs(&programs.vcgroupfs.path, &programs.options, hierarchy, cgroup, label),
            Kind::Before => match &programs.before {
                Some(program) => Self::vcgroupfs(&program.path, &programs.options, hierarchy, cgroup, label),
                None => return Err(Missing::NotInstalled),
            },
            Kind::Lxcfs if hierarchy.version == Version::V2 => {
                return Err(Missing::Cannot("lxcfs has no cgroup tree for v2"));
            }
            Kind::Lxcfs => match &programs.lxcfs {
                Some(program) => Self::lxcfs(&program.path, hierarchy, cgroup, label),
                None => return Err(Missing::NotInstalled),
            },
            Kind::Bindfs => match &programs.bindfs {
                Some(program) => Self::bindfs(&program.path, cgroup, label),
                None => return Err(Missing::NotInstalled),
            },
        };
        result.map_err(|error| Missing::NotAvailable(format!("{error:#}")))
    }

    fn vcgroupfs(
        program: &Path,
        options: &[&'static str],
        hierarchy: &Hierarchy,
        cgroup: &Path,
        label: &str,
    ) -> Result<Self> {
        let (dir, log) = places(label)?;
        let mut command = Command::new(program);
        command.args(["mount", "--shape", "rooted", "--policy", "delegate", "--delegate-controllers", "pids"]);
        command.args(options);
        command.arg("--cgroup").arg(format!("{}={}", hierarchy.option(), hierarchy.path_of(cgroup)?)).arg(&dir);
        let before = process::children();
        let outcome = process::run(&mut command, &log, SERVER_TIMEOUT);
        // The daemon became a child of the benchmark, which is its subreaper.
        let new = process::children().into_iter().filter(|pid| !before.contains(pid));
        let processes: Vec<_> = new.map(Process::adopt).collect();
        outcome?;
        if !is_mounted(&dir) {
            bail!("`vcgroupfs mount` succeeded, but nothing is mounted");
        }
        if processes.is_empty() {
            bail!("`vcgroupfs mount` left no server process");
        }
        let root = dir.join(hierarchy.directory_in_view());
        let mounted = Some(Mounted::new(&dir));
        Ok(Self { processes, dir, umount: Some(program.to_owned()), root, mounted })
    }

    fn lxcfs(program: &Path, hierarchy: &Hierarchy, cgroup: &Path, label: &str) -> Result<Self> {
        let (dir, log) = places(label)?;
        let mut command = Command::new(program);
        command.args(["-f", "-p"]).arg(dir.with_extension("pid")).arg(&dir);
        let server = Self::foreground(command, dir, &log)?;
        let name = hierarchy.mountpoint.file_name().context("the hierarchy's mountpoint has no name")?;
        let root = server.dir.join("cgroup").join(name).join(cgroup.strip_prefix(&hierarchy.mountpoint)?);
        if !root.is_dir() {
            bail!("no cgroup tree: {} doesn't exist", root.display());
        }
        Ok(Self { root, ..server })
    }

    fn bindfs(program: &Path, cgroup: &Path, label: &str) -> Result<Self> {
        let (dir, log) = places(label)?;
        let mut command = Command::new(program);
        // direct_io: the files have size 0, so reads through the page cache would return nothing.
        command.args(["-f", "-o", "direct_io"]).arg(cgroup).arg(&dir);
        Self::foreground(command, dir, &log)
    }

    /// Starts a server that stays in the foreground, and waits for its mount.
    fn foreground(mut command: Command, dir: PathBuf, log: &Path) -> Result<Self> {
        let mounted = Mounted::new(&dir);
        let mut process = Process::start(command.process_group(0), log)?;
        let mut has_ended = false;
        let is_served = testkit::comes_true(SERVER_TIMEOUT, || {
            has_ended = process.try_wait().is_some();
            has_ended || is_mounted(&dir)
        });
        if has_ended || !is_served {
            let output = fs::read_to_string(log).unwrap_or_default();
            let what = if has_ended { "ended" } else { "has no mount" };
            bail!("the server {what}: {}", output.trim().lines().last().unwrap_or_default());
        }
        // Answered only when the server is past its start: a signal before that would kill it without an umount.
        fs::metadata(&dir).with_context(|| format!("stat {}", dir.display()))?;
        Ok(Self { processes: vec![process], root: dir.clone(), dir, umount: None, mounted: Some(mounted) })
    }

    /// The directory where the test cgroup appears.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// All processes of the server, helpers included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let roots: Vec<_> = self.processes.iter().map(Process::pid).collect();
        if roots.is_empty() { roots } else { process::with_descendants(&roots) }
    }

    /// Unmounts as a user does it, and says what went wrong: a mount or process that stays is a fault.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(program) = self.umount.take() {
            let log = self.dir.with_extension("umount.log");
            process::run(Command::new(program).arg("umount").arg(&self.dir), &log, SERVER_TIMEOUT)
                .with_context(|| format!("umount {}", self.dir.display()))?;
            for process in &mut self.processes {
                process.wait(SERVER_TIMEOUT).context("the server runs on after its umount")?;
            }
        }
        for process in &mut self.processes {
            process.terminate();
        }
        if self.mounted.is_some() && is_mounted(&self.dir) {
            bail!("{} is still mounted after the end of its server", self.dir.display());
        }
        Ok(())
    }
}

/// A fresh mountpoint, and a file for the server's output.
fn places(label: &str) -> Result<(PathBuf, PathBuf)> {
    let dir = Path::new(WORK).join(label);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok((dir.clone(), dir.with_extension("log")))
}
