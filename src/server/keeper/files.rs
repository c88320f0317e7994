//! The descriptors that the keeper and its servers share.
//!
//! They have one descriptor table. So nothing is closed when a server is killed: not `/dev/fuse`, and not the files that
//! callers have open. What the dead server has opened is still there, and before the next one starts, the keeper puts
//! the table in order: what a server starts with is put back, what is recorded stays, and the rest is closed.

use std::collections::HashSet;
use std::fs::read_link;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;

use crate::records::Records;
use crate::sys::descriptors::{NO_DESCRIPTOR, all_open, close_all, copy_above, copy_to};

/// The keeper's own descriptors, and the copies, have numbers of at least this.
pub(crate) const KEEPERS_DESCRIPTORS: RawFd = 200;

/// What a server starts with: its descriptors, and a copy of each.
#[derive(Debug)]
pub(super) struct StartFiles {
    copies: Vec<(RawFd, RawFd)>,
}

impl StartFiles {
    /// Copies all descriptors that are open now, but for `others`.
    ///
    /// # Errors
    /// EMFILE; the errors of reading `/proc/self/fd`.
    pub(super) fn of_now_but(others: &[RawFd]) -> io::Result<Self> {
        let copy = |number| Ok((number, copy_above(number, KEEPERS_DESCRIPTORS)?));
        let all = all_open()?.into_iter().filter(|number| !others.contains(number));
        Ok(Self { copies: all.map(copy).collect::<io::Result<_>>()? })
    }

    /// The number of the copy of this one.
    pub(super) fn copy_of(&self, wanted: RawFd) -> Option<RawFd> {
        self.copies.iter().find(|(number, _)| *number == wanted).map(|(_, copy)| *copy)
    }

    /// Lets go of descriptors that no server needs any more.
    pub(super) fn drop(&mut self, numbers: &[RawFd]) {
        self.copies.retain(|(number, copy)| {
            let stays = !numbers.contains(number);
            if !stays {
                close_all([*copy]);
            }
            stays
        });
    }

    /// The numbers of the copies of these.
    pub(super) fn copies_of<const N: usize>(&self, numbers: [RawFd; N]) -> Option<[RawFd; N]> {
        let copies: Vec<RawFd> = numbers.into_iter().filter_map(|number| self.copy_of(number)).collect();
        copies.try_into().ok()
    }

    /// Forgets descriptors that no server needs any more. Somebody else closes their copies.
    pub(super) fn forget(&mut self, numbers: &[RawFd]) {
        self.copies.retain(|(number, _)| !numbers.contains(number));
    }

    /// Lets go of everything that is the same device as this one.
    pub(super) fn drop_device(&mut self, device: BorrowedFd<'_>) {
        // Other descriptors lead to filesystems that nobody may serve, so none of them is asked.
        let name = |number: RawFd| read_link(format!("/proc/self/fd/{number}")).ok();
        let Some(device) = name(device.as_raw_fd()) else { return };
        let all = self.copies.iter().filter(|(_, copy)| name(*copy).as_ref() == Some(&device));
        let numbers: Vec<RawFd> = all.map(|(number, _)| *number).collect();
        self.drop(&numbers);
    }

    /// Puts the table in order for the next server. The keeper's `own` stay as they are.
    ///
    /// # Errors
    /// EMFILE; the errors of reading `/proc/self/fd`.
    pub(super) fn put_back(&self, records: &Records, own: &[RawFd]) -> io::Result<()> {
        let starts_with = |number: &RawFd| self.copies.iter().any(|(start, _)| start == number);
        // A file may have got the number of one that the server had closed.
        for number in records.descriptors().iter().filter(|number| starts_with(number)) {
            let moved = match copy_above(*number, KEEPERS_DESCRIPTORS) {
                // The server was killed while it closed the file.
                Err(Errno::EBADF) => NO_DESCRIPTOR,
                moved => moved?,
            };
            records.move_descriptor(*number, moved);
        }
        let copies = self.copies.iter().flat_map(|(start, copy)| [*start, *copy]);
        let kept: HashSet<RawFd> = copies.chain(records.descriptors()).chain(own.iter().copied()).collect();
        close_all(all_open()?.into_iter().filter(|number| !kept.contains(number)));
        self.restore()
    }

    /// Puts back what a server starts with. Nothing else changes.
    ///
    /// # Errors
    /// Those of dup3(2).
    pub(super) fn restore(&self) -> io::Result<()> {
        Ok(self.copies.iter().try_for_each(|(start, copy)| copy_to(*copy, *start))?)
    }
}
