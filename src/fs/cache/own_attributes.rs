//! Changes of attributes that the view itself makes, which mostly need no invalidation.
//!
//! The kernel knows the attributes that such a change has. If it was told to forget them again and again, it would
//! discard each answer with new ones ([`fuse_change_attributes`]), and in the end refuse a caller by an inode that has
//! none yet. Several changes can have one event, and the host's may be in it. So the event is only taken for the
//! view's own if the attributes are those that the kernel was told last, up to the time of the change.
//!
//! [`fuse_change_attributes`]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/fs/fuse/inode.c

use std::ffi::OsStr;

use crate::fs::inode::{Attributes, Node};
use crate::fs::{CgroupFs, Host};

impl<H: Host> CgroupFs<H> {
    /// Changes attributes or xattrs of a node, as the kernel has asked for.
    pub(in crate::fs) fn change_own_attributes<T, E>(
        &self,
        node: &Node,
        change: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        node.announce_attributes();
        let done = change();
        if done.is_ok() {
            self.see_time_of_change(node);
        } else {
            node.take_announced_attributes();
        }
        done
    }

    /// The kernel asks for this time by itself after a change that it has asked for (`fuse_update_ctime`).
    fn see_time_of_change(&self, node: &Node) {
        let (Some(seen), Ok(now)) = (node.last_seen(), self.host.attributes(node)) else { return };
        let [access, modification, _] = seen.times;
        let [.., change] = now.times;
        if now == (Attributes { times: [access, modification, change], ..seen }) {
            node.set_last_seen(now);
        }
    }

    /// Whether an event about the attributes of a directory's entry belongs to a change by the view itself.
    pub(in crate::fs) fn is_own_change_of_entry(&self, directory: &Node, name: &OsStr) -> bool {
        self.nodes.child(directory, name).is_some_and(|entry| self.is_own_change_of_attributes(&entry))
    }

    /// Whether an event about a node's attributes belongs to a change by the view itself, and the kernel knows all
    /// attributes.
    pub(in crate::fs) fn is_own_change_of_attributes(&self, node: &Node) -> bool {
        node.take_announced_attributes()
            && self.host.attributes(node).is_ok_and(|now| node.last_seen().is_some_and(|seen| now == seen))
    }
}
