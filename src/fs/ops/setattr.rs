//! Setting an object's attributes.

use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use crate::fs::inode::NodeId;
use crate::fs::inotify::InjectedOp;
use crate::fs::{Attributes, Caller, CgroupFs, FsResult, Host, SetAttr, SetTime};
use crate::policy::Operation;

impl<H: Host> CgroupFs<H> {
    /// Sets attributes: chmod(2), chown(2), truncate(2), utimensat(2).
    pub fn set_attributes(
        &self,
        caller: &Caller,
        id: NodeId,
        changes: &SetAttr,
        truncates: bool,
    ) -> FsResult<(Attributes, Duration)> {
        if self.is_left_behind(caller) {
            let node = self.node(id)?;
            let directory = node.parent().map_or(id, |directory| directory.id());
            return Err(self.show_again(directory, &node.name(), InjectedOp::Touch));
        }
        if self.replays.is_injected(caller) {
            return self.injected_set_attributes(id).inspect(|_| self.finish_shown());
        }
        let node = self.node(id)?;
        if truncates {
            // Succeeds and does nothing, as in kernfs_iop_setattr.
            self.decide(&node, Operation::Write)?;
        }
        if *changes != SetAttr::default() {
            self.decide(&node, Operation::ChangeAttributes)?;
            let change = || self.host.set_attributes(caller, &node, changes);
            match (self.change_own_attributes(&node, change), node.last_seen()) {
                // It's removed, but somebody holds it open: kernfs keeps its attributes.
                (Err(Errno::ENOENT), Some(last_seen)) => node.set_last_seen(with_changes(last_seen, changes)),
                (result, _) => result?,
            }
        }
        self.attributes(id, None)
    }
}

fn with_changes(attributes: Attributes, changes: &SetAttr) -> Attributes {
    let time = |change: Option<SetTime>, before| match change {
        None => before,
        Some(SetTime::Now) => SystemTime::now(),
        Some(SetTime::At(time)) => time,
    };
    let [access, modification, _] = attributes.times;
    Attributes {
        mode: changes.mode.map_or(attributes.mode, |mode| attributes.mode & libc::S_IFMT | mode & 0o7777),
        uid: changes.uid.unwrap_or(attributes.uid),
        gid: changes.gid.unwrap_or(attributes.gid),
        times: [time(changes.access, access), time(changes.modification, modification), SystemTime::now()],
        ..attributes
    }
}
