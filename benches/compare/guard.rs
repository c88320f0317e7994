//! Leaves nothing behind: on exit, panic, SIGINT, and when a server hangs.
//!
//! Ordinarily the owners undo what they did when they are dropped. What they own is also written down here, because a
//! thread that waits for a hung FUSE server can't unwind: then the thread of this module does it and ends the process.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// After this long without a finished step, a server is taken for hung.
const HUNG_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the main thread has to unwind after a signal.
const UNWIND_TIMEOUT: Duration = Duration::from_secs(10);

struct Registry {
    processes: Vec<Pid>,
    mounts: Vec<PathBuf>,
    cgroups: Vec<PathBuf>,
    step: String,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { processes: Vec::new(), mounts: Vec::new(), cgroups: Vec::new(), step: String::new() });
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static STEPS: AtomicU64 = AtomicU64::new(0);

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn add_process(pid: Pid) {
    registry().processes.push(pid);
}

pub(crate) fn remove_process(pid: Pid) {
    registry().processes.retain(|other| *other != pid);
}

/// Handles the signals that end the benchmark. By handlers, not by blocking: children would inherit that.
pub(crate) fn install() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("handle signals")?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for signal in signals.forever() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            if sender.send(signal).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        loop {
            let before = STEPS.load(Ordering::SeqCst);
            match receiver.recv_timeout(HUNG_TIMEOUT) {
                Ok(signal) => {
                    // The main thread sees the flag at its next step. A second signal, or no end in time: by force.
                    let _ = receiver.recv_timeout(UNWIND_TIMEOUT);
                    force(128 + signal);
                }
                Err(RecvTimeoutError::Timeout) if STEPS.load(Ordering::SeqCst) == before => {
                    eprintln!("compare: no progress for {} s in: {}", HUNG_TIMEOUT.as_secs(), registry().step);
                    force(1);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    Ok(())
}

/// Undoes everything from outside, and ends the benchmark.
fn force(status: i32) -> ! {
    let registry = registry();
    for pid in &registry.processes {
        let _ = kill(*pid, Signal::SIGKILL);
    }
    for mount in registry.mounts.iter().rev() {
        let _ = umount2(mount, MntFlags::MNT_DETACH);
    }
    for cgroup in &registry.cgroups {
        if let Err(error) = remove_tree(cgroup) {
            eprintln!("compare: {error:#}");
        }
    }
    // Reaped where possible, but without waiting for one that can't end.
    for pid in &registry.processes {
        testkit::comes_true(Duration::from_millis(500), || {
            !matches!(waitpid(*pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
        });
    }
    std::process::exit(status)
}

/// Called before each step: says what is being done, and fails after a signal.
pub(crate) fn step(what: impl FnOnce() -> String) -> Result<()> {
    STEPS.fetch_add(1, Ordering::SeqCst);
    if interrupted() {
        bail!("interrupted");
    }
    registry().step = what();
    Ok(())
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A mount that is undone when dropped.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn new(path: &Path) -> Self {
        registry().mounts.push(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        registry().mounts.retain(|other| *other != self.0);
    }
}

/// A test cgroup, removed with everything below it when dropped.
#[derive(Debug)]
pub(crate) struct CgroupTree(PathBuf);

impl CgroupTree {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("create the cgroup {}", path.display()))?;
        registry().cgroups.push(path.clone());
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for CgroupTree {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.0) {
            eprintln!("compare: {error:#}");
        }
        registry().cgroups.retain(|other| *other != self.0);
    }
}

/// Removes a cgroup and those below it. A cgroup is busy for a moment after its last process was killed.
fn remove_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let mut result = Ok(());
    testkit::comes_true(Duration::from_secs(5), || {
        result = fs::remove_dir(path);
        !matches!(&result, Err(error) if error.kind() == ErrorKind::ResourceBusy)
    });
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("remove the cgroup {}", path.display())),
    }
}
