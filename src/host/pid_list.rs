//! Pid lists on kernels before Linux 3.14, which make a list when it's opened, in the opener's numbers
//! (`cgroup_pidlist_open`). Later kernels make it when it's read, in the reader's numbers.
//!
//! The server has opened the backing file, so it has the server's numbers, as of that moment. They are translated one
//! by one for the process that opened the file in the view. An agent that reopened the file would show the same. But
//! such kernels can't keep a descriptor from being reopened for writing, or its directory from being left upwards: an
//! agent that was taken over would have more rights than the container.

use std::collections::HashMap;
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
use super::proc::procfs;
use crate::agents::{AgentPool, PidNamespace};
use crate::cgroup::{HierarchyKind, parse_memberships};
use crate::fs::SysResult;

/// The stack of a thread that does nothing, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// How many attempts decide how the kernel makes lists. A single one can mislead. On an old kernel, another process
/// that opens the same list in between makes it anew for all. On a new kernel, a list has room for as many processes
/// as there were a moment before, and leaves out the latest (`pidlist_array_load`). On a kernel that is old by its
/// number, one attempt that says so decides: the other mistake would show the server's numbers to containers.
const DECIDING_ATTEMPTS: usize = 5;

/// How many bytes of a list are read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// How many bytes of lists a server keeps for open files. A container decides how many there are, and how long.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many bytes of lists a server keeps now, for each user that opened some.
#[derive(Debug, Default)]
pub(super) struct KeptBytes(Mutex<HashMap<u32, usize>>);

impl KeptBytes {
    /// Counts bytes for a user, who may have half of what the others leave. Returns whether there's room.
    fn take(&self, user: u32, bytes: usize) -> bool {
        let mut by_user = self.0.lock();
        let own = by_user.get(&user).copied().unwrap_or(0);
        let others = by_user.values().sum::<usize>() - own;
        let has_room = own.saturating_add(bytes) <= KEPT_BYTES_MAX.saturating_sub(others) / 2;
        if has_room && bytes > 0 {
            by_user.insert(user, own + bytes);
        }
        has_room
    }

    fn give_back(&self, user: u32, bytes: usize) {
        let mut by_user = self.0.lock();
        let left = by_user.get(&user).map_or(0, |own| own.saturating_sub(bytes));
        if left == 0 {
            by_user.remove(&user);
        } else {
            by_user.insert(user, left);
        }
    }
}

/// A kept list, which counts towards the limit while it exists.
#[derive(Debug)]
struct KeptList {
    text: String,
    user: u32,
    counted_in: Arc<KeptBytes>,
}

impl KeptList {
    /// Keeps a text for a user. Returns it as the error if the limit is reached.
    fn new(mut text: String, user: u32, counted_in: &Arc<KeptBytes>) -> Result<Arc<Self>, String> {
        text.shrink_to_fit();
        if !counted_in.take(user, text.len()) {
            return Err(text);
        }
        Ok(Arc::new(Self { text, user, counted_in: Arc::clone(counted_in) }))
    }
}

impl Drop for KeptList {
    fn drop(&mut self) {
        self.counted_in.give_back(self.user, self.text.len());
    }
}

/// A list as its opener sees it, as of its last read from the start, so that one descriptor shows the state of one
/// moment.
#[derive(Debug)]
pub(super) struct OpenerPidList {
    opener: u32,
    last_read: Mutex<LastRead>,
    counted_in: Arc<KeptBytes>,
}

/// The state of a list's last read from the start.
#[derive(Clone, Debug, Default)]
enum LastRead {
    /// There was none.
    #[default]
    None,
    Kept(Arc<KeptList>),
    /// The list had this many bytes, and there was no room to keep it.
    Dropped(usize),
}

impl OpenerPidList {
    /// A list that a user has opened, and that nobody has read so far.
    pub(super) fn new(opener: u32, counted_in: &Arc<KeptBytes>) -> Self {
        Self { opener, last_read: Mutex::default(), counted_in: Arc::clone(counted_in) }
    }

