//! Cgroups that are removed when the test ends.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Hierarchy, comes_true, hierarchy};

/// How long the removal of a test's cgroup may take.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(20);

static NEXT: AtomicUsize = AtomicUsize::new(1);

/// One cgroup with the same name in several hierarchies, directly below their roots. Dropping it kills the processes in it and removes it with
/// everything below.
#[derive(Debug)]
pub struct TestCgroup {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl TestCgroup {
    /// Makes `vcgroupfs-test-PID-N` in the hierarchies with these selectors.
    ///
    /// # Panics
    ///
    /// When a hierarchy isn't mounted, or the kernel refuses.
    pub fn new(selectors: &[&str]) -> Self {
        let name = format!("vcgroupfs-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::named(&name, selectors)
    }

    /// Makes a cgroup of this name, which has to begin with `vcgroupfs-`.
    ///
    /// # Panics
    ///
    /// As [`TestCgroup::new`].
    pub fn named(name: &str, selectors: &[&str]) -> Self {
        assert!(name.starts_with("vcgroupfs-") && !name.contains('/'), "{name} isn't a test cgroup");
        let mut made = Self { name: name.into(), hierarchies: Vec::new() };
        for selector in selectors {
            let found = hierarchy(selector).unwrap_or_else(|| panic!("no hierarchy {selector}"));
            fs::create_dir(found.mountpoint.join(name))
                .unwrap_or_else(|error| panic!("mkdir {name} in {selector}: {error}"));
            made.hierarchies.push(found);
            made.prepare(selector, "");
        }
        made
    }

    /// The name of the cgroup.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the cgroup in a hierarchy, as `--cgroup` and /proc/PID/cgroup have it.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// The hierarchies in which the cgroup is.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The directory of the cgroup in a hierarchy.
    ///
    /// # Panics
    ///
    /// When the cgroup isn't in that hierarchy.
    pub fn dir(&self, selector: &str) -> PathBuf {
        let wanted = hierarchy(selector);
        let found = self.hierarchies.iter().find(|mine| Some(&mine.kind) == wanted.as_ref().map(|one| &one.kind));
        found.unwrap_or_else(|| panic!("{} isn't in {selector}", self.name)).mountpoint.join(&self.name)
    }

    /// Makes a cgroup below it in one hierarchy, able to hold processes (a cpuset gets its parent's CPUs and nodes).
    ///
    /// # Panics
    ///
    /// When the hierarchy refuses.
    pub fn child(&self, selector: &str, below: &str) -> PathBuf {
        assert!(!below.starts_with('/') && !below.contains(".."), "{below} isn't below a test cgroup");
        let dir = self.dir(selector).join(below);
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("mkdir {}: {error}", dir.display()));
        self.prepare(selector, below);
        dir
    }

    /// Makes a cgroup of this name below it in all its hierarchies, and returns the directories.
    pub fn children(&self, below: &str) -> Vec<PathBuf> {
        self.hierarchies.iter().map(|hierarchy| self.child(&hierarchy.selector(), below)).collect()
    }

    fn prepare(&self, selector: &str, below: &str) {
        let dir = self.dir(selector).join(below);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = dir.parent().map(|parent| parent.join(file)).and_then(|path| fs::read_to_string(path).ok());
            if let Some(value) = parent.filter(|value| !value.trim().is_empty() && !self.is_unified(selector)) {
                fs::write(dir.join(file), value.trim())
                    .unwrap_or_else(|error| panic!("{file} of {}: {error}", dir.display()));
            }
        }
    }

    fn is_unified(&self, selector: &str) -> bool {
        hierarchy(selector).is_some_and(|found| found.is_unified())
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.mountpoint.join(&self.name);
            if let Err(error) = remove(&dir) {
                let message = format!("can't remove {}: {error}", dir.display());
                if thread::panicking() {
                    eprintln!("{message}");
                } else {
                    panic!("{message}");
                }
            }
        }
    }
}

/// Gives a cgroup, its files and everything below it to a user and to the group with the same number.
///
/// # Panics
///
/// When the kernel refuses.
pub fn chown_tree(dir: &Path, owner: u32) {
    let give = |path: &Path| {
        chown(path, Some(owner), Some(owner)).unwrap_or_else(|error| panic!("chown of {}: {error}", path.display()));
    };
    give(dir);
    for entry in fs::read_dir(dir).expect("a test cgroup").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            chown_tree(&entry.path(), owner);
        } else {
            give(&entry.path());
        }
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    let is_busy = |error: &io::Error| error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32);
    let mut result = Ok(());
    comes_true(REMOVAL_TIMEOUT, || {
        result = remove_once(dir);
        !result.as_ref().is_err_and(is_busy)
    });
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn remove_once(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    // What is frozen can't die; not every hierarchy has each file, and a threaded cgroup refuses to list processes.
    for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(dir.join(file))
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    }
    for list in ["cgroup.procs", "cgroup.threads"] {
        let Ok(text) = fs::read_to_string(dir.join(list)) else {
            continue;
        };
        for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
            if pid.cast_unsigned() != std::process::id() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
    fs::remove_dir(dir)
}
