//! With what size a file is shown.
//!
//! Interface files have size 0, which means nothing: whoever reads them gets what there is. But since Linux 6.5 splice(2), and sendfile(2) with it,
//! of a FUSE file ends at its size, unless the kernel reads the file by itself ([`CgroupFs::passes_through`]). So a file that the server reads has
//! the size of a page, as sysfs' files have, of which programs know that it says nothing; a longer one has what there is, rounded up.
//!
//! The kernel takes what it gets for such a splice for the size, if that's less. So it mustn't keep the attributes of a file that was ever spliced:
//! then it asks for them before each open, to check permissions. What it still has from before, or what has become longer since it was told, it's
//! sent to look up once more: an open that fails with ESTALE is done once more, with everything looked up. Twice it would be the caller's.

use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::reading::Reading;
use crate::cgroup::file::has_state_per_open_file;
use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::{Attributes, Caller, CgroupFs, FsResult, HandleId, Host, OpenMode, Transfer};

/// What a size that is shown is a multiple of: programs take one of a page for none (coreutils' wc and tail), as sysfs has it.
pub(in crate::fs) const SIZE_STEP: u64 = 4096;

/// The largest size that is shown.
const SHOWN_SIZE_MAX: u64 = 1 << 20;

impl<H: Host> CgroupFs<H> {
    /// Says who reads files, the kernel or the server.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// The size to show of a file with these attributes, which the kernel is told now.
    pub(in crate::fs) fn size_shown(&self, node: &Node, attributes: &Attributes) -> u64 {
        let Attributes { size, mode, .. } = *attributes;
        // Nobody but root reads what nobody is to read, and gets an error.
        if !self.reading.ends_at_size.load(Ordering::Acquire) || mode & 0o444 == 0 {
            return size;
        }
        let mut shown = size.max(self.size_for_splice(node));
        if shown == SIZE_STEP
            && node.size().to_tell().is_none()
            && node.size().is_open()
            && self.processor.wait().is_zero()
            && let Ok(length) = self.processor.pay_for(|| self.length(node))
        {
            // Somebody reads it now, and may fill a page of it: see below.
            shown = length;
            node.size().watch();
        }
        node.size().tell(shown);
        shown
    }

    fn size_for_splice(&self, node: &Node) -> u64 {
        let is_splicable =
            matches!(node.object(), Object::File(_)) && self.reading.ends_at_size.load(Ordering::Acquire);
        let by_kernel = self.reading.by_kernel.load(Ordering::Acquire) && self.may_pass(node);
        node.size().to_tell().unwrap_or(if is_splicable && !by_kernel { SIZE_STEP } else { 0 })
    }

    /// Whether a file that was opened for reading has to be looked at, since the kernel may know of less than there is.
    pub fn may_show_less(&self, handle: HandleId) -> bool {
        if !self.reading.ends_at_size.load(Ordering::Acquire) {
            return false;
        }
        let Some(file) = self.handles.get(handle) else { return false };
        let (node, size) = (&file.node, file.node.size());
        // What has state for each open file is short.
        let may_be_long = || node.is_membership() || !has_state_per_open_file(&node.name()) && !size.measure();
        size.is_watched() || size.told() == 0 || may_be_long()
    }

    /// Has the kernel know a size that is large enough, of a file that the server reads.
    ///
    /// # Errors
    /// `ESTALE` if the kernel has to look the file up once more, which it does at once. Never twice in a row for a caller.
    pub fn show_size(&self, caller: &Caller, handle: HandleId) -> FsResult<()> {
        let file = self.open_file(handle)?;
        let (node, size) = (&file.node, file.node.size());
        // Whoever reads what has gone meanwhile will be told so.
        let length = self.processor.pay_for(|| self.length(node)).ok();
        let Some(length) = length.filter(|length| *length > size.told()) else { return Ok(()) };
        // As long as others have it open too, it's as long as it is: should they fill a page of it now, the kernel takes what it was told
        // meanwhile for the size, and not what they get.
        size.show(if size.is_shared() { length } else { (length + 1).next_multiple_of(SIZE_STEP) });
        if file.is_retry { Ok(()) } else { Err(self.ask_to_retry(node, caller)) }
    }

    fn length(&self, node: &Node) -> FsResult<u64> {
        // By a descriptor of its own: what a list shows is the namespace's that reads it first.
        let backing = self.host.open(node, OpenMode { read: true, write: false, truncate: false }, None)?;
        let mut part = [0; 4096];
        let mut length = 0;
        // A list of processes has the server's numbers here, which have no fewer digits than anybody's.
        while length < SHOWN_SIZE_MAX {
            match self.host.read(&backing, length, &mut part)? {
                0 => break,
                count => length += count as u64,
            }
        }
        Ok(length)
    }

    /// Notes how much a read(2) gave.
    pub(in crate::fs) fn note_read(&self, from: &Transfer<H>, offset: u64, count: usize) {
        // Who may write too reads by the server also what the kernel reads by itself for others.
        if offset.saturating_add(count as u64) > from.file.node.size().told() && from.file.writes.is_none() {
            from.file.node.size().watch();
        }
    }

    /// Reads pages, to be spliced. Where that falls short the kernel takes it for the end; but a list gives a page at most, and only whole lines.
    pub(in crate::fs) fn fill(&self, from: &Transfer<H>, offset: u64, pages: &mut [u8]) -> FsResult<usize> {
        let mut filled = 0;
        while let Some(rest) = pages.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_once(from, offset.saturating_add(filled as u64), rest)? {
                0 => {
                    from.file.node.size().end_at(offset.saturating_add(filled as u64));
                    break;
                }
                count => filled += count,
            }
        }
        from.file.node.size().watch();
        Ok(filled)
    }

    /// Whether a caller who opens a file was sent to look it up once more, and comes again. That's forgotten then.
    pub fn is_retry(&self, caller: &Caller, id: NodeId) -> bool {
        self.retried_opens.is_back(id, caller)
    }

    /// Sends a caller to look a name up once more.
    pub(in crate::fs) fn ask_to_retry(&self, node: &Node, caller: &Caller) -> crate::fs::FsError {
        self.retried_opens.send(node.id(), caller);
        Errno::ESTALE.into()
    }

    /// lseek(2) for data or holes, of which a file has none (`generic_file_llseek`).
    pub fn seek(&self, id: NodeId, offset: i64, whence: i32) -> FsResult<i64> {
        let size = i64::try_from(self.size_for_splice(&*self.node(id)?)).unwrap_or(0);
        match whence {
            libc::SEEK_DATA if (0..size).contains(&offset) => Ok(offset),
            libc::SEEK_HOLE if (0..size).contains(&offset) => Ok(size),
            _ => Err(Errno::ENXIO.into()),
        }
    }
}
