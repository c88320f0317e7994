//! Lists of processes on kernels before Linux 3.14, which make them when they're opened, in the opener's numbers (`cgroup_pidlist_open`).
//! Later ones make them when they're read, in the reader's.
//!
//! The server has opened the backing file, so what is in it are the server's numbers, as of that moment. They're translated one by one for
//! whoever opened the file in the view. To have an agent open the file once more would show the same, but such kernels can't keep a descriptor
//! from being opened for writing, or its directory from being left upwards: an agent that was taken over would have more than the container.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::channel;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::gettid;
use parking_lot::Mutex;

use super::errno::errno;
use super::hierarchies::walk;
use super::hierarchies::{HostCgroups, HostHierarchy};
use super::procfs;
use crate::agents::{AgentPool, PidNamespace};
use crate::cgroup::{HierarchyKind, parse_memberships};
use crate::fs::SysResult;

/// The stack of a thread that does nothing, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// How often the kernel is tried: who opens the same list between may make it anew for all.
const ATTEMPTS_MAX: usize = 3;

/// How much of a list is read at once, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// A list as its opener sees it, as of when it was last read from its start: what one descriptor shows is of one moment.
#[derive(Debug, Default)]
pub(super) struct OpenerPidList(Mutex<Option<Arc<str>>>);

impl OpenerPidList {
    /// Reads at an offset, in the numbers of a namespace. `read_at` reads the backing file.
    pub(super) fn read(
        &self,
        agents: &AgentPool,
        namespace: &PidNamespace,
        read_at: impl Fn(u64, &mut [u8]) -> SysResult<usize>,
        offset: u64,
        buffer: &mut [u8],
    ) -> SysResult<usize> {
        let known = self.0.lock().clone().filter(|_| offset != 0);
        let text = match known {
            Some(text) => text,
            None => {
                // No lock is held: an agent may take its time.
                let text: Arc<str> = translated(agents, namespace, read_at)?.into();
                *self.0.lock() = Some(Arc::clone(&text));
                text
            }
        };
        let rest = usize::try_from(offset).ok().and_then(|start| text.as_bytes().get(start..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}

/// The list, as the kernel prints it (`pidlist_array_load`): sorted, each number once, without who isn't in the namespace.
fn translated(
    agents: &AgentPool,
    namespace: &PidNamespace,
    read_at: impl Fn(u64, &mut [u8]) -> SysResult<usize>,
) -> SysResult<String> {
    let (mut text, mut piece) = (Vec::new(), vec![0; CHUNK_BYTES]);
    loop {
        match read_at(text.len() as u64, &mut piece)? {
            0 => break,
            count => text.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
    }
    // The file may have been opened long ago.
    let namespace = namespace.for_new_request().map_err(errno)?;
    let mut numbers = agents.numbers(&namespace, &parse(&text))?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers.iter().map(|number| format!("{number}\n")).collect())
}

fn parse(text: &[u8]) -> Vec<i32> {
    String::from_utf8_lossy(text).lines().filter_map(|line| line.parse().ok()).collect()
}

/// Whether this kernel makes lists when they're opened. Where it can't be tried, the kernel's version says so.
pub(super) fn are_made_at_open(cgroups: &HostCgroups) -> bool {
    let of_v1 = cgroups.hierarchies.iter().filter(|hierarchy| hierarchy.kind != HierarchyKind::Unified);
    let mut tried = of_v1.map(try_hierarchy).peekable();
    // Without cgroup v1 there are no such lists.
    if tried.peek().is_none() {
        return false;
    }
    let found = tried.find_map(Result::ok);
    found.unwrap_or_else(|| procfs::release().is_none_or(|release| release < (3, 14)))
}

fn try_hierarchy(hierarchy: &HostHierarchy) -> SysResult<bool> {
    for _ in 0..ATTEMPTS_MAX {
        if !shows_who_comes_later(hierarchy)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a list that is open shows a thread that's made then.
fn shows_who_comes_later(hierarchy: &HostHierarchy) -> SysResult<bool> {
    let own = std::fs::read("/proc/self/cgroup").map_err(errno)?;
    let own = parse_memberships(&own).into_iter().find(|membership| membership.kind == hierarchy.kind);
    let own = own.as_ref().and_then(|own| own.location.path()).ok_or(Errno::ENOENT)?;
    let cgroup = walk(hierarchy, own.components())?;
    let list = openat(&cgroup, "tasks", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let (number, started) = channel();
    let (end, ended) = channel::<()>();
    let wait = move || {
        let _ = number.send(gettid().as_raw());
        // Until the other end is gone.
        let _ = ended.recv();
    };
    let thread = std::thread::Builder::new().name("passer-by".to_owned()).stack_size(STACK_BYTES);
    let thread = thread.spawn(wait).map_err(errno)?;
    let later = started.recv().map_err(|_| Errno::EIO)?;
    let shown = procfs::read_all(list.as_fd());
    drop(end);
    let _ = thread.join();
    let shown = parse(&shown?);
    // Else this process was migrated just now.
    if shown.contains(&gettid().as_raw()) { Ok(shown.contains(&later)) } else { Err(Errno::EAGAIN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_list() {
        assert_eq!(parse(b"1\n20\n300\n"), [1, 20, 300]);
        assert_eq!(parse(b""), [] as [i32; 0]);
    }
}
