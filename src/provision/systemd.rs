//! Scopes of systemd, on hosts where it manages the tree. By the single-writer rule only one program makes cgroups in
//! a part of the tree. Other programs request a unit with `Delegate=yes` (<https://systemd.io/CGROUP_DELEGATION>).
//!
//! The requests go through systemd's own programs, which know its protocol and are installed wherever systemd is.

use std::io;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, getpid, getppid, pause};

use crate::cgroup::CgroupPath;
use crate::error::Error;
use crate::message::say;
use crate::subprocess;
use crate::sys;

/// How long systemd may take to start a scope.
const SCOPE_START_TIMEOUT: Duration = Duration::from_secs(20);

/// A scope: a unit of systemd for processes that another program has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    unit: String,
}

/// Why systemd has made no scope.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ScopeError {
    /// A unit of that name exists.
    NameTaken,
    /// Another reason, in systemd's own words.
    Systemd(String),
}

/// Whether systemd is this host's service manager, by the rule of sd_booted(3).
pub(crate) fn is_manager() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

impl Scope {
    /// Makes systemd put a process into a new scope `NAME.scope`, in each hierarchy that systemd manages. If systemd
    /// refuses, tells the user and returns `None`. `option` is the option that the name comes from.
    pub(crate) fn request(name: &str, process: i32, option: &str) -> Result<Option<Self>, Error> {
        match Self::start(name, process) {
            Ok(scope) => Ok(Some(scope)),
            Err(ScopeError::NameTaken) => Err(Error::failed(format!("systemd already has a unit {name}.scope"))
                .advise(format!("choose another {option}"))),
            Err(ScopeError::Systemd(why)) => {
                say(format_args!("systemd refuses to make a scope ({why}): the cgroups are made without it"));
                Ok(None)
            }
        }
    }

    /// Makes the scope and waits until the process is in it.
    fn start(name: &str, process: i32) -> Result<Self, ScopeError> {
        let unit = format!("{name}.scope");
        let asked = run(Command::new("busctl").args(busctl_arguments(&unit, process)))?;
        if !asked.status.success() {
            return Err(parse_error(&String::from_utf8_lossy(&asked.stderr)));
        }
        // systemd answers before it has migrated the process.
        let start = Instant::now();
        loop {
            let state = run(Command::new("systemctl").args(["is-active", &unit]))?;
            if state.status.success() {
                return Ok(Self { unit });
            }
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            if state == "failed" || start.elapsed() > SCOPE_START_TIMEOUT {
                return Err(ScopeError::Systemd(format!("{unit} is {state}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether `path` is the scope's cgroup.
    pub(crate) fn is_at(&self, path: &CgroupPath) -> bool {
        path.name().is_some_and(|name| name == self.unit.as_str())
    }
}

/// An idle child, which keeps a scope that has no other process yet. It ends with its parent.
#[derive(Debug)]
pub(crate) struct ScopeHolder {
    /// 0 when it has ended.
    child: AtomicI32,
    parent: Pid,
}

impl ScopeHolder {
    pub(crate) fn start() -> Result<Self, Error> {
        let parent = getpid();
        match sys::process::fork().map_err(|error| Error::system("can't start a process for the scope", error))? {
            ForkResult::Parent { child } => Ok(Self { child: child.as_raw().into(), parent }),
            ForkResult::Child => {
                let _ = sys::descriptors::close_all_but(&[]);
                // The parent may have ended before this call.
                if set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent {
                    pause();
                }
                std::process::exit(0)
            }
        }
    }

    pub(crate) fn process(&self) -> i32 {
        self.child.load(Ordering::Relaxed)
    }

    /// Ends the child, once. In a process that was forked from the parent it does nothing.
    pub(crate) fn end(&self) {
        if getpid() != self.parent {
            return;
        }
        let child = Pid::from_raw(self.child.swap(0, Ordering::Relaxed));
        if child.as_raw() > 0 && kill(child, Signal::SIGKILL).is_ok() {
            let _ = waitpid(child, None);
        }
    }
}

impl Drop for ScopeHolder {
    fn drop(&mut self) {
        self.end();
    }
}

/// The arguments of busctl(1) for `StartTransientUnit(name, mode, properties, auxiliary units)`.
fn busctl_arguments(unit: &str, process: i32) -> Vec<String> {
    let process = process.to_string();
    let words = [
        &["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"][..],
        &["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail"],
        &["3", "Description", "s", "A container of vcgroupfs", "Delegate", "b", "true", "PIDs", "au", "1", &process],
        &["0"],
    ];
    words.concat().into_iter().map(str::to_owned).collect()
}

fn run(command: &mut Command) -> Result<Output, ScopeError> {
    let output = subprocess::output(command.env("LC_ALL", "C"));
    output.map_err(|error: io::Error| ScopeError::Systemd(format!("{}: {error}", command.get_program().display())))
}

/// Parses busctl's error message.
fn parse_error(said: &str) -> ScopeError {
    let said = said.trim().trim_start_matches("Call failed: ");
    if said.contains(" already exists") || said.contains("was already loaded") {
        return ScopeError::NameTaken;
    }
    ScopeError::Systemd(said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busctl_gets_the_unit_and_the_process() {
        let words = busctl_arguments("demo.scope", 4711);
        assert_eq!(words[4..8], ["StartTransientUnit", "ssa(sv)a(sa(sv))", "demo.scope", "fail"]);
        assert_eq!(
            words[8..],
            [
                "3",
                "Description",
                "s",
                "A container of vcgroupfs",
                "Delegate",
                "b",
                "true",
                "PIDs",
                "au",
                "1",
                "4711",
                "0"
            ]
        );
    }

    #[test]
    fn errors_of_busctl_are_read() {
        for taken in [
            "Call failed: Unit demo.scope already exists.\n",
            "Call failed: Unit demo.scope was already loaded or has a fragment file.\n",
        ] {
            assert_eq!(parse_error(taken), ScopeError::NameTaken, "{taken}");
        }
        let invalid = "Call failed: Unit name a b.scope is not valid.\n";
        assert_eq!(parse_error(invalid), ScopeError::Systemd("Unit name a b.scope is not valid.".to_owned()));
    }

    #[test]
    fn holders_end() {
        let is_there = |process: i32| Path::new(&format!("/proc/{process}")).exists();
        // A fork needs a process with one thread, and tests have many.
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = child.id() as i32;
        let others = ScopeHolder { child: process.into(), parent: getppid() };
        drop(others);
        assert!(is_there(process));
        let own = ScopeHolder { child: process.into(), parent: getpid() };
        own.end();
        assert!(!is_there(process));
        assert_eq!(own.process(), 0);
        assert!(child.wait().is_err());
    }

    #[test]
    fn a_scope_knows_its_cgroup() {
        let scope = Scope { unit: "demo.scope".to_owned() };
        for (path, own) in [
            ("/system.slice/demo.scope", true),
            ("/demo.scope", true),
            ("/system.slice/xdemo.scope", false),
            ("/system.slice/demo.scope/init.scope", false),
            ("/", false),
        ] {
            assert_eq!(scope.is_at(&CgroupPath::parse(path).unwrap()), own, "{path}");
        }
    }
}
