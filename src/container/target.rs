//! Resolves a `TARGET`: a process id, a container by the name that its manager knows, or a directory on which a view is mounted
//! ([`HELP`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cgroup::escaped;
use crate::error::{Error, describe};
use crate::subprocess;

/// A container, as the user named it and by one of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) pid: i32,
    /// Its name in messages.
    pub(crate) label: String,
    by_manager: Option<(Manager, String)>,
}

/// What a TARGET can be, for the help of every verb.
pub(crate) const HELP: &str = "A process id, or a running container: docker:NAME, podman:NAME, machine:NAME, lxc:[LXCPATH/]NAME, incus:NAME, \
    crictl:ID, runc:ID, or a NAME that one of these knows";

/// The same for verbs that also take a directory.
pub(crate) const HELP_WITH_DIRECTORY: &str = "A process id, or a running container: docker:NAME, podman:NAME, machine:NAME, lxc:[LXCPATH/]NAME, incus:NAME, \
    crictl:ID, runc:ID, or a NAME that one of these knows; or a directory on which a view is mounted";

/// The same for verbs that take a view, too.
pub(crate) const HELP_OF_VIEWS: &str = "the container, if neither --pid nor --cgroup names it: a process id, or a running container: docker:NAME, podman:NAME, \
    machine:NAME, lxc:[LXCPATH/]NAME, incus:NAME, crictl:ID, runc:ID, or a NAME that one of these knows; or a directory on which a view is mounted. If it has \
    a live view, the answer is for that view and its options";

/// The object that a TARGET names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResolvedTarget {
    Process(Target),
    /// A directory, as an absolute path without symlinks.
    Directory(PathBuf),
}

/// Finds the process or the directory that a TARGET names.
pub(crate) fn resolve_target_or_directory(target: &Path) -> Result<ResolvedTarget, Error> {
    if !is_path(target) {
        return resolve(text(target)?).map(ResolvedTarget::Process);
    }
    let what = || format!("can't find {}", escaped(target));
    let directory = fs::canonicalize(target).map_err(|error| Error::system(what(), error));
    directory.map(ResolvedTarget::Directory)
}

/// Whether a TARGET is the path of a directory.
pub(crate) fn is_path(target: &Path) -> bool {
    matches!(target.as_os_str().as_encoded_bytes(), [b'/' | b'.', ..])
}

/// The text of a TARGET that is no path.
pub(crate) fn text(target: &Path) -> Result<&str, Error> {
    let what = || Error::usage(format!("'{}' isn't a TARGET", escaped(target))).because("its name isn't UTF-8");
    target.to_str().ok_or_else(what)
}

/// A container manager, which knows containers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Docker,
    Podman,
    Machine,
    Lxc,
    Incus,
    Crictl,
    Runc,
}

/// What TARGET can be, in an error's advice.
const NAMES: &str = "use a process id, docker:NAME, podman:NAME, machine:NAME, lxc:[LXCPATH/]NAME, incus:NAME, crictl:ID, runc:ID, \
    or a container's NAME alone";

/// The reason that a manager names no process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LookupFailure {
    /// Its program isn't installed.
    NotInstalled(String),
    /// The command or file that was queried, and its answer.
    Said(String, String),
}

/// Joins the managers' answers; those that aren't installed come last.
fn in_one_line(reasons: &[LookupFailure]) -> String {
    let mut said = Vec::new();
    let mut missing = Vec::new();
    for reason in reasons {
        match reason {
            LookupFailure::Said(asked, answer) => said.push(format!("{asked} ({answer})")),
            LookupFailure::NotInstalled(program) => missing.push(program.as_str()),
        }
    }
    if !missing.is_empty() {
        said.push(format!("not installed: {}", missing.join(", ")));
    }
    said.join("; ")
}

/// A manager's answer about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LookupAnswer {
    /// A running container, by its process.
    Runs(i32),
    /// No running container, for these reasons.
    No(Vec<LookupFailure>),
}

/// The directory in which systemd-machined keeps a file per machine.
const MACHINES: &str = "/run/systemd/machines";

