//! Runs the child that probes, and reads its results. The child may be stuck on a filesystem that doesn't answer. Its
//! results aren't trusted: the container may have changed them.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, pipe2};

use crate::cgroup::parse_mountinfo;
use crate::doctor::facts::{Facts, ProbeResults, Process, mount_of};
use crate::doctor::probe::child::{Line, run_child};
use crate::doctor::probe::target::ProbeTarget;
use crate::error::Error;
use crate::server::registry;
use crate::sys;

/// How long the child may be silent. It takes some milliseconds; a server under load takes longer to answer.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take in all: a filesystem of the container could delay each answer to the last moment.
pub(super) const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a killed child may take to end. It can't be killed while a FUSE server that has read its request doesn't
/// answer.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum size of its results.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// How many hung filesystems are bypassed, with one child each.
const MAX_HUNG_DEVICES: usize = 4;

/// Collects the facts about a target.
pub(crate) fn probe(target: &ProbeTarget) -> Result<Facts, Error> {
    let mut silent = Vec::new();
    let by_caller = registry::per_caller_devices();
    loop {
        let (process, found, stuck) = one_child(target, &silent, &by_caller)?;
        let Some(path) = stuck else { return Ok(Facts::new(process, found)) };
        let mounts = parse_mountinfo(process.mountinfo.as_bytes());
        match mount_of(&mounts, &path).map(|mount| mount.device) {
            Some(device) if !silent.contains(&device) && silent.len() < MAX_HUNG_DEVICES => silent.push(device),
            _ => return Ok(Facts::new(process, found)),
        }
    }
}

type Answers = (Process, ProbeResults, Option<String>);

/// The results of a child: the process, its findings, and the path at which it got stuck.
fn one_child(target: &ProbeTarget, silent: &[(u32, u32)], by_caller: &[(u32, u32)]) -> Result<Answers, Error> {
    let broken = |error: std::io::Error| Error::system("can't start the process that looks", error);
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| broken(errno.into()))?;
    let shared = target.share().map_err(broken)?;
    match sys::process::fork().map_err(broken)? {
        ForkResult::Child => {
            let looked = run_child(shared, silent, by_caller, write);
            std::process::exit(i32::from(looked.is_err()));
        }
        ForkResult::Parent { child } => {
            drop((write, shared));
            let said = listen(read, SILENCE_TIMEOUT, TOTAL_TIMEOUT);
            end(child);
            answers(target, &said.bytes, said.is_whole)
        }
    }
}

pub(super) struct ChildOutput {
    pub(super) bytes: Vec<u8>,
    /// Whether it ended by itself, and didn't just fall silent.
    pub(super) is_whole: bool,
}

