//! Which programs matter in a container: those that run there, and those that are installed. Pure: the processes and
//! files are found by [`super::probe`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clients::{CLIENTS, Client};
use super::facts::Facts;
use super::program_table::{PROGRAMS, Program};

/// What is known about a process of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessTraits {
    pub(crate) pid: i32,
    /// Its command name.
    pub(crate) command: String,
    /// The path of its program, as the container has it.
    pub(crate) program: String,
    /// The paths of the libraries that [`is_telling`] and that it has mapped.
    pub(crate) libraries: Vec<String>,
    /// Whether its program was built by Go's linker.
    pub(crate) is_go: bool,
}

/// The files by which programs are found that don't run.
pub(crate) fn files() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().flat_map(|program| program.files).copied()
}

/// Whether a library says which program has mapped it.
pub(crate) fn is_telling(path: &str) -> bool {
    let name = base_name(path);
    PROGRAMS.iter().flat_map(|program| program.libraries).any(|library| name.starts_with(library))
}

/// Whether an executable was built by Go's linker: near its beginning it has the note of the build id (`ELF_NOTE_GOBUILDID_TAG`,
/// name `Go`).
pub(crate) fn is_built_by_go(beginning: &[u8]) -> bool {
    const NOTE: [u8; 8] = *b"\x04\0\0\0Go\0\0";
    let is_little_endian = beginning.starts_with(b"\x7fELF") && beginning.get(5) == Some(&1);
    is_little_endian && beginning.windows(NOTE.len()).any(|window| window == NOTE)
}

/// A program that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FoundProgram {
    pub(crate) program: &'static str,
    /// A process that runs it; `None` if it's only installed.
    pub(crate) pid: Option<i32>,
    /// How many processes run it.
    pub(crate) processes: usize,
    /// The version, as far as a path tells it.
    pub(crate) version: Option<u32>,
    /// The clients whose verdicts concern it. If the version isn't known, there may be several of which one applies.
    pub(crate) clients: Vec<&'static str>,
}

impl FoundProgram {
    /// Whether it isn't known which of several versions it is.
    pub(crate) fn is_of_unknown_version(&self) -> bool {
        self.version.is_none() && self.clients.len() > 2
    }
}

/// Finds the programs that run in the container, then those that are only installed.
pub(crate) fn found(facts: &Facts, processes: &[ProcessTraits]) -> Vec<FoundProgram> {
    let mut running: BTreeMap<usize, FoundProgram> = BTreeMap::new();
    for process in processes {
        for (index, program) in PROGRAMS.iter().enumerate() {
            let Some(version) = program.runs_in(process) else { continue };
            let found = running.entry(index).or_insert_with(|| program.found(Some(process.pid), version));
            found.processes += 1;
        }
    }
    let is_installed = |program: &Program| program.files.iter().any(|file| facts.knows(file) && facts.exists(file));
    let idle =
        PROGRAMS.iter().enumerate().filter(|(index, program)| !running.contains_key(index) && is_installed(program));
    let idle: Vec<FoundProgram> = idle.map(|(_, program)| program.found(None, None)).collect();
    running.into_values().chain(idle).collect()
}

impl Program {
    /// Whether it runs in a process. If so, its version, as far as it's known.
    fn runs_in(&self, process: &ProcessTraits) -> Option<Option<u32>> {
        if self.name == "Go" {
            return process.is_go.then_some(None);
        }
        let named = |library: &&String| {
            self.libraries.iter().find_map(|name| Some(base_name(library).strip_prefix(name)?.to_owned()))
        };
        let library = process.libraries.iter().find_map(|library| Some((library, named(&library)?)));
        if self.name == "systemd" {
            // Its tools have the library as well; only the manager uses the tree.
            let is_manager = self.executables.contains(&base_name(&process.program));
            return is_manager.then(|| library.and_then(|(_, rest)| first_number(&rest)));
        }
        match library {
            Some((path, _)) => Some(version_in(path)),
            None => self.executables.contains(&base_name(&process.program)).then(|| version_in(&process.program)),
        }
    }

    fn found(&self, pid: Option<i32>, version: Option<u32>) -> FoundProgram {
        FoundProgram { program: self.name, pid, processes: 0, version, clients: self.clients_of(version) }
    }

    /// The rows of its version. The numbers in the names of rows say where each begins.
    fn clients_of(&self, version: Option<u32>) -> Vec<&'static str> {
        let mut all = Vec::new();
        for prefix in self.clients {
            let rows: Vec<&Client> = CLIENTS.iter().filter(|client| client.name.starts_with(prefix)).collect();
            let begins = |client: &&&Client| first_number(client.name).filter(|begins| Some(*begins) <= version);
            match rows.iter().filter(|row| begins(row).is_some()).max_by_key(begins) {
                Some(row) if rows.len() > 1 => all.push(row.name),
                _ => all.extend(rows.iter().map(|row| row.name)),
            }
        }
        all
    }
}

fn base_name(path: &str) -> &str {
    // The kernel marks the program of a process that was replaced on the disk.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

fn first_number(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches(|one: char| !one.is_ascii_digit());
    digits.split(|one: char| !one.is_ascii_digit()).next()?.parse().ok()
}

/// The main version in a path as `/usr/lib/jvm/java-17-openjdk-amd64/bin/java`, `.../v20.9.0/bin/node`,
/// `.../Microsoft.NETCore.App/8.0.4/libcoreclr.so`. Java 8 is also called 1.8.
fn version_in(path: &str) -> Option<u32> {
    let (folders, _) = path.rsplit_once('/')?;
    let version = |word: &str| {
        let word = ["v", "jdk", "java"].iter().find_map(|prefix| word.strip_prefix(prefix)).unwrap_or(word);
        let word = word.strip_prefix("1.").filter(|rest| rest.starts_with('8')).unwrap_or(word);
        first_number(word).filter(|version| *version < 1000 && word.starts_with(|one: char| one.is_ascii_digit()))
    };
    folders.split(['/', '-']).filter_map(version).next_back()
}

/// How much a client matters in this container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Relevance {
    /// A process runs it.
    Running,
    /// Its files are there.
    Installed,
}

