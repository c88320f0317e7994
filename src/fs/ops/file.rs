//! Open files: open, read, write, fsync, release.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;

use crate::cgroup::FileClass;
use crate::cgroup::file::{has_state_per_open_file, lets_files_come, migration_may_block};
use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::limits::quota::Permit;
use crate::fs::ops::filling::Filling;
use crate::fs::ops::handles::OpenFile;
use crate::fs::ops::poll::is_pressure;
use crate::fs::ops::poll_state::PollWaiters;
use crate::fs::{Caller, CgroupFs, FsError, FsResult, HandleId, Host, OpenMode, SysResult, WriterCredentials};
use crate::policy::{Grant, Operation};
use crate::records::Attempt;

/// The longest write that every interface file accepts is the kernel's `atomic_write_len`, a page. Some accept less
/// or a little more (`cpuset.cpus`), and the kernel checks that itself. The server refuses only what the kernel
/// refuses for every file of that kind.
pub(in crate::fs) const WRITE_BYTES_MAX: usize = 4096;

impl<H: Host> CgroupFs<H> {
    /// Opens a file.
    pub fn open(&self, caller: &Caller, id: NodeId, mode: OpenMode, direct: bool) -> FsResult<HandleId> {
        let node = self.node(id)?;
        let is_retry = self.is_retry(caller, id);
        if node.is_directory() {
            return Err(Errno::EISDIR.into());
        }
        let (writes, opener) = if mode.write || mode.truncate {
            let grant = self.decide(&node, Operation::Write)?;
            let mut opener = self.credentials(caller)?;
            bound_groups(&mut opener.groups, || self.host.attributes(&node).map(|attributes| attributes.gid))?;
            (Some(grant), Some(opener))
        } else {
            (None, None)
        };
        // A file whose writes all fail is never opened for writing on the host.
        let backing_mode = match writes {
            Some(Grant::FailsAtWrite(_)) => OpenMode { read: mode.read, write: false, truncate: false },
            _ => OpenMode { truncate: mode.truncate && !direct, ..mode },
        };
        let share = self.shares.take(caller.uid).ok_or(Errno::EMFILE)?;
        let _own = if backing_mode.truncate { self.own_writes.begin(&node) } else { None };
        let backing = self.host.open(&node, backing_mode, opener.as_ref()).map_err(|errno| match errno {
            // The kernel cached the name for too long. The caller has to look it up again (do_filp_open).
            Errno::ENOENT if node.note_doubted() && !is_retry => self.ask_to_retry(&node, caller),
            // No name leads here any more: the caller reopens a file that is open (kernfs_fop_open).
            Errno::ENOENT => Errno::ENODEV.into(),
            other => other.into(),
        })?;
        // kernfs has no direct I/O, and the kernel checks for it last (do_dentry_open).
        if direct {
            return Err(Errno::EINVAL.into());
        }
        let (checked, waiting) = (OnceLock::new(), PollWaiters::default());
        let shows = self.host.shows_openers_numbers(&backing).then(|| self.caller_pid_ns(caller));
        let filling = Filling::new(&node, mode.read);
        if mode.truncate {
            // The kernel sets the size to 0 itself.
            node.size().note_told(0);
        }
        let record = None;
        let file = OpenFile {
            node,
            backing,
            checked,
            writes,
            opener,
            shows,
            is_retry,
            filling,
            _share: share,
            waiting,
            record,
        };
        Ok(self.insert(file, mode, caller.uid))
    }

    pub(in crate::fs) fn credentials(&self, caller: &Caller) -> FsResult<crate::fs::host::Credentials> {
        if caller.tid <= 0 {
            return Err(crate::policy::Rule::CallerInvisible.into());
        }
        Ok(self.host.credentials(caller)?)
    }

    /// Returns the rights with which `caller` writes. A caller that isn't visible has none.
    fn writer(&self, caller: &Caller) -> FsResult<WriterCredentials> {
        if caller.tid <= 0 {
            Ok(WriterCredentials::without_capabilities(caller))
        } else {
            Ok(self.host.writer(caller)?)
        }
    }

    pub(in crate::fs) fn open_file(&self, handle: HandleId) -> FsResult<Arc<OpenFile<H>>> {
        self.handles.get(handle).ok_or(FsError::Kernel(Errno::EBADF))
    }

    /// An open file that `caller` is about to read or write.
    pub fn transfer(&self, caller: &Caller, handle: HandleId) -> FsResult<Transfer<H>> {
        let file = self.open_file(handle)?;
        let numbers = file.node.is_membership().then(|| self.caller_pid_ns(caller));
        let kind =
            || file.node.position().hierarchy.and_then(|index| self.view.hierarchy(index)).map(|found| &found.kind);
        let takes_long = match file.writes {
            Some(Grant::Plain) => {
                matches!(file.node.object(), Object::File(class) if class.write_may_block())
                    || lets_files_come(&file.node.name()).is_some()
            }
            Some(Grant::Migrate(_)) => kind().is_some_and(migration_may_block),
            _ => false,
        };
        Ok(Transfer { file, caller: *caller, numbers, takes_long, for_splice: false })
    }

