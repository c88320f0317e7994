//! The live views of this host: a file per server in a runtime directory, locked for as long as the server lives.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupPath, HierarchyKind, parse_mountinfo};
use crate::fuse::FSTYPE;
use crate::policy::{Policy, Rules};
use crate::view::{Shape, View};

/// Where the files are. A lock tells the living from the dead, so nothing has to be cleaned up after a crash.
pub(super) const DIRECTORY: &str = "/run/vcgroupfs";

/// What is known of a live view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The server's process id.
    pub(super) pid: u32,
    /// Where the view is mounted, in its mount namespace.
    pub(super) directory: PathBuf,
    /// For whom.
    pub(super) target: String,
    pub(super) shape: String,
    pub(super) policy: String,
    /// v1 controllers that it may write, with policy delegate.
    #[serde(default)]
    pub(super) delegate_controllers: Vec<String>,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    /// Hierarchy and delegated subtree.
    pub(super) delegated: Vec<(String, String)>,
    /// Seconds since 1970.
    pub(super) since: u64,
    /// Whether it's for whoever calls.
    #[serde(default)]
    pub(super) per_caller: bool,
    /// Where it's mounted in a container.
    #[serde(default)]
    pub(super) container: Option<Inside>,
    /// The number of the mount namespace in which `run` has made a stack. It ends with its command, and the server with it.
    #[serde(default)]
    pub(super) run: Option<u64>,
}

/// A container with a view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Inside {
    /// The process by which it was named.
    pub(super) pid: i32,
    /// The number of its mount namespace. The server holds it open, so that it can't become another's.
    pub(super) namespace: u64,
}

impl Record {
    /// Whether the view is such a one. Where its subtrees are isn't looked at but where they're `named`: the container's processes may have gone
    /// further down since.
    pub(super) fn is_as(&self, view: &View, named: &[(Option<String>, CgroupPath)]) -> bool {
        let (shape, policy) = (super::word_of(&view.shape), super::word_of(&view.rules.policy));
        let is_named =
            |kind: &HierarchyKind| named.iter().any(|(word, _)| word.as_ref().is_none_or(|word| kind.matches(word)));
        (&self.shape, &self.policy) == (&shape, &policy)
            && self.delegate_controllers == controllers(&view.rules)
            && self.aliases == aliases(view)
            && delegated(view).filter(|(kind, _)| is_named(kind)).all(|(kind, path)| {
                let own = self.delegated.iter().find(|(own, _)| *own == kind.to_string());
                own.map(|(_, path)| path) == path.map(|path| path.to_string()).as_ref()
            })
    }

    /// All that tells it from other views of the same container.
    pub(super) fn kind(&self) -> String {
        let mut words = vec![format!("shape {}", self.shape), format!("policy {}", self.policy)];
        if !self.delegate_controllers.is_empty() {
            words.push(format!("with controllers {}", self.delegate_controllers.join(",")));
        }
        words.extend(self.aliases.iter().map(|alias| format!("alias {alias}")));
        let mut paths: Vec<&str> = self.delegated.iter().map(|(_, path)| path.as_str()).collect();
        paths.dedup();
        if let [path] = paths.as_slice() {
            words.push(format!("of {path}"));
        }
        words.join(", ")
    }
}

/// The v1 controllers that are delegated.
fn controllers(rules: &Rules) -> Vec<String> {
    let named = rules.delegate_controllers.iter().map(str::to_owned);
    named.filter(|_| rules.policy == Policy::Delegate).collect()
}

