//! What a server records of its nodes, and what the next one makes of it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Attributes, Node, NodeId, Object};
use crate::cgroup::FileClass;
use crate::records::{NodeAttributes, NodeState, Records, SavedNode};
use crate::view::{EntryPath, Position, Role};

const SYNTHETIC: u8 = 1;
const LINK: u8 = 2;
const DIRECTORY: u8 = 3;
const FILE: u8 = 4;

/// The block size of every file of a cgroupfs.
const BLOCK_SIZE: u32 = 4096;

impl Node {
    /// Records it, with this many lookups of the kernel.
    pub(super) fn keep_record(&self, records: &Arc<Records>, scope: u32, lookups: u64) {
        let parent = match self.parent() {
            Some(parent) => match parent.record() {
                Some(record) => Some(record),
                // There was no room for the directory.
                None => return,
            },
            None => None,
        };
        let (object, target) = match self.object() {
            Object::Synthetic => (SYNTHETIC, None),
            Object::Link(target) => (LINK, Some(target.as_bytes().to_vec())),
            Object::Directory => (DIRECTORY, None),
            Object::File(_) => (FILE, None),
        };
        let state = NodeState {
            id: self.id().as_u64(),
            inode: self.inode(),
            object,
            position: encode(self.position()),
            name: self.name().as_bytes().to_vec(),
            target,
            scope,
        };
        if let Some(record) = records.add_node(parent, &state, lookups) {
            self.set_record(record);
        }
    }

    /// Records its attributes.
    pub(super) fn record_attributes(&self, seen: &Attributes) {
        if let Some(record) = self.record() {
            record.set_attributes(&NodeAttributes {
                owner: [seen.uid, seen.gid],
                mode: seen.mode,
                links: seen.links,
                size: seen.size,
                times: seen.times.map(nanoseconds),
            });
        }
    }

    /// Makes a node of a record. `None` if this program doesn't understand it.
    pub(super) fn restored(
        parent: &Arc<Self>,
        saved: &SavedNode,
        classify: impl Fn(&Node, &OsStr) -> FileClass,
    ) -> Option<Self> {
        let name = OsStr::from_bytes(&saved.state.name);
        let object = match saved.state.object {
            SYNTHETIC => Object::Synthetic,
            LINK => Object::Link(OsString::from_vec(saved.state.target.clone()?)),
            DIRECTORY => Object::Directory,
            FILE => Object::File(classify(parent, name)),
            _ => return None,
        };
        let position = decode(saved.state.position)?;
        let id = NodeId::from_u64(saved.state.id);
        let node = Self::child(parent, name, id, position, object, saved.state.inode);
        if node.is_directory() {
            node.restore_changes(saved.extra);
        }
        if let Some(seen) = saved.attributes {
            let NodeAttributes { owner: [uid, gid], mode, links, size, times } = seen;
            node.restore_last_seen(Attributes {
                inode: saved.state.inode,
                mode,
                uid,
                gid,
                links,
                size,
                block_size: BLOCK_SIZE,
                times: times.map(time),
            });
        }
        Some(node)
    }
}

fn nanoseconds(time: SystemTime) -> i64 {
    let since = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => since(after),
        Err(before) => -since(before.duration()),
    }
}

fn time(nanoseconds: i64) -> SystemTime {
    let span = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds >= 0 { UNIX_EPOCH.checked_add(span) } else { UNIX_EPOCH.checked_sub(span) };
    time.unwrap_or(UNIX_EPOCH)
}

// A position's bits: the depth from 32 on, the role from 16 on, the entry path at 8, and one more than the hierarchy.
fn encode(position: Position) -> u64 {
    let (role, depth) = match position.role {
        Role::Top => (0, 0),
        Role::Ancestor { depth } => (1, depth),
        Role::HostPathStep { depth } => (2, depth),
        Role::HostRoot => (3, 0),
        Role::Boundary => (4, 0),
        Role::Inside => (5, 0),
        Role::Foreign => (6, 0),
    };
    let entry_path = match position.entry_path {
        EntryPath::Main => 0,
        EntryPath::HostPathAlias => 1,
    };
    let hierarchy = position.hierarchy.map_or(0, |hierarchy| hierarchy as u64 + 1);
    (depth as u64) << 32 | role << 16 | entry_path << 8 | hierarchy
}

fn decode(bits: u64) -> Option<Position> {
    let depth = (bits >> 32) as usize;
    let role = match bits >> 16 & 0xffff {
        0 => Role::Top,
        1 => Role::Ancestor { depth },
        2 => Role::HostPathStep { depth },
        3 => Role::HostRoot,
        4 => Role::Boundary,
        5 => Role::Inside,
        6 => Role::Foreign,
        _ => return None,
    };
    let entry_path = match bits >> 8 & 0xff {
        0 => EntryPath::Main,
        1 => EntryPath::HostPathAlias,
        _ => return None,
    };
    Some(Position { hierarchy: ((bits & 0xff) as usize).checked_sub(1), entry_path, role })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_times_come_back() {
        let roles = [
            Role::Top,
            Role::Ancestor { depth: 7 },
            Role::HostPathStep { depth: 1 },
            Role::HostRoot,
            Role::Boundary,
            Role::Inside,
            Role::Foreign,
        ];
        for role in roles {
            for (hierarchy, entry_path) in [(None, EntryPath::Main), (Some(62), EntryPath::HostPathAlias)] {
                let position = Position { hierarchy, entry_path, role };
                assert_eq!(decode(encode(position)), Some(position));
            }
        }
        assert_eq!(decode(9 << 16), None);
        for moment in [UNIX_EPOCH, UNIX_EPOCH + Duration::new(1_700_000_000, 123), UNIX_EPOCH - Duration::new(3, 7)] {
            assert_eq!(time(nanoseconds(moment)), moment);
        }
    }
}
