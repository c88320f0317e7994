//! A live view as `vcgroupfs list` describes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{TIMEOUT, ViewProcesses, run_to_end, wait_for};

use crate::scene::program;

/// What distinguishes a view from others.
#[derive(Clone, Debug)]
enum Identity {
    Directory(PathBuf),
    Container(u32),
    Cgroup(String),
}

/// A live view. Its server may be another process each time that it's asked for.
#[derive(Clone, Debug)]
pub(crate) struct LiveView {
    identity: Identity,
}

impl LiveView {
    /// The view that is mounted on a directory.
    pub(crate) fn on(directory: PathBuf) -> Self {
        Self { identity: Identity::Directory(directory) }
    }

    /// The view in the container of a process.
    pub(crate) fn of_container(init: u32) -> Self {
        Self { identity: Identity::Container(init) }
    }

    /// The view of a cgroup.
    pub(crate) fn of_cgroup(path: String) -> Self {
        Self { identity: Identity::Cgroup(path) }
    }

    /// Its entry of `list`.
    pub(crate) fn listed(&self) -> Option<Value> {
        let mut command = Command::new(program());
        let output = run_to_end(command.args(["list", "--json"]), TIMEOUT);
        let views: Vec<Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        views.into_iter().find(|view| match &self.identity {
            Identity::Directory(directory) => view["directory"].as_str() == directory.to_str(),
            Identity::Container(init) => view["container"].as_u64() == Some(u64::from(*init)),
            Identity::Cgroup(path) => view["delegated"]["unified"].as_str() == Some(path),
        })
    }

    /// The processes that keep it alive, unless it has no server now.
    pub(crate) fn processes(&self) -> Option<ViewProcesses> {
        let entry = self.listed()?;
        entry["pid"].is_number().then(|| ViewProcesses::of_listed(&entry))
    }

    /// Whether it's live, or will be: not failed, nor gone.
    pub(crate) fn is_alive(&self) -> bool {
        self.listed().is_some_and(|entry| entry["state"] != "failed")
    }

    /// A field of its entry that is text.
    pub(crate) fn text(&self, field: &str) -> Option<String> {
        self.listed()?[field].as_str().map(str::to_owned)
    }

    /// Waits until a server serves it, and returns its processes.
    pub(crate) fn when_live(&self) -> ViewProcesses {
        wait_for("the view is live", || {
            let entry = self.listed()?;
            // Without a keeper there's no other state.
            let is_live = entry["state"].as_str().is_none_or(|state| state == "live");
            is_live.then(|| ViewProcesses::of_listed(&entry))
        })
    }

    /// Has a program take it over, as a user would. Returns what is said if that fails.
    pub(crate) fn upgrade(&self, with: &Path) -> Result<(), String> {
        let target = match &self.identity {
            Identity::Directory(directory) => directory.display().to_string(),
            Identity::Container(init) => init.to_string(),
            Identity::Cgroup(path) => {
                let is_inside = |process: &u32| {
                    let cgroups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
                    cgroups.lines().any(|line| line.starts_with(&format!("0::{path}")))
                };
                let inside = testkit::processes().into_iter().find(is_inside);
                inside.ok_or("the command has no process")?.to_string()
            }
        };
        let output = run_to_end(Command::new(with).args(["upgrade", &target]), TIMEOUT);
        let said = || format!("upgrade {target}: {}", String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(()) } else { Err(said()) }
    }

    /// How often its server was started again.
    pub(crate) fn restarts(&self) -> u64 {
        self.listed().and_then(|entry| entry["restarts"].as_u64()).unwrap_or(0)
    }

    /// Unmounts it.
    pub(crate) fn end(&self) {
        let mut command = Command::new(program());
        match &self.identity {
            Identity::Directory(directory) => command.arg("umount").arg(directory),
            Identity::Container(init) => command.arg("detach").arg(init.to_string()),
            // It ends with its command.
            Identity::Cgroup(_) => return,
        };
        let output = run_to_end(&mut command, TIMEOUT);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Kills its processes, which ends the connection, so that whoever waits gets an error.
    pub(crate) fn abort(&self) {
        let Some(entry) = self.listed() else { return };
        // The keeper first, so that it starts no other server.
        for name in ["keeper", "pid"] {
            if let Some(pid) = entry[name].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}
