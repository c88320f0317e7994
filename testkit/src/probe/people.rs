//! Operations on processes, threads and credentials.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, gettid, setegid, seteuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde_json::{Value, json};

use super::op::{Op, Outcome};
use super::state::{Answer, Failure, Job, State};

/// How long a killed process may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The stack size, in bytes, of a thread that only has to exist.
const SMALL_STACK: usize = 32 * 1024;

/// Performs an operation on processes, threads or credentials; `None` if it isn't one.
pub(super) fn execute(state: &Arc<State>, op: &Op) -> Option<Answer> {
    Some(match op {
        Op::Umask { mask } => {
            umask(Mode::from_bits_truncate(*mask));
            Ok(Value::Null)
        }
        Op::Seteuid { uid } => seteuid(Uid::from_raw(*uid)).map(|()| Value::Null).map_err(Failure::from),
        Op::Setegid { gid } => setegid(Gid::from_raw(*gid)).map(|()| Value::Null).map_err(Failure::from),
        Op::DropCapabilities => {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets)
                .map(|()| Value::Null)
                .map_err(|errno| Failure::Sys("capset", errno.raw_os_error()))
        }
        Op::Spawn { name, uid } => spawn(state, name, *uid),
        Op::Busy { name } => spawn_as(state, name, "--busy", None),
        Op::SpawnMany { count } => {
            (0..*count).try_for_each(|n| spawn(state, &format!("MANY{n}"), None).map(drop)).map(|()| json!(count))
        }
        Op::Thread { name } => start_thread(state, name),
        Op::ThreadMany { count } => many_threads(*count),
        Op::Kill { name } => kill(state, name),
        Op::Wait { name } => wait(state, name),
        Op::Reap => reap(state),
        Op::Reset { set } => reset(state, set),
        Op::Membership { who } => state.expand(who).and_then(|who| membership(&who)),
        // Not /proc/thread-self, which Linux 3.17 brought.
        Op::ThreadMembership => parse_membership(&format!("/proc/self/task/{}/cgroup", gettid())),
        _ => return None,
    })
}

fn spawn(state: &State, name: &str, uid: Option<u32>) -> Answer {
    spawn_as(state, name, "--sleep", uid)
}

fn spawn_as(state: &State, name: &str, what: &str, uid: Option<u32>) -> Answer {
    let mut command = Command::new(&state.exe);
    command.arg(what).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(id) = uid {
        command.uid(id).gid(id);
    }
    state.define(name, "nobody");
    let child = command.spawn()?;
    let pid = child.id();
    state.define(name, pid);
    state.children().insert(name.into(), child);
    Ok(json!(pid))
}

fn kill(state: &State, name: &str) -> Answer {
    if let Some(child) = state.children().get_mut(name) {
        child.kill()?;
    }
    wait(state, name)
}

fn wait(state: &State, name: &str) -> Answer {
    let mut children = state.children();
    let child = children.get_mut(name).ok_or(Failure::Sys("wait", nix::errno::Errno::ECHILD as i32))?;
    let ended = crate::found_within(END_TIMEOUT, || child.try_wait().transpose());
    ended.ok_or(Failure::Sys("wait", nix::errno::Errno::ETIMEDOUT as i32))??;
    children.remove(name);
    Ok(Value::Null)
}

/// Whether the kernel has sent SIGKILL to a process, or it's ending already.
fn is_killed(pid: u32) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> 8 & 1 == 1)
    };
    // What is pending is forgotten when the process has ended, so it's looked at first.
    if read("status").lines().any(pending) {
        return true;
    }
    // PF_EXITING and PF_SIGNALED: include/linux/sched.h. State and flags are the 3rd and the 9th field.
    let stat = read("stat");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let flags: u64 = fields.get(6).and_then(|flags| flags.parse().ok()).unwrap_or_default();
    stat.is_empty() || flags & 0x404 != 0
}

fn reap(state: &State) -> Answer {
    let killed: Vec<String> = {
        let children = state.children();
        children.iter().filter(|(_, child)| is_killed(child.id())).map(|(name, _)| name.clone()).collect()
    };
    for name in &killed {
        wait(state, name)?;
    }
    let mut names = killed;
    names.sort();
    Ok(json!(names))
}

fn reset(state: &State, set: &[(String, String)]) -> Answer {
    // Who never was anybody else needn't be allowed to become so.
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if nix::unistd::geteuid() != uid {
        seteuid(uid)?;
    }
    if nix::unistd::getegid() != gid {
        setegid(gid)?;
    }
    umask(Mode::from_bits_truncate(0o022));
    state.forget_all();
    let names: Vec<String> = state.children().keys().cloned().collect();
    for name in names {
        kill(state, &name)?;
    }
    for (name, value) in set {
        let value = state.expand(value)?;
        state.define(name, value);
    }
    Ok(Value::Null)
}

fn start_thread(state: &Arc<State>, name: &str) -> Answer {
    let (jobs, inbox) = channel::<Job>();
    let (born, birth) = sync_channel(1);
    let shared = Arc::clone(state);
    thread::Builder::new().name(name.to_lowercase()).spawn(move || {
        // Nobody waits for an answer whose receiver is gone: the probe is ending.
        let _ = born.send(gettid().as_raw());
        for (op, answer) in inbox {
            let _ = answer.send(shared.perform(&op));
        }
    })?;
    let tid = birth.recv().map_err(|error| Failure::Script(error.to_string()))?;
    state.define(name, tid);
    state.threads().insert(name.into(), jobs);
    Ok(json!(tid))
}

fn many_threads(count: usize) -> Answer {
    let (born, births) = channel();
    for _ in 0..count {
        let born = born.clone();
        thread::Builder::new().stack_size(SMALL_STACK).spawn(move || {
            let _ = born.send(());
            drop(born);
            loop {
                thread::park();
            }
        })?;
    }
    drop(born);
    Ok(json!(births.iter().count()))
}

/// Has a thread of the probe perform an operation.
pub(super) fn on(state: &Arc<State>, thread: &str, op: &Op) -> Outcome {
    let (answer, inbox) = channel();
    let sent = state.threads().get(thread).is_some_and(|jobs| jobs.send((op.clone(), answer)).is_ok());
    match inbox.recv() {
        Ok(outcome) if sent => outcome,
        _ => Outcome::Bad(format!("no thread {thread}")),
    }
}

fn membership(who: &str) -> Answer {
    let own = format!("/proc/self/task/{who}/cgroup");
    if fs::exists(&own)? { parse_membership(&own) } else { parse_membership(&format!("/proc/{who}/cgroup")) }
}

fn parse_membership(path: &str) -> Answer {
    let text = fs::read_to_string(path)?;
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            let name = if controllers.is_empty() { "unified" } else { controllers };
            all.insert(name.to_string(), path.to_string());
        }
    }
    Ok(json!(all))
}
