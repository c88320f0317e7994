//! Invalidation: the server tells the kernel which data to forget.
//!
//! To forget an entry, the kernel waits for the directory's lock, and no signal ends that. So a thread of its own,
//! the notifier, sends invalidations. Its descriptor table contains only its own channel. Whatever it waits for, a
//! server that is killed releases everything else ([`super::abort_guard`]).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use fuser::{INodeNo, Notifier};

use super::abort_guard::AbortGuard;
use super::notification::notification;
use crate::fs::NodeId;
use crate::fs::cache::Invalidate;
use crate::sys;

/// `FUSE_NOTIFY_INVAL_INODE` and `FUSE_NOTIFY_INVAL_ENTRY` of linux/fuse.h.
const NODE: i32 = 2;
const ENTRY: i32 = 3;

/// A message, and the channel by which its end is reported.
type Work = (Vec<u8>, SyncSender<()>);

/// Sends invalidations to the kernel. The sender waits until the kernel has carried them out.
#[derive(Clone, Debug)]
pub(in crate::fuse) enum InvalidationSender {
    /// Sends through the notifier, which runs until all clones of this are dropped.
    Dedicated(Sender<Work>),
    /// Sends through the session's own channel, if the kernel has no second one.
    Session(Notifier),
}

impl InvalidationSender {
    /// Starts the notifier.
    pub(in crate::fuse) fn dedicated(guard: &AbortGuard) -> io::Result<Self> {
        let shared = Arc::new((guard.channel.try_clone()?, guard.notifier.try_clone()?));
        let (work, wanted) = channel();
        let (ready, started) = channel();
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("notifier".to_owned()).stack_size(256 * 1024).spawn(move || {
            let (channel, lifeline) = &*theirs;
            let taken = sys::descriptors::take_files([channel.as_fd(), lifeline.as_fd()]);
            // The caller closes the process' own descriptors.
            drop(theirs);
            match taken {
                Ok([channel, _lifeline]) => {
                    if ready.send(Ok(())).is_ok() {
                        drop(ready);
                        send_all(&channel, &wanted);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let started = started.recv().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)));
        drop(shared);
        started.map(|()| Self::Dedicated(work))
    }

    fn send(work: &Sender<Work>, message: Vec<u8>) {
        let (done, told) = sync_channel(1);
        if work.send((message, done)).is_ok() {
            let _ = told.recv();
        }
    }
}

impl Invalidate for InvalidationSender {
    fn node(&self, node: NodeId, listing: bool) {
        let pages = if listing { 0 } else { -1 };
        match self {
            Self::Dedicated(work) => Self::send(work, node_message(node.as_u64(), pages)),
            // ENOENT: the kernel doesn't know the node.
            Self::Session(notifier) => drop(notifier.inval_inode(INodeNo(node.as_u64()), pages, 0)),
        }
    }

    fn entry(&self, directory: NodeId, name: &OsStr) {
        match self {
            Self::Dedicated(work) => Self::send(work, entry_message(directory.as_u64(), name)),
            Self::Session(notifier) => drop(notifier.inval_entry(INodeNo(directory.as_u64()), name)),
        }
    }
}

fn send_all(channel: &OwnedFd, wanted: &Receiver<Work>) {
    for (message, done) in wanted {
        // ENOENT: the kernel doesn't know the node.
        let _ = nix::unistd::write(channel, &message);
        let _ = done.send(());
    }
}

/// Makes a `fuse_notify_inval_inode_out`: node, offset, length.
fn node_message(node: u64, offset: i64) -> Vec<u8> {
    notification(NODE, &[&node.to_ne_bytes(), &offset.to_ne_bytes(), &0_i64.to_ne_bytes()])
}

/// Makes a `fuse_notify_inval_entry_out`: directory, length of the name, flags, name.
fn entry_message(directory: u64, name: &OsStr) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    notification(ENTRY, &[&directory.to_ne_bytes(), &length.to_ne_bytes(), &0_u32.to_ne_bytes(), name.as_bytes(), &[0]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct fuse_out_header` and the structures after it have the same layout on every architecture
    /// (linux/fuse.h).
    #[test]
    fn messages_are_the_kernels() {
        let entry = entry_message(0x42, OsStr::new("abc"));
        let parts: [&[u8]; 7] = [
            &36_u32.to_ne_bytes(),
            &3_i32.to_ne_bytes(),
            &0_u64.to_ne_bytes(),
            &0x42_u64.to_ne_bytes(),
            &3_u32.to_ne_bytes(),
            &0_u32.to_ne_bytes(),
            b"abc\0",
        ];
        assert_eq!(entry, parts.concat());
        let node = node_message(0x42, -1);
        assert_eq!(node.len(), 40);
        assert_eq!(node.get(24..32), Some(&(-1_i64).to_ne_bytes()[..]));
    }
}
