//! The size that a file is shown with.
//!
//! Interface files have size 0, which means nothing: readers get the whole content. But since Linux 6.5, splice(2)
//! and sendfile(2) of a FUSE file end at its size, unless the kernel reads the file itself
//! ([`CgroupFs::passes_through`]). So a file that the server reads is shown with the size of a page, like sysfs'
//! files, and programs know that this size says nothing. A longer file is shown with its length, rounded up.
//!
//! If such a splice gets less than the size, the kernel takes the length of the answer for the size. As long as others
//! may splice the file, it's also told no more than the length: that would give them zeros ([`super::filling`]).
//! If the kernel still has that size when the file is opened again, or the file has grown since, the server fails
//! the open with ESTALE. The kernel then looks the file up again and repeats the open once. A second ESTALE would reach
//! the caller.

use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::read_mode::ReadMode;
use crate::cgroup::file::has_state_per_open_file;
use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::{Attributes, Caller, CgroupFs, FsResult, HandleId, Host, OpenMode, Transfer};

/// Sizes are shown as multiples of this. As with sysfs, programs take a size of one page for no size (coreutils' wc
/// and tail).
pub(in crate::fs) const SIZE_STEP: u64 = 4096;

/// By how much a file may grow after it was opened, in bytes.
const ROOM: u64 = 1024;

/// The largest size that is shown.
const SHOWN_SIZE_MAX: u64 = 1 << 20;

/// The size to show of a file with this length.
fn with_room(length: u64) -> u64 {
    length.saturating_add(ROOM).next_multiple_of(SIZE_STEP)
}

impl<H: Host> CgroupFs<H> {
    /// Returns who reads files, the kernel or the server.
    pub fn read_mode(&self) -> &ReadMode {
        &self.read_mode
    }

    /// Returns the size to show of a file with these attributes, and notes that the kernel is told it.
    pub(in crate::fs) fn size_shown(&self, node: &Node, attributes: &Attributes) -> u64 {
        let Attributes { size, mode, .. } = *attributes;
        if !self.read_mode.ends_at_size.load(Ordering::Acquire) {
            return size;
        }
        // Without read bits only root can open the file, and reads fail, unless somebody has taken the bits away.
        if mode & 0o444 == 0 && node.size().length().is_none() {
            node.size().note_told(size);
            return size;
        }
        let mut shown = size.max(self.size_for_splice(node));
        if shown == SIZE_STEP
            && node.size().length().is_none()
            && node.size().is_being_filled()
            && self.processor.wait().is_zero()
            && let Ok(length) = self.processor.pay_for(|| self.length(node))
        {
            shown = length;
            node.size().watch();
        }
        node.size().note_told(shown);
        shown
    }

    fn size_for_splice(&self, node: &Node) -> u64 {
        let is_splicable =
            matches!(node.object(), Object::File(_)) && self.read_mode.ends_at_size.load(Ordering::Acquire);
        let by_kernel = self.read_mode.by_kernel.load(Ordering::Acquire) && self.may_pass(node);
        match node.size().length() {
            Some(length) if node.size().is_being_filled() => length,
            // A list may have grown by the time that it's read.
            Some(length) if node.size().was_just_filled() && !node.is_membership() => length,
            Some(length) => with_room(length),
            None if is_splicable && !by_kernel => SIZE_STEP,
            None => 0,
        }
    }

    /// Whether the length of a file that was opened for reading has to be measured, since the kernel may know a
    /// smaller size.
    pub fn may_show_less(&self, handle: HandleId) -> bool {
        if !self.read_mode.ends_at_size.load(Ordering::Acquire) {
            return false;
        }
        let Some(file) = self.handles.get(handle) else { return false };
        let (node, size) = (&file.node, file.node.size());
        // Files with state for each open file are short.
        let may_be_long = || node.is_membership() || !has_state_per_open_file(&node.name()) && !size.measure();
        size.is_watched() || size.told() == 0 || may_be_long()
    }

    /// Makes the kernel know a size that is large enough, of a file that the server reads.
    ///
    /// # Errors
    /// `ESTALE` if the kernel has to look the file up again, which it does at once. Never twice in a row for a
    /// caller.
    pub fn show_size(&self, caller: &Caller, handle: HandleId) -> FsResult<()> {
        let file = self.open_file(handle)?;
        let (node, size) = (&file.node, file.node.size());
        // If the file is gone, the read reports it.
        let length = self.processor.pay_for(|| self.length(node)).ok();
        // One who was just filling a page has left the kernel with the exact length.
        let may_be_exact = || size.is_being_filled_by_others() || size.was_just_filled() && !node.is_membership();
        let is_enough = |length| length < size.told() || length == size.told() && may_be_exact();
        let Some(length) = length.filter(|length| !is_enough(*length)) else { return Ok(()) };
        // The kernel now asks for the size.
        size.note_length(length);
        if file.is_retry { Ok(()) } else { Err(self.ask_to_retry(node, caller)) }
    }

    fn length(&self, node: &Node) -> FsResult<u64> {
        // A descriptor of its own: a list shows the numbers of the namespace that reads it first.
        let backing = self.host.open(node, OpenMode { read: true, write: false, truncate: false }, None)?;
        let mut part = [0; 4096];
        let mut length = 0;
        // A pid list has the server's numbers here. They mostly have as many digits as the caller's, or more.
        while length < SHOWN_SIZE_MAX {
            match self.host.read(&backing, length, &mut part)? {
                0 => break,
                count => length += count as u64,
            }
        }
        Ok(length)
    }

    /// Notes how many bytes a read(2) returned.
    pub(in crate::fs) fn note_read(&self, from: &Transfer<H>, offset: u64, count: usize) {
        from.file.filling.note_read();
        // A file that is open for reading and writing is read by the server even if the kernel reads it itself for
        // others.
        if offset.saturating_add(count as u64) > from.file.node.size().told() && from.file.writes.is_none() {
            from.file.node.size().watch();
        }
    }

    /// Reads pages for a splice. The kernel takes a short answer for the end of the file, but a list returns at most
    /// a page, and only whole lines.
    pub(in crate::fs) fn fill(&self, from: &Transfer<H>, offset: u64, pages: &mut [u8]) -> FsResult<usize> {
        from.file.filling.begin();
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

    /// Whether a caller that opens a file was made to look it up again, and comes back. If so, forgets it.
    pub fn is_retry(&self, caller: &Caller, id: NodeId) -> bool {
        self.retried_opens.is_back(id, caller)
    }

    /// Makes a caller look a name up again.
    pub(in crate::fs) fn ask_to_retry(&self, node: &Node, caller: &Caller) -> crate::fs::FsError {
        self.retried_opens.send(node.id(), caller);
        Errno::ESTALE.into()
    }

    /// Answers lseek(2) for data or holes. These files have no holes (`generic_file_llseek`).
    pub fn seek(&self, id: NodeId, offset: i64, whence: i32) -> FsResult<i64> {
        let node = self.node(id)?;
        // No less than the kernel knows, and stat(2) shows: cp would take the rest for a hole.
        let size = i64::try_from(self.size_for_splice(&node).max(node.size().told())).unwrap_or(0);
        match whence {
            libc::SEEK_DATA if (0..size).contains(&offset) => Ok(offset),
            libc::SEEK_HOLE if (0..size).contains(&offset) => Ok(size),
            _ => Err(Errno::ENXIO.into()),
        }
    }
}
