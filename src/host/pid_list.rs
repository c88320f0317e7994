//! Pid lists on kernels before Linux 3.14, which make a list when it's opened, in the opener's numbers
//! (`cgroup_pidlist_open`). Later kernels make it when it's read, in the reader's numbers.
//!
//! The server has opened the backing file, so it has the server's numbers, as of that moment. They are translated one
//! by one for the process that opened the file in the view. An agent that reopened the file would show the same. But
//! such kernels can't keep a descriptor from being reopened for writing, or its directory from being left upwards: an
//! agent that was taken over would have more rights than the container.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::gettid;
use parking_lot::Mutex;

use super::errno::errno;
use super::hierarchies::walk;
use super::hierarchies::{HostCgroups, HostHierarchy};
use super::proc::procfs;
use crate::agents::{AgentPool, PidNamespace};
use crate::cgroup::{HierarchyKind, parse_memberships};
use crate::fs::SysResult;

/// The stack of a thread that does nothing, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// How many attempts decide how the kernel makes lists. A single one can mislead. On an old kernel, another process
/// that opens the same list in between makes it anew for all. On a new kernel, a list has room for as many processes
/// as there were a moment before, and leaves out the latest (`pidlist_array_load`).
const DECIDING_ATTEMPTS: usize = 5;

/// How many bytes of a list are read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// How many bytes of lists a server keeps for open files. A container decides how many there are, and how long.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many bytes of lists a server keeps now.
#[derive(Debug, Default)]
pub(super) struct KeptBytes(AtomicUsize);

/// A kept list, which counts towards the limit while it exists.
#[derive(Debug)]
struct KeptList {
    text: String,
    counted_in: Arc<KeptBytes>,
}

impl KeptList {
    /// Keeps a text. Returns it as the error if the limit is reached.
    fn new(text: String, counted_in: &Arc<KeptBytes>) -> Result<Arc<Self>, String> {
        let before = counted_in.0.fetch_add(text.len(), Ordering::Relaxed);
        if before.saturating_add(text.len()) > KEPT_BYTES_MAX {
            counted_in.0.fetch_sub(text.len(), Ordering::Relaxed);
            return Err(text);
        }
        Ok(Arc::new(Self { text, counted_in: Arc::clone(counted_in) }))
    }
}

impl Drop for KeptList {
    fn drop(&mut self) {
        self.counted_in.0.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

/// A list as its opener sees it, as of its last read from the start, so that one descriptor shows the state of one
/// moment. Beyond [`KEPT_BYTES_MAX`] each read translates it anew, without processes that have exited since.
#[derive(Debug)]
pub(super) struct OpenerPidList {
    kept: Mutex<Option<Arc<KeptList>>>,
    counted_in: Arc<KeptBytes>,
}

impl OpenerPidList {
    /// Makes a list that hasn't been read yet.
    pub(super) fn new(counted_in: &Arc<KeptBytes>) -> Self {
        Self { kept: Mutex::default(), counted_in: Arc::clone(counted_in) }
    }

    /// Reads at an offset, in the numbers of a namespace. `read_at` reads the backing file.
    pub(super) fn read(
        &self,
        agents: &AgentPool,
        namespace: &PidNamespace,
        read_at: impl Fn(u64, &mut [u8]) -> SysResult<usize>,
        offset: u64,
        buffer: &mut [u8],
    ) -> SysResult<usize> {
        let kept = self.kept.lock().clone().filter(|_| offset != 0);
        if let Some(list) = kept {
            return Ok(copy_from(&list.text, offset, buffer));
        }
        // Hold no lock here: an agent may take long.
        let text = translated(agents, namespace, read_at)?;
        // Drop the old list first, so that it doesn't count any more.
        drop(self.kept.lock().take());
        match KeptList::new(text, &self.counted_in) {
            Ok(list) => {
                let count = copy_from(&list.text, offset, buffer);
                *self.kept.lock() = Some(list);
                Ok(count)
            }
            Err(text) => Ok(copy_from(&text, offset, buffer)),
        }
    }
}

/// Copies a text from an offset on, and returns the number of bytes.
fn copy_from(text: &str, offset: u64, buffer: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|start| text.as_bytes().get(start..)).unwrap_or_default();
    let count = rest.len().min(buffer.len());
    if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
        to.copy_from_slice(from);
    }
    count
}

/// Returns the list as the kernel prints it (`pidlist_array_load`): sorted, each number once, without processes
/// outside the namespace.
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

/// Whether this kernel makes lists when they are opened. If no attempt is possible, the kernel's version decides.
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
    decide_by_majority(|| shows_who_comes_later(hierarchy)).map(|shows| !shows)
}

/// Returns the first result on which [`DECIDING_ATTEMPTS`] attempts agree.
fn decide_by_majority(mut attempt: impl FnMut() -> SysResult<bool>) -> SysResult<bool> {
    let mut counts = [0, 0];
    loop {
        let outcome = attempt()?;
        let [no, yes] = &mut counts;
        let count = if outcome { yes } else { no };
        *count += 1;
        if *count == DECIDING_ATTEMPTS {
            return Ok(outcome);
        }
    }
}

/// Whether an open list shows a thread that starts afterwards.
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
        // Waits until the other end is gone.
        let _ = ended.recv();
    };
    let thread = std::thread::Builder::new().name("passer-by".to_owned()).stack_size(STACK_BYTES);
    let thread = thread.spawn(wait).map_err(errno)?;
    let later = started.recv().map_err(|_| Errno::EIO)?;
    let shown = procfs::read_all(list.as_fd());
    drop(end);
    let _ = thread.join();
    let shown = parse(&shown?);
    // Otherwise this process was migrated just now.
    if shown.contains(&gettid().as_raw()) { Ok(shown.contains(&later)) } else { Err(Errno::EAGAIN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_kept_up_to_a_limit_and_counted_while_they_are() {
        let counted = Arc::new(KeptBytes::default());
        let half = || KeptList::new("1".repeat(KEPT_BYTES_MAX / 2), &counted);
        let (first, second) = (half().unwrap(), half().unwrap());
        assert_eq!(KeptList::new("1\n".to_owned(), &counted).err().as_deref(), Some("1\n"));
        drop(first);
        assert!(KeptList::new("1\n".to_owned(), &counted).is_ok());
        drop(second);
        assert_eq!(counted.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_copied_begins_at_the_offset() {
        let read = |offset| {
            let mut buffer = [0; 4];
            let count = copy_from("1\n20\n", offset, &mut buffer);
            buffer[..count].to_vec()
        };
        assert_eq!(
            [0, 2, 4, 5, u64::MAX].map(read),
            [b"1\n20".to_vec(), b"20\n".to_vec(), b"\n".to_vec(), vec![], vec![]]
        );
    }

    #[test]
    fn single_attempts_decide_nothing() {
        let decide = |attempts: &str| {
            let mut attempts = attempts.chars();
            decide_by_majority(|| attempts.next().map(|attempt| attempt == 'y').ok_or(Errno::EAGAIN))
        };
        let outcomes = ["yyyyy", "nyyyyy", "yynyyny", "nnnnn", "ynnynnn", "yynn"].map(decide);
        assert_eq!(outcomes, [Ok(true), Ok(true), Ok(true), Ok(false), Ok(false), Err(Errno::EAGAIN)]);
    }

    #[test]
    fn numbers_of_a_list() {
        assert_eq!(parse(b"1\n20\n300\n"), [1, 20, 300]);
        assert_eq!(parse(b""), [] as [i32; 0]);
    }
}