    fn caller_pid_ns(&self, caller: &Caller) -> FsResult<H::PidNs> {
        if caller.tid <= 0 {
            return Err(crate::policy::Rule::CallerInvisible.into());
        }
        Ok(self.host.caller_pid_ns(caller)?)
    }

    /// Reads. Content, offsets and short reads are those of the backing file, which is open for this handle alone.
    pub fn read(&self, from: &Transfer<H>, offset: u64, buffer: &mut [u8]) -> FsResult<usize> {
        let read = || {
            if from.for_splice {
                return self.fill(from, offset, buffer);
            }
            self.read_once(from, offset, buffer).inspect(|count| self.note_read(from, offset, *count))
        };
        if from.waits_for_an_agent() { self.processor.pay_for_another(read) } else { self.processor.pay_for(read) }
    }

    pub(in crate::fs) fn read_once(&self, from: &Transfer<H>, offset: u64, buffer: &mut [u8]) -> FsResult<usize> {
        match from.file.shows.as_ref().or(from.numbers.as_ref()) {
            Some(Ok(numbers)) => Ok(self.host.read_members(numbers, &from.file.backing, offset, buffer)?),
            Some(Err(failure)) => Err(failure.clone()),
            None => Ok(from.file.waiting.while_reading(|| self.host.read(&from.file.backing, offset, buffer))?),
        }
    }

    /// Writes once. The offset is ignored, as in kernfs.
    pub fn write(&self, to: &Transfer<H>, data: &[u8]) -> FsResult<usize> {
        let write = || self.write_once(to, data);
        if to.waits_for_an_agent() { self.processor.pay_for_another(write) } else { self.processor.pay_for(write) }
    }

    fn write_once(&self, to: &Transfer<H>, data: &[u8]) -> FsResult<usize> {
        let Transfer { file, caller, numbers, .. } = to;
        match &file.writes {
            None => Err(Errno::EBADF.into()),
            Some(Grant::Plain) => {
                let writer = self.writer(caller)?;
                let own = self.own_writes.begin(&file.node);
                let written = self.records.once(|attempt| {
                    let written = match self.migrated_by(&file.node) {
                        Some(directory) => self.host.write_migrating(&file.backing, directory, data, &writer),
                        None => self.host.write(&file.backing, data, &writer),
                    };
                    match written {
                        // A server that was killed has made the trigger.
                        Err(Errno::EBUSY) if attempt == Attempt::Again && is_pressure(&file.node) => Ok(data.len()),
                        written => written,
                    }
                })?;
                drop(own);
                self.note_trigger(file);
                self.await_file_invalidation(&file.node);
                Ok(written)
            }
            Some(Grant::Migrate(list)) => self.migrate(caller, numbers.as_ref(), file, *list, data),
            Some(Grant::RegisterEvent) => self.register_event(caller, file, data),
            // The kernel's order: length, removed cgroup, nothing to write, nsdelegate.
            Some(Grant::FailsAtWrite(_)) if data.len() > WRITE_BYTES_MAX => Err(Errno::E2BIG.into()),
            Some(Grant::FailsAtWrite(denial)) => match self.host.attributes(&file.node) {
                Err(_) => Err(Errno::ENODEV.into()),
                Ok(_) if data.is_empty() => Ok(0),
                Ok(_) => Err(FsError::Denied(denial.clone())),
            },
        }
    }