/// Finds the process that a TARGET names. A name without a manager is looked up with all of them.
pub(crate) fn resolve(target: &str) -> Result<Target, Error> {
    if let Some(pid) = parse_pid(target) {
        return Ok(Target { pid, label: format!("pid {pid}"), by_manager: None });
    }
    if target.parse::<i32>().is_ok() {
        let why = "that is a number from 1 on, without a sign";
        return Err(Error::usage(format!("'{target}' isn't a process id")).because(why));
    }
    let (managers, name) = match target.split_once(':') {
        _ if target.is_empty() => return Err(Error::usage("TARGET is empty").advise(NAMES)),
        None if target.starts_with(['/', '.']) => {
            return Err(Error::usage(format!("'{target}' is a path, and TARGET is a container here"))
                .advise(format!("{NAMES}; 'vcgroupfs mount' serves a view on a directory")));
        }
        // LXC's answer covers Incus.
        None => (Manager::ALL.into_iter().filter(|manager| *manager != Manager::Incus).collect(), target),
        Some((word, name)) => match Manager::ALL.into_iter().find(|manager| manager.word() == word) {
            Some(manager) => (vec![manager], name),
            None => {
                return Err(
                    Error::usage(format!("'{word}' isn't a container manager that vcgroupfs knows")).advise(NAMES)
                );
            }
        },
    };
    let is_known = |manager: &Manager| *manager == Manager::Lxc && name_in_path(name).is_some();
    if !is_name(name) && !managers.iter().all(is_known) {
        return Err(Error::usage(format!("'{target}' can't be the name of a container")).advise(NAMES));
    }
    let mut found = Vec::new();
    let mut tried = Vec::new();
    for manager in managers {
        match manager.ask(name) {
            LookupAnswer::Runs(pid) => found.push((manager, pid)),
            LookupAnswer::No(reasons) => tried.extend(reasons),
        }
    }
    let label = |manager: Manager| format!("{}:{name}", manager.word());
    match found.as_slice() {
        [(manager, pid)] => {
            Ok(Target { pid: *pid, label: label(*manager), by_manager: Some((*manager, name.to_owned())) })
        }
        [] => Err(Error::failed(format!("no running container '{name}' was found")).because(in_one_line(&tried))),
        several => {
            let which: Vec<String> =
                several.iter().map(|(manager, pid)| format!("{} (process {pid})", label(*manager))).collect();
            let what = format!("several managers have a container '{name}'");
            Err(Error::failed(what).advise(format!("name one of {}", which.join(" or "))))
        }
    }
}

impl Target {
    /// Asks the manager again, after the process was opened: its number could have been reused between the answer and
    /// the opening.
    pub(crate) fn confirm(&self) -> Result<(), Error> {
        match &self.by_manager {
            Some((manager, name)) if manager.ask(name) != LookupAnswer::Runs(self.pid) => {
                Err(Error::failed(format!("{} has just ended or been restarted", self.label)).advise("try again"))
            }
            _ => Ok(()),
        }
    }
}

impl Manager {
    const ALL: [Self; 7] =
        [Self::Docker, Self::Podman, Self::Machine, Self::Lxc, Self::Incus, Self::Crictl, Self::Runc];

    fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Machine => "machine",
            Self::Lxc => "lxc",
            Self::Incus => "incus",
            Self::Crictl => "crictl",
            Self::Runc => "runc",
        }
    }

    fn ask(self, name: &str) -> LookupAnswer {
        let pid_of = ["container", "inspect", "--format", "{{.State.Pid}}", name];
        // Ask the daemon of this host, even if another one is the default: that one's process ids would mean nothing
        // here.
        let state = format!("/1.0/instances/{name}/state");
        let state_of = ["query", &state, "--force-local"];
        match self {
            Self::Docker => first_running([command("docker", &pid_of, pid_in_line)]),
            Self::Podman => first_running([command("podman", &pid_of, pid_in_line)]),
            Self::Machine => first_running([machine_leader(Path::new(MACHINES), name)]),
            Self::Lxc if name.starts_with('/') => {
                let (path, name) = name_in_path(name).unwrap_or_default();
                first_running([command("lxc-info", &["-P", path, "-H", "-p", "-n", name], pid_in_line)])
            }
            Self::Incus => first_running([
                command("incus", &state_of, pid_in_state),
                // LXD's client.
                command("lxc", &state_of, pid_in_state),
            ]),
            Self::Crictl => {
                first_running([command("crictl", &["inspect", "--output", "json", name], pid_in_inspection)])
            }
            Self::Runc => first_running([
                command("runc", &["state", name], pid_in_state),
                command("crun", &["state", name], pid_in_state),
            ]),
            Self::Lxc => first_running([
                command("lxc-info", &["-H", "-p", "-n", name], pid_in_line),
                command("incus", &state_of, pid_in_state),
                // LXD's client.
                command("lxc", &state_of, pid_in_state),
            ]),
        }
    }
}

/// Returns the first answer that names a process.
fn first_running(answers: impl IntoIterator<Item = Result<i32, LookupFailure>>) -> LookupAnswer {
    let mut reasons = Vec::new();
    for answer in answers {
        match answer {
            Ok(pid) => return LookupAnswer::Runs(pid),
            Err(reason) => reasons.push(reason),
        }
    }
    LookupAnswer::No(reasons)
}

/// Runs a manager's program. `read` parses its whole output, which has to be machine-readable: output for people
/// contains texts that a container's owner has chosen.
fn command(program: &str, arguments: &[&str], read: impl Fn(&str) -> Option<i32>) -> Result<i32, LookupFailure> {
    let said = |answer: String| LookupFailure::Said(format!("{program} {}", arguments.join(" ")), answer);
    let output = match subprocess::output(Command::new(program).args(arguments)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LookupFailure::NotInstalled(program.to_owned()));
        }
        Err(error) => return Err(said(describe(&error))),
        Ok(output) => output,
    };
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(said(error.lines().next().map_or_else(|| output.status.to_string(), str::to_owned)));
    }
    let running = std::str::from_utf8(&output.stdout).ok().and_then(read);
    running.ok_or_else(|| said("it doesn't run".to_owned()))
}

