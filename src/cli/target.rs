//! `TARGET`: a process id, or a container by the name that its manager knows it by.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cli::error::{FAILED, Failed, USAGE};

/// A container as it was named, and one of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) pid: i32,
    /// As users know it.
    pub(super) label: String,
    known: Option<(Manager, String)>,
}

/// Who knows containers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Docker,
    Podman,
    Machine,
    Lxc,
}

/// What a manager says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// It's a container that runs.
    Runs(i32),
    /// It isn't; with what was tried, and what came of it.
    No(Vec<String>),
}

/// Where systemd-machined keeps what it knows, a file per machine.
const MACHINES: &str = "/run/systemd/machines";

/// Finds the process. A name without a manager's is asked of all.
pub(super) fn resolve(target: &str) -> Result<Target, Failed> {
    if let Ok(pid) = target.parse() {
        if pid > 0 {
            return Ok(Target { pid, label: format!("pid {pid}"), known: None });
        }
        return Err(Failed::new(USAGE, format!("{pid} is no process id")));
    }
    let (managers, name) = match target.split_once(':') {
        None => (Manager::ALL.to_vec(), target),
        Some((word, name)) => match Manager::ALL.into_iter().find(|manager| manager.word() == word) {
            Some(manager) => (vec![manager], name),
            None => {
                let what = format!("'{word}' is no kind of container: use PID, docker:, podman:, machine: or lxc:NAME");
                return Err(Failed::new(USAGE, what));
            }
        },
    };
    if !is_name(name) {
        return Err(Failed::new(USAGE, format!("'{name}' can't be the name of a container")));
    }
    let mut found = Vec::new();
    let mut tried = Vec::new();
    for manager in managers {
        match manager.ask(name) {
            Answer::Runs(pid) => found.push((manager, pid)),
            Answer::No(reasons) => tried.extend(reasons),
        }
    }
    let label = |manager: Manager| format!("{}:{name}", manager.word());
    match found.as_slice() {
        [(manager, pid)] => Ok(Target { pid: *pid, label: label(*manager), known: Some((*manager, name.to_owned())) }),
        [] => Err(Failed::new(FAILED, format!("no running container '{name}'; tried: {}", tried.join("; ")))),
        several => {
            let which: Vec<String> =
                several.iter().map(|(manager, pid)| format!("{} (process {pid})", label(*manager))).collect();
            Err(Failed::new(FAILED, format!("'{name}' is ambiguous: say {}", which.join(" or "))))
        }
    }
}

impl Target {
    /// Asks once more, when the process is held: between the answer and that, its number could have become another's.
    pub(super) fn confirm(&self) -> Result<(), Failed> {
        match &self.known {
            Some((manager, name)) if manager.ask(name) != Answer::Runs(self.pid) => {
                Err(Failed::new(FAILED, format!("{} has just ended or been restarted: try again", self.label)))
            }
            _ => Ok(()),
        }
    }
}

impl Manager {
    const ALL: [Self; 4] = [Self::Docker, Self::Podman, Self::Machine, Self::Lxc];

    fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Machine => "machine",
            Self::Lxc => "lxc",
        }
    }

    fn ask(self, name: &str) -> Answer {
        let pid_of = ["container", "inspect", "--format", "{{.State.Pid}}", name];
        // Of the daemon on this host, whichever one is the default: another host's numbers mean nothing here.
        let state = format!("/1.0/instances/{name}/state");
        let state_of = ["query", &state, "--force-local"];
        match self {
            Self::Docker => first([command("docker", &pid_of, number)]),
            Self::Podman => first([command("podman", &pid_of, number)]),
            Self::Machine => first([leader(Path::new(MACHINES), name)]),
            Self::Lxc => first([
                command("lxc-info", &["-H", "-p", "-n", name], number),
                command("incus", &state_of, number_in_state),
                // LXD's client.
                command("lxc", &state_of, number_in_state),
            ]),
        }
    }
}

/// The first that knows a process.
fn first(answers: impl IntoIterator<Item = Result<i32, String>>) -> Answer {
    let mut reasons = Vec::new();
    for answer in answers {
        match answer {
            Ok(pid) => return Answer::Runs(pid),
            Err(reason) => reasons.push(reason),
        }
    }
    Answer::No(reasons)
}

/// Runs a manager's program. `read` takes what it has printed for machines, as a whole: what it prints for people has words in it that others
/// have chosen.
fn command(program: &str, arguments: &[&str], read: impl Fn(&str) -> Option<i32>) -> Result<i32, String> {
    let tried = format!("{program} {}", arguments.join(" "));
    let output = match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(format!("{program} (not installed)")),
        Err(error) => return Err(format!("{tried} ({error})")),
        Ok(output) => output,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().map_or_else(|| output.status.to_string(), str::to_owned);
        return Err(format!("{tried} ({said})"));
    }
    let running = std::str::from_utf8(&output.stdout).ok().and_then(read);
    running.ok_or_else(|| format!("{tried} (it doesn't run)"))
}

/// A line with nothing but a number. 0 and -1 are what doesn't run.
fn number(output: &str) -> Option<i32> {
    let digits = output.strip_suffix('\n').unwrap_or(output);
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { digits.parse().ok().filter(|pid| *pid > 0) } else { None }
}

/// The `pid` of an instance's state, as the API has it (`GET /1.0/instances/NAME/state`).
fn number_in_state(output: &str) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct State {
        pid: i32,
    }
    serde_json::from_str::<State>(output).ok().map(|state| state.pid).filter(|pid| *pid > 0)
}

/// What systemd-machined says: one assignment a line, of values in which it has escaped line breaks.
fn leader(folder: &Path, name: &str) -> Result<i32, String> {
    let path = folder.join(name);
    let text = fs::read_to_string(&path).map_err(|error| format!("{} ({error})", path.display()))?;
    let leaders: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("LEADER=")).collect();
    let leader = if let [leader] = leaders.as_slice() { number(leader) } else { None };
    leader.ok_or_else(|| format!("{} (it has no leader)", path.display()))
}

/// What no program takes for an option, and no path leads astray.
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
        for target in ["docker:-f", "machine:../../etc", "rkt:x", "0", "-1", ":", ""] {
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
            assert_eq!(number(output), pid, "{output:?}");
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
            assert_eq!(number_in_state(output), pid, "{output:?}");
        }
    }

    #[test]
    fn machines() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("c1"), "NAME=c1\nLEADER=123\n").unwrap();
        fs::write(folder.path().join("c2"), "NAME=c2\n").unwrap();
        assert_eq!(leader(folder.path(), "c1"), Ok(123));
        assert!(leader(folder.path(), "c2").unwrap_err().contains("no leader"));
        assert!(leader(folder.path(), "c3").unwrap_err().contains("c3"));
        fs::write(folder.path().join("c4"), "LEADER=123\nLEADER=124\n").unwrap();
        assert!(leader(folder.path(), "c4").unwrap_err().contains("no leader"));
    }
}