/// Reads until the child has ended, has been silent for too long, or has taken too long.
pub(super) fn listen(pipe: OwnedFd, patience: Duration, limit: Duration) -> ChildOutput {
    let mut said = Vec::new();
    let mut part = [0; 1 << 16];
    let last = Instant::now() + limit;
    let mut end = Instant::now() + patience;
    let mut file = std::fs::File::from(pipe);
    while said.len() < MAX_ANSWER_BYTES {
        let left = end.min(last).saturating_duration_since(Instant::now());
        if left.is_zero() {
            return ChildOutput { bytes: said, is_whole: false };
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return ChildOutput { bytes: said, is_whole: false },
            Err(Errno::EINTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        match file.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(count) => said.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
        end = Instant::now() + patience;
    }
    ChildOutput { bytes: said, is_whole: true }
}

/// Kills the child. One that is stuck on a filesystem ends when that answers.
pub(super) fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    let start = Instant::now();
    while matches!(waitpid(child, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)) {
        if start.elapsed() > KILL_TIMEOUT {
            tracing::warn!(
                pid = child.as_raw(),
                "the process that looked is stuck, and ends when its filesystem answers"
            );
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Parses the results strictly. Incomplete results mean that the child was killed.
fn answers(target: &ProbeTarget, said: &[u8], is_whole: bool) -> Result<Answers, Error> {
    let nonsense = || {
        let what = format!("can't look at what process {} sees", target.pid);
        Error::failed(what).because("the process that looked was ended, or its answer can't be read")
    };
    let mut process = None;
    let mut found = ProbeResults::default();
    let mut asking = None;
    // Text after the last line break is an unfinished line.
    let lines = said.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    for line in lines {
        match serde_json::from_slice(line).map_err(|_| nonsense())? {
            Line::Process(said) if process.is_none() => process = Some(said),
            Line::Probing(path) => asking = Some(path),
            Line::Probed(path, answer) => {
                asking = None;
                found.places.insert(path, answer);
            }
            Line::Content(path, content) => {
                asking = None;
                found.contents.insert(path, content);
            }
            Line::CopyCheck(path, copied) => {
                asking = None;
                found.copied = Some((path, copied));
            }
            Line::Failed { what, errno } => return Err(failed(target, &what, errno)),
            Line::Done => return Ok((process.ok_or_else(nonsense)?, found, None)),
            Line::Process(_) => return Err(nonsense()),
        }
    }
    match (process, asking) {
        (Some(process), Some(path)) if !is_whole => Ok((process, found, Some(path))),
        (None, _) if !is_whole => {
            let what = format!("the root directory of process {} doesn't answer", target.pid);
            Err(Error::failed(what).because("its filesystem hangs"))
        }
        _ => Err(nonsense()),
    }
}

fn failed(target: &ProbeTarget, what: &str, errno: i32) -> Error {
    let error = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::ESRCH | libc::ENOENT => Error::failed(what).because(format!("process {} has ended", target.pid)),
        libc::EPERM | libc::EACCES => {
            Error::system(what, error).advise("run it as root, with the capabilities that the process has")
        }
        _ => Error::system(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::{PathProbe, ProbeOutcome};

    fn said(lines: &[Line]) -> Vec<u8> {
        lines.iter().flat_map(|line| [serde_json::to_vec(line).unwrap(), b"\n".to_vec()].concat()).collect()
    }

    fn heard(bytes: &[u8], is_whole: bool) -> Result<(usize, Option<String>), String> {
        let target = ProbeTarget::open(None).unwrap();
        let heard = answers(&target, bytes, is_whole);
        heard.map(|(_, found, stuck)| (found.places.len(), stuck)).map_err(|failed| failed.to_string())
    }

    #[test]
    fn a_silent_child_is_given_up() {
        let (short, long) = (Duration::from_millis(200), Duration::from_secs(600));
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let said = listen(read, short, long);
        assert!(!said.is_whole && said.bytes.is_empty(), "no output");
        drop(write);
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        // It ends when the reading end is closed.
        let talker = std::thread::spawn(move || while nix::unistd::write(&write, b"x").is_ok() {});
        let said = listen(read, long, short);
        assert!(!said.is_whole || said.bytes.len() >= MAX_ANSWER_BYTES, "endless output");
        talker.join().unwrap();
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        nix::unistd::write(&write, b"x").unwrap();
        drop(write);
        assert!(listen(read, long, long).is_whole, "the end of the output");
    }

    #[test]
    fn answers_of_the_child_are_parsed() {
        let process = Line::Process(Process::default());
        let asking = |path: &str| Line::Probing(path.to_owned());
        let found = ProbeOutcome::Found(PathProbe { magic: 1, directory: true, writable: false, one_mount: true });
        let place = |path: &str| Line::Probed(path.to_owned(), found.clone());
        let whole = said(&[process.clone(), asking("/a"), place("/a"), asking("/b"), place("/b"), Line::Done]);
        assert_eq!(heard(&whole, true), Ok((2, None)));
        // The child fell silent in the middle of a path, or was ended there.
        let stuck = said(&[process.clone(), asking("/a"), place("/a"), asking("/b")]);
        assert_eq!(heard(&stuck, false), Ok((1, Some("/b".to_owned()))));
        assert!(heard(&stuck, true).unwrap_err().contains("was ended"));
        for nonsense in [
            said(&[]),
            said(&[Line::Done]),
            said(&[process.clone(), process.clone(), Line::Done]),
            b"{}\n".to_vec(),
            b"\xff\n".to_vec(),
            b"{\"Probed\":[\"/a\",{\"Found\":{\"magic\":1}}]}\n".to_vec(),
            said(&[process]).into_iter().filter(|byte| *byte != b'\n').collect(),
        ] {
            assert!(heard(&nonsense, false).is_err() && heard(&nonsense, true).is_err(), "{nonsense:?}");
        }
        assert!(heard(&[], false).unwrap_err().contains("hangs"));
        for (errno, says) in [(libc::ESRCH, "has ended"), (libc::EPERM, "as root"), (libc::EIO, "step: ")] {
            let failed = said(&[Line::Failed { what: "step".to_owned(), errno }]);
            assert!(heard(&failed, true).unwrap_err().contains(says), "{errno}");
        }
    }
}