/// How much a client matters; `None` if nothing of it was found.
pub(crate) fn relevance(found: &[FoundProgram], client: &str) -> Option<Relevance> {
    let all = found.iter().filter(|program| program.clients.contains(&client));
    all.map(|program| if program.pid.is_some() { Relevance::Running } else { Relevance::Installed }).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::layouts::{Kind, Variant, legacy};
    use crate::doctor::program_table::ONLY_BY_NAME;

    fn process(program: &str, libraries: &[&str]) -> ProcessTraits {
        let libraries = libraries.iter().map(|&path| path.to_owned()).collect();
        ProcessTraits { pid: 7, program: program.to_owned(), libraries, ..ProcessTraits::default() }
    }

    fn clients(process: ProcessTraits) -> Vec<&'static str> {
        let found = found(&legacy(Kind::Stack, Variant::default()), &[process]);
        found.into_iter().flat_map(|program| program.clients).collect()
    }

    #[test]
    fn every_client_is_found_or_only_named() {
        for client in CLIENTS {
            let is_found =
                PROGRAMS.iter().any(|program| program.clients.iter().any(|one| client.name.starts_with(one)));
            let is_named = ONLY_BY_NAME.iter().any(|one| client.name.starts_with(one));
            assert!(is_found != is_named, "{}", client.name);
        }
        for prefix in PROGRAMS.iter().flat_map(|program| program.clients) {
            assert!(CLIENTS.iter().any(|client| client.name.starts_with(prefix)), "no client {prefix}");
        }
    }

    #[test]
    fn processes_tell_their_programs_and_versions() {
        let systemd =
            |version: u32| process("/usr/lib/systemd/systemd", &[&format!("/lib/libsystemd-shared-{version}.so")]);
        for (version, row) in [
            (219, "systemd 215-229"),
            (232, "systemd 230-232"),
            (252, "systemd 236-255"),
            (257, "systemd 256, 257"),
            (260, "systemd >= 258"),
        ] {
            assert_eq!(clients(systemd(version)), [row], "{version}");
        }
        // An unknown version can be any, and other programs of systemd's are no manager.
        assert_eq!(clients(process("/usr/lib/systemd/systemd", &[])).len(), 6);
        assert_eq!(clients(process("/usr/bin/udevadm", &["/lib/libsystemd-shared-252.so"])), [""; 0]);
        for (program, libraries, rows) in [
            ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", &[][..], &["JVM (hotspot) 8u372 to 21"][..]),
            ("/app/launcher", &["/opt/jdk-25.0.1/lib/server/libjvm.so"], &["JVM (hotspot) 25"]),
            ("/usr/lib/jvm/jdk1.8.0_402/bin/java", &[], &["JVM (hotspot) 8u372 to 21"]),
            ("/opt/java/openjdk/bin/java", &[], &["JVM (hotspot) 8u372 to 21", "JVM (hotspot) 25"]),
            ("/app/web", &["/usr/share/dotnet/shared/Microsoft.NETCore.App/8.0.4/libcoreclr.so"], &[".NET 8"]),
            ("/opt/nvm/versions/node/v22.1.0/bin/node", &[], &["Node.js 20 (libuv 1.46)"]),
            ("/usr/sbin/runc (deleted)", &[], &["runc, kubelet, cadvisor"]),
            ("/bin/busybox", &[], &["busybox, Alpine (sendfile)"]),
            ("/usr/bin/dockerd", &[], &["dockerd", "Docker sysinfo"]),
            ("/usr/bin/sleep", &[], &[]),
            ("", &[], &[]),
        ] {
            assert_eq!(clients(process(program, libraries)), rows, "{program}");
        }
        let go = ProcessTraits { is_go: true, ..process("/usr/local/bin/service", &[]) };
        assert_eq!(clients(go), ["Go automaxprocs", "Go >= 1.25"]);
    }

    #[test]
    fn programs_of_go_have_a_note() {
        let mut elf = b"\x7fELF\x02\x01\x01\0".to_vec();
        elf.resize(4000, 0);
        assert!(!is_built_by_go(&elf));
        elf.extend(b"\x04\0\0\0\x53\0\0\0\x04\0\0\0Go\0\0");
        assert!(is_built_by_go(&elf) && !is_built_by_go(&elf[1..]));
        assert!(!is_built_by_go(b"") && !is_built_by_go(b"#!/bin/sh\n\x04\0\0\0Go\0\0"));
    }

    #[test]
    fn many_processes_are_one_program() {
        let all = [process("/usr/bin/node", &[]), process("/usr/bin/node", &[]), process("/usr/bin/runc", &[])];
        let found = found(&legacy(Kind::Stack, Variant::default()), &all);
        let count: Vec<(&str, usize)> = found.iter().map(|one| (one.program, one.processes)).collect();
        assert_eq!(count, [("runc", 1), ("Node.js", 2)]);
        assert_eq!(relevance(&found, "Node.js 20 (libuv 1.46)"), Some(Relevance::Running));
        assert_eq!(relevance(&found, "crun"), None);
        assert!(is_telling("/usr/lib/libjvm.so") && !is_telling("/usr/lib/libc.so.6"));
    }
}