    /// Returns the cgroup whose processes, or those below it, a write to this file may migrate from one cpuset to
    /// another (`cgroup_update_dfl_csses`).
    fn migrated_by<'a>(&self, written: &'a Node) -> Option<&'a Node> {
        let hierarchy = written.position().hierarchy?;
        let migrates = lets_files_come(&written.name()).is_some() && self.host.asks_about_scheduling(hierarchy);
        written.parent().filter(|_| migrates).map(|directory| &**directory)
    }

    /// Invalidates before the write returns, so that the writer finds the new files.
    fn await_file_invalidation(&self, written: &Node) {
        let (Some(hierarchy), Some(of_children)) = (written.position().hierarchy, lets_files_come(&written.name()))
        else {
            return;
        };
        if let Some(directory) = written.parent().filter(|_| !self.coherent) {
            self.replays.await_file_invalidation(hierarchy, directory.inode(), of_children);
        }
    }

    /// Keeps the kernel from reading files itself, from now on.
    pub fn disable_passthrough(&mut self) {
        self.passes_through = false;
    }

    /// Whether a file needs no handle: the kernel can read it itself, and it exists. The kernel notices a missing file only
    /// when it opens it, and then returns EIO. So this asks the host instead of relying on events.
    pub fn opens_without_a_handle(&self, id: NodeId, mode: OpenMode, direct: bool) -> bool {
        !(mode.write || mode.truncate || direct) && self.nodes.get(id).is_some_and(|node| self.is_there(&node))
    }

    fn is_there(&self, node: &Node) -> bool {
        let found = node.parent().map(|directory| self.host.child(directory, &node.name()));
        matches!(found, Some(Ok(attributes)) if attributes.inode == node.inode())
    }

    /// Whether the kernel may serve reads of a file itself, if it can.
    pub fn passes_through(&self, id: NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| self.may_pass(&node))
    }

    pub(in crate::fs) fn may_pass(&self, node: &Node) -> bool {
        self.passes_through && matches!(node.object(), Object::File(_)) && !has_state_per_open_file(&node.name())
    }

    /// Takes a backing id's permit for a user, if the quota allows it.
    pub fn take_backing_id(&self, user: u32) -> Option<Permit> {
        self.backing_ids.take(user)
    }

    /// Returns a descriptor of the file if the kernel may serve reads itself. It reads in the context of the reader, so that
    /// pid lists show the reader's numbers, and it serves splice(2), which the server never sees.
    pub fn passthrough(&self, id: NodeId) -> Option<OwnedFd> {
        let node = self.nodes.get(id).filter(|node| self.may_pass(node))?;
        self.host.passthrough(&node).ok()
    }

    /// Syncs an open file (fsync(2)).
    pub fn sync(&self, handle: HandleId) -> FsResult<()> {
        if handle == HandleId::NONE {
            // kernfs does the same: noop_fsync.
            return Ok(());
        }
        Ok(self.host.sync(&self.open_file(handle)?.backing)?)
    }

    /// Closes a file.
    pub fn release(&self, handle: HandleId) {
        drop(self.handles.remove(handle));
    }
}

/// An open file, and the caller that reads or writes it.
#[derive(Debug)]
pub struct Transfer<H: Host> {
    pub(in crate::fs) file: Arc<OpenFile<H>>,
    caller: Caller,
    /// The caller's pid namespace, if the file is a pid list.
    numbers: Option<FsResult<H::PidNs>>,
    takes_long: bool,
    pub(in crate::fs) for_splice: bool,
}

impl<H: Host> Transfer<H> {
    /// The node of the open file.
    pub fn node(&self) -> NodeId {
        self.file.node.id()
    }

    /// The caller that reads or writes.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether a write can take seconds in the kernel, or waits for an invalidation, so that no worker may wait for
    /// it.
    pub fn takes_long(&self) -> bool {
        self.takes_long
    }

    /// Whether a write ends only after requests of others have been served: it makes files come or go, and the kernel
    /// has to forget them.
    pub fn waits_for_the_view(&self) -> bool {
        lets_files_come(&self.file.node.name()).is_some()
    }

    /// Notes that the kernel fills a page for a splice: it takes the length of the answer for the size of the file.
    pub fn fill_for_splice(&mut self, for_splice: bool) {
        self.for_splice = for_splice;
    }

    /// Whether a write may be longer than a page: lists of processors are (`cpuset_common_files`: `max_write_len`).
    pub fn takes_long_text(&self) -> bool {
        matches!(self.file.node.object(), Object::File(FileClass::Controller(controller)) if controller == "cpuset")
    }

    /// Whether a write registers an event, which takes another process.
    pub fn registers_an_event(&self) -> bool {
        matches!(self.file.writes, Some(Grant::RegisterEvent))
    }

    /// Whether it needs an agent, which the container can stop.
    pub fn waits_for_an_agent(&self) -> bool {
        let whose = [&self.file.shows, &self.numbers];
        whose.into_iter().any(|numbers| matches!(numbers, Some(Ok(numbers)) if H::needs_agent(numbers)))
    }
}

/// How many supplementary groups an open file remembers. There can be 65536, which take 512 KiB for each open file,
/// half of it in the kernel (`f_cred`). Without a view, that memory is the container's, and its files share it.
const GROUPS_MAX: usize = 64;

/// Drops the groups beyond the limit, except the file's own group, which decides whether it can be opened.
fn bound_groups(groups: &mut Vec<u32>, decisive: impl FnOnce() -> SysResult<u32>) -> FsResult<()> {
    if groups.len() <= GROUPS_MAX {
        return Ok(());
    }
    let decisive = decisive()?;
    let is_member = groups.contains(&decisive);
    groups.truncate(GROUPS_MAX);
    if is_member && !groups.contains(&decisive) {
        groups.push(decisive);
    }
    groups.shrink_to_fit();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_groups_stay_and_of_many_the_decisive_one() {
        let mut few = vec![1, 2, 3];
        bound_groups(&mut few, || Err(Errno::EIO)).unwrap();
        assert_eq!(few, [1, 2, 3]);
        for (decisive, kept) in [(7, GROUPS_MAX), (60_000, GROUPS_MAX + 1), (70_000, GROUPS_MAX)] {
            let mut many: Vec<u32> = (0..65_536).collect();
            bound_groups(&mut many, || Ok(decisive)).unwrap();
            assert_eq!((many.len(), many.contains(&decisive)), (kept, decisive < 65_536));
        }
    }
}
