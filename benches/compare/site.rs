//! The test cgroups of one subject, made through the kernel, and the subject's view of them.

use std::ffi::CStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::guard;
use super::host::{Hierarchy, Version};
use super::process::Process;

/// Children of `few` and of `many`.
pub(crate) const FEW_CHILDREN: usize = 50;
pub(crate) const MANY_CHILDREN: usize = 1000;

/// One subject's test cgroup:
///
/// ```text
/// one/    has one process in it; its files are read
/// few/    50 cgroups, c0000 ...
/// many/   1000 cgroups
/// a/ b/   between which a process is migrated
/// new/    in which cgroups are made and removed
/// ```
///
/// Every subject has its own, so that what is done through one can't invalidate what another has cached.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) hierarchy: Hierarchy,
    /// Through the subject.
    pub(crate) root: OwnedFd,
    pub(crate) root_path: PathBuf,
    /// The same cgroup in the kernel's cgroupfs: the truth that results are checked against.
    pub(crate) truth: OwnedFd,
    /// The file that is read, relative to the root.
    pub(crate) file: &'static CStr,
    pub(crate) length: usize,
    /// The file that is written.
    pub(crate) limit: &'static CStr,
    /// Kept open on `file`.
    pub(crate) kept: [OwnedFd; 2],
    /// Number of entries found by the checks: in `few`, in `many`, in a walk of `many`.
    pub(crate) entries: [usize; 3],
    /// The process that is migrated: an own child.
    pub(crate) migrant: Waiting,
    /// Its number, as it's written to `cgroup.procs`.
    pub(crate) pid_text: String,
    /// Whether it's in `b`.
    pub(crate) in_b: bool,
    _resident: Waiting,
}

/// Makes the cgroups. Before the subject is mounted: a server shall find them, not see them being made.
pub(crate) fn populate(path: &Path) -> Result<()> {
    guard::step(|| format!("create the cgroups in {}", path.display()))?;
    let create = |path: PathBuf| fs::create_dir(&path).with_context(|| format!("create {}", path.display()));
    create(path.to_owned())?;
    for name in ["one", "few", "many", "a", "b", "new"] {
        create(path.join(name))?;
    }
    for (parent, count) in [("few", FEW_CHILDREN), ("many", MANY_CHILDREN)] {
        for index in 0..count {
            create(path.join(parent).join(format!("c{index:04}")))?;
        }
    }
    Ok(())
}

/// A process that waits, and ends with the benchmark: it reads a pipe whose other end closes then.
#[derive(Debug)]
pub(crate) struct Waiting {
    process: Process,
    _stdin: ChildStdin,
}

impl Waiting {
    /// Starts it, places it in a cgroup, and returns once it sleeps: from then on its cgroup's `cpu.stat` stays as it is.
    fn start_in(cgroup: &Path) -> Result<Self> {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("start cat")?;
        let process = Process::from_child(&child);
        let mut stdin = child.stdin.take().context("cat has no stdin")?;
        let mut stdout = child.stdout.take().context("cat has no stdout")?;
        let file = cgroup.join("cgroup.procs");
        fs::write(&file, process.pid().to_string()).with_context(|| format!("write {}", file.display()))?;
        stdin.write_all(b"\n").context("write to cat")?;
        stdout.read_exact(&mut [0]).context("read from cat")?;
        while !process.is_asleep()? {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { process, _stdin: stdin })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Site {
    /// `truth_path` was populated; `root_path` is where the subject shows it.
    pub(crate) fn open(hierarchy: &Hierarchy, truth_path: &Path, root_path: &Path) -> Result<Self> {
        let directory = |path: &Path| {
            open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .with_context(|| format!("open {}", path.display()))
        };
        let resident = Waiting::start_in(&truth_path.join("one"))?;
        let migrant = Waiting::start_in(&truth_path.join("a"))?;
        let name = hierarchy.file();
        let file = match hierarchy.version {
            Version::V1 => c"one/pids.current",
            Version::V2 => c"one/cpu.stat",
        };
        let limit = match hierarchy.version {
            Version::V1 => c"one/pids.max",
            Version::V2 => c"one/cgroup.max.depth",
        };
        let root = directory(root_path)?;
        let keep = || {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            nix::fcntl::openat(&root, file, flags, Mode::empty()).with_context(|| format!("open {name}"))
        };
        let kept = [keep()?, keep()?];
        Ok(Self {
            hierarchy: hierarchy.clone(),
            root,
            root_path: root_path.to_owned(),
            truth: directory(truth_path)?,
            file,
            length: 0,
            limit,
            kept,
            entries: [0; 3],
            pid_text: migrant.pid().to_string(),
            migrant,
            in_b: false,
            _resident: resident,
        })
    }
}
