//! The processes that keep a view alive, and their end.

use std::ffi::OsStr;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{TIMEOUT, kill_to_the_end, run_to_end, thread_states};

/// The processes that keep a view alive: if only its server is killed, its keeper starts another one. A view without a keeper ends with its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewProcesses {
    /// The keeper, unless the program or the kernel has none.
    pub keeper: Option<Pid>,
    /// The process that serves it now.
    pub server: Pid,
}

impl ViewProcesses {
    /// Those of a view as `vcgroupfs list --json` describes it.
    ///
    /// # Panics
    ///
    /// When that isn't such a description.
    pub fn of_listed(view: &Value) -> Self {
        let pid = |name: &str| {
            let number = i32::try_from(view[name].as_i64()?).ok()?;
            Some(Pid::from_raw(number))
        };
        Self { keeper: pid("keeper"), server: pid("pid").unwrap_or_else(|| panic!("no live view: {view}")) }
    }

    /// Those of the view to which a process belongs, be it the server or the keeper. `program` is asked in the mount namespace of that process,
    /// since a test may have given it a registry of its own. A process that isn't listed, or has ended, counts as a server without a keeper.
    ///
    /// # Panics
    ///
    /// When `program` can't list the views.
    pub fn of_process(program: impl AsRef<OsStr>, process: u32) -> Self {
        let listed = listed(program.as_ref(), process).map(|view| Self::of_listed(&view));
        listed.unwrap_or(Self { keeper: None, server: Pid::from_raw(process.cast_signed()) })
    }

    /// Those of the view to which a process belongs, as [`ViewProcesses::of_process`] finds them. `None` until the view is listed, and live.
    ///
    /// # Panics
    ///
    /// When `program` can't list the views.
    pub fn of_live(program: impl AsRef<OsStr>, process: u32) -> Option<Self> {
        // Programs without a keeper know no other state, and don't tell it.
        let is_live = |view: &Value| view["state"].as_str().is_none_or(|state| state == "live");
        listed(program.as_ref(), process).filter(is_live).map(|view| Self::of_listed(&view))
    }

    /// Kills them at the same moment. They may have ended by themselves.
    pub fn kill(self) {
        // The keeper first, so that it starts no other server.
        for process in self.keeper.into_iter().chain([self.server]) {
            let _ = kill(process, Signal::SIGKILL);
        }
    }

    /// Kills them, and waits until none of them holds a file any more.
    ///
    /// # Panics
    ///
    /// When one doesn't end.
    pub fn kill_to_the_end(self) {
        self.kill();
        self.keeper.into_iter().chain([self.server]).for_each(kill_to_the_end);
    }
}

/// The view to which a process belongs, as `program` lists it in the mount namespace of that process.
fn listed(program: &OsStr, process: u32) -> Option<Value> {
    std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok()?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &process.to_string(), "--mount"]).arg(program).args(["list", "--json"]);
    let output = run_to_end(&mut command, TIMEOUT);
    let views: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {command:?}: {}", String::from_utf8_lossy(&output.stderr));
    });
    // A view that has failed has no server.
    let is_its = |view: &Value| !view["pid"].is_null() && ["keeper", "pid"].iter().any(|name| view[name] == process);
    views.into_iter().find(is_its)
}

/// Kills the view to which a process belongs (see [`ViewProcesses::of_process`]), so that nobody serves it any more, and waits for the end.
///
/// # Panics
///
/// As [`ViewProcesses::of_process`] and [`ViewProcesses::kill_to_the_end`].
pub fn kill_view(program: impl AsRef<OsStr>, process: u32) {
    ViewProcesses::of_process(program, process).kill_to_the_end();
}

/// Whether a process has ended, be it that nobody has waited for it yet.
pub fn is_over(process: Pid) -> bool {
    thread_states(process.as_raw().cast_unsigned()).iter().all(|state| "ZX".contains(*state))
}

/// The servers among a keeper's children: one, if there's one now. It has no thread but its first. The process that ends the connection if all others
/// end is none.
pub fn servers_of(keeper: Pid) -> Vec<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
    let is_server = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name != "abort guard\n"
    };
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_server).map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_view_has_a_server_and_perhaps_a_keeper() {
        let found = |view: Value| ViewProcesses::of_listed(&view);
        let (server, keeper) = (Pid::from_raw(7), Some(Pid::from_raw(5)));
        assert_eq!(found(json!({"pid": 7})), ViewProcesses { keeper: None, server });
        assert_eq!(found(json!({"pid": 7, "keeper": null})), ViewProcesses { keeper: None, server });
        assert_eq!(found(json!({"pid": 7, "keeper": 5})), ViewProcesses { keeper, server });
    }

    #[test]
    fn they_are_killed_together() {
        let mut children = [0, 1].map(|_| Command::new("sleep").arg("1000").spawn().expect("sleep"));
        let [keeper, server] = children.each_ref().map(|child| Pid::from_raw(child.id().cast_signed()));
        ViewProcesses { keeper: Some(keeper), server }.kill_to_the_end();
        for child in &mut children {
            let status = child.wait().expect("its end");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::SIGKILL as i32));
        }
    }
}