    /// Reads at an offset, in the numbers of a namespace. `read_at` reads the backing file.
    ///
    /// # Errors
    /// `ENOMEM` past the first part of a list that there was no room to keep; those of the agent and of `read_at`.
    pub(super) fn read(
        &self,
        agents: &AgentPool,
        namespace: &PidNamespace,
        read_at: impl Fn(u64, &mut [u8]) -> SysResult<usize>,
        offset: u64,
        buffer: &mut [u8],
    ) -> SysResult<usize> {
        let last = if offset == 0 { LastRead::None } else { self.last_read.lock().clone() };
        match last {
            LastRead::Kept(list) => return Ok(copy_from(&list.text, offset, buffer)),
            LastRead::Dropped(length) if offset >= length as u64 => return Ok(0),
            LastRead::Dropped(_) => return Err(Errno::ENOMEM),
            LastRead::None => {}
        }
        // Hold no lock here: an agent may take long.
        let text = translated(agents, namespace, read_at)?;
        // Drop the old list first, so that it doesn't count any more.
        *self.last_read.lock() = LastRead::None;
        let (count, last_read) = match KeptList::new(text, self.opener, &self.counted_in) {
            Ok(list) => (copy_from(&list.text, offset, buffer), LastRead::Kept(list)),
            Err(text) => (copy_from(&text, offset, buffer), LastRead::Dropped(text.len())),
        };
        *self.last_read.lock() = last_read;
        Ok(count)
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
    let is_old = procfs::release().is_none_or(|release| release < (3, 14));
    let try_hierarchy = |hierarchy| decide(is_old, || shows_who_comes_later(hierarchy).map(|shows| !shows));
    let mut tried = of_v1.map(try_hierarchy).peekable();
    // Without cgroup v1 there are no such lists.
    if tried.peek().is_none() {
        return false;
    }
    tried.find_map(Result::ok).unwrap_or(is_old)
}

/// Decides by attempts, each of which says whether lists are made when they are opened. `is_old`: the kernel is one
/// that makes them so, by its number.
fn decide(is_old: bool, mut attempt: impl FnMut() -> SysResult<bool>) -> SysResult<bool> {
    let mut counts = [0, 0];
    loop {
        let outcome = attempt()?;
        let [no, yes] = &mut counts;
        let count = if outcome { yes } else { no };
        *count += 1;
        if *count == DECIDING_ATTEMPTS || (outcome && is_old) {
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
    fn each_user_may_keep_half_of_what_the_others_leave() {
        let counted = Arc::new(KeptBytes::default());
        let keep = |user, bytes| KeptList::new("1".repeat(bytes), user, &counted);
        let first = keep(7, KEPT_BYTES_MAX / 2).unwrap();
        assert_eq!(keep(7, 1).err().as_deref(), Some("1"));
        let second = keep(0, KEPT_BYTES_MAX / 4).unwrap();
        assert!(keep(0, 1).is_err());
        drop(first);
        assert!(keep(7, 1).is_ok());
        drop(second);
        assert!(counted.0.lock().is_empty());
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
    fn single_attempts_decide_nothing_but_on_an_old_kernel() {
        let decide = |is_old, attempts: &str| {
            let mut attempts = attempts.chars();
            decide(is_old, || attempts.next().map(|attempt| attempt == 'y').ok_or(Errno::EAGAIN))
        };
        let outcomes =
            ["yyyyy", "nyyyyy", "yynyyny", "nnnnn", "ynnynnn", "yynn"].map(|attempts| decide(false, attempts));
        assert_eq!(outcomes, [Ok(true), Ok(true), Ok(true), Ok(false), Ok(false), Err(Errno::EAGAIN)]);
        assert_eq!(["nnnnn", "nnnny", "y"].map(|attempts| decide(true, attempts)), [Ok(false), Ok(true), Ok(true)]);
    }

    #[test]
    fn numbers_of_a_list() {
        assert_eq!(parse(b"1\n20\n300\n"), [1, 20, 300]);
        assert_eq!(parse(b""), [] as [i32; 0]);
    }
}