/// Parses a process id: a number from 1 on, of digits only.
pub(crate) fn parse_pid(text: &str) -> Option<i32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|pid| is_plain && *pid > 0)
}

/// Parses a line that is only a process id. 0 and -1 stand for a container that doesn't run.
fn pid_in_line(output: &str) -> Option<i32> {
    parse_pid(output.strip_suffix('\n').unwrap_or(output))
}

/// Parses the `pid` of a state: of an instance (`GET /1.0/instances/NAME/state`), or of an OCI runtime.
fn pid_in_state(output: &str) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct State {
        pid: i32,
    }
    serde_json::from_str::<State>(output).ok().map(|state| state.pid).filter(|pid| *pid > 0)
}

/// Parses the process id in the CRI's description of a container, if the runtime has written it into `info`.
fn pid_in_inspection(output: &str) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Inspection {
        info: Info,
    }
    #[derive(serde::Deserialize)]
    struct Info {
        pid: i32,
    }
    serde_json::from_str::<Inspection>(output).ok().map(|found| found.info.pid).filter(|pid| *pid > 0)
}

/// Splits a path into the directory of LXC's containers (`lxc-info -P`) and a name.
fn name_in_path(text: &str) -> Option<(&str, &str)> {
    let (path, name) = text.rsplit_once('/')?;
    let is_path = path.starts_with('/') && !path.contains(['\n', '\0']);
    (is_path && is_name(name)).then_some((path, name))
}

/// Reads the leader from systemd-machined's file: one assignment a line, with line breaks in values escaped.
fn machine_leader(folder: &Path, name: &str) -> Result<i32, LookupFailure> {
    let path = folder.join(name);
    let said = |answer: String| LookupFailure::Said(escaped(&path), answer);
    let text = fs::read_to_string(&path).map_err(|error| said(describe(&error)))?;
    let leaders: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("LEADER=")).collect();
    let machine_leader = if let [machine_leader] = leaders.as_slice() { parse_pid(machine_leader) } else { None };
    machine_leader.ok_or_else(|| said("it has no leader".to_owned()))
}

/// Whether no program takes it for an option, and it leads to no other directory as part of a path.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|other| other.is_ascii_alphanumeric() || matches!(other, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["web", "a.b-c_d", "4f5e"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-f", ".", "..", "../x", "a/b", "a b", "a\n"] {
            assert!(!is_name(name), "{name}");
        }
        for target in ["docker:-f", "machine:../../etc", "rkt:x", "0", "-1", "+5", ":", ""] {
            assert!(resolve(target).is_err(), "{target}");
        }
        assert_eq!(resolve("17").map(|target| target.label).ok().as_deref(), Some("pid 17"));
    }

    #[test]
    fn numbers() {
        for (output, pid) in [
            ("4711\n", Some(4711)),
            ("4711", Some(4711)),
            ("0\n", None),
            ("-1\n", None),
            ("", None),
            ("\n", None),
            ("x\n", None),
            ("+7\n", None),
            (" 7\n", None),
            ("7\n8\n", None),
            ("8\n\n", None),
            ("99999999999\n", None),
            ("Name: x\nStatus: RUNNING\nPID: 12\n", None),
        ] {
            assert_eq!(pid_in_line(output), pid, "{output:?}");
        }
    }

    #[test]
    fn states() {
        for (output, pid) in [
            ("{\"status\": \"Running\", \"pid\": 12, \"network\": {\"eth0\": {\"pid\": 13}}}\n", Some(12)),
            ("{\"pid\": 0}", None),
            ("{\"pid\": -1}", None),
            ("{\"pid\": \"12\"}", None),
            ("{\"pid\": 1.5}", None),
            ("{\"pid\": 12, \"pid\": 13}", None),
            ("{\"description\": \"PID: 12\"}", None),
            ("{\"pid\": 12}\nPID: 13\n", None),
            ("PID: 12\n", None),
            ("12\n", None),
        ] {
            assert_eq!(pid_in_state(output), pid, "{output:?}");
        }
    }

    #[test]
    fn machines() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("c1"), "NAME=c1\nLEADER=123\n").unwrap();
        fs::write(folder.path().join("c2"), "NAME=c2\n").unwrap();
        assert_eq!(machine_leader(folder.path(), "c1"), Ok(123));
        let said = |name: &str| in_one_line(&[machine_leader(folder.path(), name).unwrap_err()]);
        assert!(said("c2").contains("no leader"));
        assert!(said("c3").contains("c3"));
        fs::write(folder.path().join("c4"), "LEADER=123\nLEADER=124\n").unwrap();
        assert!(said("c4").contains("no leader"));
    }
}
