//! What the benchmark finds on the host: hierarchies and programs; and the mount namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::process;

/// Directory of the run: logs and mountpoints. On the benchmark's private tmpfs, so that it ends with it.
pub(crate) const WORK: &str = "/run/vcgroupfs-bench";

/// Gives the benchmark a mount namespace of its own with a private, empty `/run`: servers (lxcfs keeps its state in
/// `/run/lxcfs`) can't meet those of the host, and no mount is left over however the benchmark ends.
pub(crate) fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make the mounts private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, Some("mode=755")).context("mount a tmpfs on /run")?;
    fs::create_dir(WORK).with_context(|| format!("create {WORK}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// A hierarchy of the host.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) mountpoint: PathBuf,
    /// Which cgroup of the hierarchy is mounted there: `/`, or that of a container.
    root: String,
}

/// A line of mountinfo, as far as it's of interest.
struct Mount {
    root: String,
    mountpoint: PathBuf,
    fstype: String,
    options: String,
}

fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(3);
    let root = unescape(head.next()?);
    let mountpoint = PathBuf::from(unescape(head.next()?));
    let mut tail = tail.split(' ');
    Some(Mount { root, mountpoint, fstype: tail.next()?.to_owned(), options: tail.nth(1)?.to_owned() })
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

pub(crate) fn is_mounted(path: &Path) -> bool {
    mounts().is_ok_and(|mounts| mounts.iter().any(|mount| mount.mountpoint == path))
}

impl Hierarchy {
    /// The v1 pids hierarchy and the v2 one, where they are mounted.
    pub(crate) fn find() -> Result<Vec<Self>> {
        let mounts = mounts()?;
        let find = |version, wanted: &dyn Fn(&&Mount) -> bool| {
            let mount = mounts.iter().find(wanted)?;
            Some(Self { version, mountpoint: mount.mountpoint.clone(), root: mount.root.clone() })
        };
        let v1 = find(Version::V1, &|mount| {
            mount.fstype == "cgroup" && mount.options.split(',').any(|option| option == "pids")
        });
        let v2 = find(Version::V2, &|mount| mount.fstype == "cgroup2");
        Ok(v1.into_iter().chain(v2).collect())
    }

    pub(crate) fn title(&self) -> &'static str {
        match self.version {
            Version::V1 => "v1 pids",
            Version::V2 => "v2",
        }
    }

    /// What `vcgroupfs --cgroup HIERARCHY=PATH` calls it.
    pub(crate) fn option(&self) -> &'static str {
        match self.version {
            Version::V1 => "pids",
            Version::V2 => "unified",
        }
    }

    /// The file that is read: always there, and its content doesn't change while nothing happens in the cgroup.
    pub(crate) fn file(&self) -> &'static str {
        match self.version {
            Version::V1 => "pids.current",
            Version::V2 => "cpu.stat",
        }
    }

    /// A path below the mountpoint as a path in the hierarchy.
    pub(crate) fn path_of(&self, path: &Path) -> Result<String> {
        let below = path.strip_prefix(&self.mountpoint)?;
        Ok(format!("{}/{}", self.root.trim_end_matches('/'), below.display()))
    }

    /// The directory in a view's root that belongs to the hierarchy: on a host with a v1 hierarchy they are named as
    /// on the host; with v2 alone the root itself is it.
    pub(crate) fn directory_in_view(&self) -> &Path {
        if self.mountpoint == Path::new("/sys/fs/cgroup") {
            return Path::new(".");
        }
        self.mountpoint.file_name().map_or(Path::new("."), Path::new)
    }

    /// The cgroup of a process, as a path in the hierarchy.
    pub(crate) fn membership(&self, pid: u32) -> Result<String> {
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let found = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, cgroup) = (fields.next()?, fields.next()?, fields.next()?);
            let here = match self.version {
                Version::V1 => controllers.split(',').any(|controller| controller == "pids"),
                Version::V2 => id == "0" && controllers.is_empty(),
            };
            here.then(|| cgroup.to_owned())
        });
        found.ok_or_else(|| anyhow!("{path} has no line for {}", self.title()))
    }
}

/// A program under test.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) vcgroupfs: Program,
    /// Another one to compare it with.
    pub(crate) before: Option<Program>,
    /// What else `vcgroupfs mount` is told.
    pub(crate) options: Vec<&'static str>,
    pub(crate) lxcfs: Option<Program>,
    pub(crate) bindfs: Option<Program>,
}

impl Programs {
    pub(crate) fn find(vcgroupfs: Option<PathBuf>, before: Option<PathBuf>, options: Vec<&'static str>) -> Self {
        let vcgroupfs = vcgroupfs.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_vcgroupfs")));
        Self {
            vcgroupfs: Program::new(vcgroupfs),
            before: before.map(Program::new),
            options,
            lxcfs: Program::search("lxcfs"),
            bindfs: Program::search("bindfs"),
        }
    }
}

impl Program {
    fn new(path: PathBuf) -> Self {
        let log = Path::new(WORK).join("version.log");
        let output = process::run(Command::new(&path).arg("--version"), &log, Duration::from_secs(10));
        let line = output.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default();
        let version = line.split_whitespace().last().unwrap_or("unknown").trim_matches('"').to_owned();
        Self { path, version }
    }

    fn search(name: &str) -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())?;
        Some(Self::new(found))
    }
}
