//! Finds the processes of a container, and what they say about their programs.
//!
//! A process counts as one of the container's if it has the target's mount namespace: it sees the same cgroups.
//! A child of its own looks, since reading about a process, or the beginning of its program, may block. It enters
//! nothing and executes nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, pipe2};

use crate::doctor::probe::enter::hide;
use crate::doctor::probe::parent::{SILENCE_TIMEOUT, TOTAL_TIMEOUT, end, listen};
use crate::doctor::probe::target::ProbeTarget;
use crate::doctor::programs::{ProcessTraits, is_built_by_go, is_telling};
use crate::sys;

/// The maximum number of processes that are looked at.
const MAX_PROCESSES: usize = 8192;

/// The maximum number of different programs that are looked at.
const MAX_PROGRAMS: usize = 512;

/// How much is read of a program. Notes are at its beginning.
const MAX_BEGINNING_BYTES: u64 = 64 << 10;

/// How much is read of a list of mappings.
const MAX_MAPS_BYTES: u64 = 4 << 20;

/// Returns the processes in the mount namespace of the target, as far as this process may look at them.
pub(crate) fn processes(target: &ProbeTarget) -> Vec<ProcessTraits> {
    let Ok(Some(namespace)) = target.namespace("mnt") else { return Vec::new() };
    let Ok((read, write)) = pipe2(OFlag::O_CLOEXEC) else { return Vec::new() };
    match sys::process::fork() {
        Ok(ForkResult::Child) => {
            let looked = hide().is_ok() && look(namespace, write).is_ok();
            std::process::exit(i32::from(!looked));
        }
        Ok(ForkResult::Parent { child }) => {
            drop(write);
            let said = listen(read, SILENCE_TIMEOUT, TOTAL_TIMEOUT);
            end(child);
            let lines = said.bytes.split(|byte| *byte == b'\n');
            lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
        }
        Err(_) => Vec::new(),
    }
}

/// Writes a line for each process in a mount namespace.
fn look(namespace: u64, pipe: OwnedFd) -> io::Result<()> {
    let mut out = File::from(pipe);
    let mut known: BTreeMap<String, (Vec<String>, bool)> = BTreeMap::new();
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let directory = |pid: i32| Path::new("/proc").join(pid.to_string());
    let is_here = |pid: &i32| fs::metadata(directory(*pid).join("ns/mnt")).is_ok_and(|found| found.ino() == namespace);
    for pid in pids.filter(is_here).take(MAX_PROCESSES) {
        let directory = directory(pid);
        // Threads of the kernel have no program, and those that have ended none any more.
        let Ok(program) = fs::read_link(directory.join("exe")) else { continue };
        let program = program.to_string_lossy().into_owned();
        let command = fs::read(directory.join("comm")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).trim_end().to_owned();
        if !known.contains_key(&program) && known.len() < MAX_PROGRAMS {
            let beginning = beginning(&directory.join("exe"), MAX_BEGINNING_BYTES);
            known.insert(program.clone(), (libraries(&directory), is_built_by_go(&beginning)));
        }
        let (libraries, is_go) = known.get(&program).cloned().unwrap_or_default();
        let mut line = serde_json::to_vec(&ProcessTraits { pid, command, program, libraries, is_go })?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}

fn beginning(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error counts.
    let _ = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    bytes
}

/// The telling libraries that a process has mapped.
fn libraries(directory: &Path) -> Vec<String> {
    let text = beginning(&directory.join("maps"), MAX_MAPS_BYTES);
    let text = String::from_utf8_lossy(&text);
    let mapped = text.lines().filter_map(|line| line.find('/').and_then(|start| line.get(start..)));
    let mut found: Vec<String> = mapped.filter(|path| is_telling(path)).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_finds_itself() {
        let namespace = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            File::from(read).read_to_end(&mut text).unwrap();
            text
        });
        look(namespace, write).unwrap();
        let text = reader.join().unwrap();
        let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let own = fs::read_link("/proc/self/exe").unwrap().to_string_lossy().into_owned();
        let is_own = |line: &[u8]| {
            let traits: ProcessTraits = serde_json::from_slice(line).unwrap();
            traits.pid == std::process::id().cast_signed() && traits.program == own && !traits.is_go
        };
        assert!(lines.any(is_own));
    }
}
