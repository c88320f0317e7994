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
pub(crate) enum ScopeError {
    /// A unit of that name exists.
    NameTaken,
    /// This version doesn't know a property of this name.
    UnknownProperty(String),
    /// Another reason, in systemd's own words.
    Systemd(String),
}

/// A property of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) name: &'static str,
    /// The D-Bus type and the value, in the words that busctl(1) takes.
    words: Vec<String>,
}

impl Property {
    pub(crate) fn text(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, words: vec!["s".to_owned(), value.into()] }
    }

    pub(crate) fn flag(name: &'static str, value: bool) -> Self {
        Self { name, words: vec!["b".to_owned(), value.to_string()] }
    }

    /// A number of 64 bits.
    pub(crate) fn number(name: &'static str, value: u64) -> Self {
        Self { name, words: vec!["t".to_owned(), value.to_string()] }
    }

    /// A list of one unit.
    pub(crate) fn unit(name: &'static str, unit: impl Into<String>) -> Self {
        Self { name, words: vec!["as".to_owned(), "1".to_owned(), unit.into()] }
    }
}

/// Whether systemd is this host's service manager: by the rule of sd_booted(3), and it's process 1 of this pid
/// namespace. A container may have the host's `/run`, and then systemd would take our process ids for its own.
pub(crate) fn is_manager() -> bool {
    Path::new("/run/systemd/system").is_dir() && std::fs::read("/proc/1/comm").is_ok_and(|name| name == b"systemd\n")
}

impl Scope {
    /// Makes systemd put a process into a new scope `NAME.scope`, in each hierarchy that systemd manages. If systemd
    /// refuses, tells the user and returns `None`. `option` is the option that the name comes from.
    pub(crate) fn request(name: &str, process: i32, option: &str) -> Result<Option<Self>, Error> {
        let properties = [Property::text("Description", "A container of vcgroupfs"), Property::flag("Delegate", true)];
        match Self::start(&format!("{name}.scope"), process, &properties, Instant::now() + SCOPE_START_TIMEOUT) {
            Ok(scope) => Ok(Some(scope)),
            Err(ScopeError::NameTaken) => Err(Error::failed(format!("systemd already has a unit {name}.scope"))
                .advise(format!("choose another {option}"))),
            Err(ScopeError::Systemd(why) | ScopeError::UnknownProperty(why)) => {
                say(format_args!("systemd refuses to make a scope ({why}): the cgroups are made without it"));
                Ok(None)
            }
        }
    }

    /// Makes the scope and waits until the process is in it.
    pub(crate) fn start(
        unit: &str,
        process: i32,
        properties: &[Property],
        deadline: Instant,
    ) -> Result<Self, ScopeError> {
        let asked = run(Command::new("busctl").args(busctl_arguments(unit, process, properties)), deadline)?;
        if !asked.status.success() {
            return Err(parse_error(&String::from_utf8_lossy(&asked.stderr)));
        }
        // systemd answers before it has migrated the process.
        loop {
            let state = run(Command::new("systemctl").args(["is-active", unit]), deadline)?;
            if state.status.success() {
                return Ok(Self { unit: unit.to_owned() });
            }
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            if state == "failed" || Instant::now() > deadline {
                return Err(ScopeError::Systemd(format!("{unit} is {state}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The unit's name.
    pub(crate) fn unit(&self) -> &str {
        &self.unit
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
fn busctl_arguments(unit: &str, process: i32, properties: &[Property]) -> Vec<String> {
    let count = (properties.len() + 1).to_string();
    let words = [
        &["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"][..],
        &["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", &count],
    ];
    let mut words: Vec<String> = words.concat().into_iter().map(str::to_owned).collect();
    for property in properties {
        words.push(property.name.to_owned());
        words.extend(property.words.iter().cloned());
    }
    words.extend(["PIDs", "au", "1", &process.to_string(), "0"].map(str::to_owned));
    words
}

fn run(command: &mut Command, deadline: Instant) -> Result<Output, ScopeError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let output = if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        subprocess::output_within(command.env("LC_ALL", "C"), left)
    };
    output.map_err(|error: io::Error| ScopeError::Systemd(format!("{}: {error}", command.get_program().display())))
}

/// Parses busctl's error message.
fn parse_error(said: &str) -> ScopeError {
    let said = said.trim().trim_start_matches("Call failed: ");
    if said.contains(" already exists") || said.contains("was already loaded") {
        return ScopeError::NameTaken;
    }
    if let Some((name, _)) =
        said.strip_prefix("Cannot set property ").and_then(|said| said.split_once(", or unknown property"))
    {
        return ScopeError::UnknownProperty(name.to_owned());
    }
    ScopeError::Systemd(said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busctl_gets_the_unit_and_the_process() {
        let words = busctl_arguments("demo.scope", 4711, &[]);
        assert_eq!(words[4..8], ["StartTransientUnit", "ssa(sv)a(sa(sv))", "demo.scope", "fail"]);
        assert_eq!(words[8..], ["1", "PIDs", "au", "1", "4711", "0"]);
    }

    #[test]
    fn busctl_gets_each_property_with_its_type() {
        let properties = [
            Property::text("Description", "two words"),
            Property::flag("Delegate", true),
            Property::number("TasksMax", 7),
            Property::unit("Before", "box.service"),
        ];
        let words = busctl_arguments("demo.scope", 1, &properties);
        assert_eq!(words[8..12], ["5", "Description", "s", "two words"]);
        assert_eq!(words[12..18], ["Delegate", "b", "true", "TasksMax", "t", "7"]);
        assert_eq!(words[18..22], ["Before", "as", "1", "box.service"]);
    }

    #[test]
    fn errors_of_busctl_are_read() {
        for taken in [
            "Call failed: Unit demo.scope already exists.\n",
            "Call failed: Unit demo.scope was already loaded or has a fragment file.\n",
        ] {
            assert_eq!(parse_error(taken), ScopeError::NameTaken, "{taken}");
        }
        let unknown = "Call failed: Cannot set property OOMPolicy, or unknown property.\n";
        assert_eq!(parse_error(unknown), ScopeError::UnknownProperty("OOMPolicy".to_owned()));
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