fn aliases(view: &View) -> Vec<String> {
    let mut names: Vec<String> = view.aliases.iter().map(|alias| alias.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The delegated subtree of each hierarchy.
fn delegated(view: &View) -> impl Iterator<Item = (&HierarchyKind, Option<&CgroupPath>)> {
    view.hierarchies.iter().map(|hierarchy| (&hierarchy.kind, hierarchy.delegated.as_ref()))
}

/// A record that isn't published yet.
#[derive(Debug)]
pub(super) struct Registration(Record);

/// A published record; taken back when dropped.
#[derive(Debug)]
pub(super) struct Registered {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Registration {
    pub(super) fn new(view: &View, directory: &Path, target: String) -> Self {
        let delegated = delegated(view).filter_map(|(kind, path)| Some((kind.to_string(), path?.to_string())));
        let mut registration = Self::of(directory, target, view.shape, &view.rules, delegated.collect());
        registration.0.aliases = aliases(view);
        registration
    }

    /// Of a mount for all callers.
    pub(super) fn per_caller(rules: &Rules, directory: &Path) -> Self {
        let mut registration =
            Self::of(directory, "each caller's container".to_owned(), Shape::HostPath, rules, Vec::new());
        registration.0.per_caller = true;
        registration
    }

    fn of(directory: &Path, target: String, shape: Shape, rules: &Rules, delegated: Vec<(String, String)>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Record {
            pid: 0,
            directory: directory.to_owned(),
            target,
            shape: super::word_of(&shape),
            policy: super::word_of(&rules.policy),
            delegate_controllers: controllers(rules),
            aliases: Vec::new(),
            delegated,
            since: since.as_secs(),
            per_caller: false,
            container: None,
            run: None,
        })
    }

    /// That the directory is in a container.
    pub(super) fn inside(mut self, container: Inside) -> Self {
        self.0.container = Some(container);
        self
    }

    /// That it's in a stack, in the mount namespace with this number, which `run` has made.
    pub(super) fn of_stack(mut self, namespace: u64) -> Self {
        self.0.run = Some(namespace);
        self
    }

    /// Publishes it for the calling process. A view works without: then `list` doesn't know it.
    pub(super) fn enter(mut self) -> Option<Registered> {
        self.0.pid = std::process::id();
        match self.write() {
            Ok(registered) => Some(registered),
            Err(error) => {
                tracing::warn!(%error, directory = DIRECTORY, "'list' won't show this view");
                None
            }
        }
    }

    fn write(&self) -> io::Result<Registered> {
        make_directory()?;
        let path = Path::new(DIRECTORY).join(format!("{}.json", self.0.pid));
        // Written under another name and locked before it gets its own, so that nobody sees half of it or takes it for a dead one's.
        let draft = path.with_extension("new");
        // The server's umask is 0.
        let file = File::options().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
        (&*lock).write_all(&serde_json::to_vec(&self.0)?)?;
        fs::rename(&draft, &path)?;
        Ok(Registered { path, _lock: lock })
    }
}

/// Makes the directory of the records, if it isn't there.
pub(super) fn make_directory() -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(DIRECTORY)
}

/// All live views, the oldest first.
pub(super) fn live() -> io::Result<Vec<Record>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Some(record) = read(&path)
        {
            records.push(record);
        }
    }
    records.sort_by_key(|record| (record.since, record.pid));
    Ok(records)
}

/// The devices of the live mounts for all callers, by which they're known in any mount namespace.
pub(super) fn per_caller_devices() -> Vec<(u32, u32)> {
    let device = |record: Record| {
        let mounts = parse_mountinfo(&fs::read(format!("/proc/{}/mountinfo", record.pid)).ok()?);
        let mount = mounts.iter().rfind(|mount| record.directory == Path::new(&mount.mount_point))?;
        (mount.fstype == FSTYPE).then_some(mount.device)
    };
    live().unwrap_or_default().into_iter().filter(|record| record.per_caller).filter_map(device).collect()
}

/// A record, if its server lives. What a dead one left is removed where that's permitted.
fn read(path: &Path) -> Option<Record> {
    let file = File::open(path).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => {
            let _ = fs::remove_file(path);
            None
        }
        Err((file, _)) => serde_json::from_reader(file).ok(),
    }
}

/// Waits until the server with this process id has gone, or time is up.
pub(super) fn wait_for_end(pid: u32, limit: Duration) -> bool {
    let path = Path::new(DIRECTORY).join(format!("{pid}.json"));
    let start = Instant::now();
    while path.exists() && read(&path).is_some() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
