//! What a filesystem records of its open files, and how it continues where an earlier server was killed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::cache::told::cgroups;
use super::host::{Credentials, EntryChange, HostEvent, Report};
use super::inode::{Cgroups, Node};
use super::left_behind::LeftBehind;
use super::ops::filling::Filling;
use super::ops::handles::OpenFile;
use super::ops::poll_state::PollWaiters;
use super::{Caller, CgroupFs, HandleId, Host, OpenMode, Owner};
use crate::cgroup::IdMap;
use crate::policy::Operation;
use crate::records::{FileState, Number, Records, SELF_MOUNT_THREADS, SavedFile};

// The bits of an open file's mode; above them how the host has opened it.
const READ: u32 = 1;
const WRITE: u32 = 2;
const MAY_WRITE: u32 = 4;
const HOW_SHIFT: u32 = 8;

/// How many handles the servers of a connection number before they would use the numbers of the next one's.
const HANDLES_SHIFT: u32 = 40;

impl<H: Host> CgroupFs<H> {
    /// Keeps an open file, and records it.
    pub(super) fn insert(&self, mut file: OpenFile<H>, mode: OpenMode, user: u32) -> HandleId {
        let handle = self.handles.number();
        // Before the record: a server that finds the record knows whether the kernel was told of the handle.
        self.records.note_opened(handle.0);
        let recorded = self.host.recorded(&file.backing).zip(file.node.record());
        // A list in the numbers of its opener can't be taken over.
        if let Some(((descriptor, how), node)) = recorded.filter(|_| file.shows.is_none()) {
            let bit = |is_set, bit| if is_set { bit } else { 0 };
            let bits = bit(mode.read, READ) | bit(mode.write, WRITE) | bit(file.writes.is_some(), MAY_WRITE);
            file.record = self.records.add_file(&FileState {
                handle: handle.0,
                node: node.number(),
                descriptor,
                mode: bits | u32::from(how) << HOW_SHIFT,
                user,
                opener: file.opener.as_ref().map(encode),
            });
        }
        self.handles.insert(handle, file);
        handle
    }

    /// Continues with what an earlier server has recorded.
    pub(super) fn resume(&self, left: LeftBehind) {
        let LeftBehind { nodes, files } = left;
        self.handles.begin_at((self.records.get(Number::Starts) << HANDLES_SHIFT) + HandleId::NONE.0 + 1);
        for saved in files {
            let record = self.records.take_over_file(&saved);
            if let Some(mut file) = nodes.get(&saved.state.node).and_then(|node| self.restored(node, &saved)) {
                file.record = Some(record);
                self.handles.insert(HandleId(saved.state.handle), file);
            }
        }
        for node in nodes.values() {
            if let Some(number) = node.record().and_then(|record| record.watch()) {
                self.watch_by(node, || self.host.watch_again(node, number));
            }
        }
    }

    /// Notes the thread that uses the view's own mount from now on.
    pub fn note_own_thread(&self) {
        let thread = self.own_thread().load(Ordering::Acquire);
        let turn = self.records.get(Number::Starts) as usize % SELF_MOUNT_THREADS;
        self.records.set_nth(Number::SelfMountThreads, turn, u64::from(thread.unsigned_abs()));
    }

    /// Whether a request is one that an earlier server made through the view's own mount. It means something else than
    /// the same request of others: that server showed a change of the host to watchers. A killed thread waits for the
    /// answer, so its number is no other's.
    pub(super) fn is_left_behind(&self, caller: &Caller) -> bool {
        let is_it = |turn| self.records.get_nth(Number::SelfMountThreads, turn) == u64::from(caller.tid.unsigned_abs());
        caller.tid > 0 && Records::is_sent_again() && (0..SELF_MOUNT_THREADS).any(is_it)
    }

    fn restored(&self, node: &Arc<Node>, saved: &SavedFile) -> Option<OpenFile<H>> {
        let FileState { descriptor, mode, user, opener, .. } = &saved.state;
        let how = (mode >> HOW_SHIFT) as u8;
        let backing = self.host.take_over(*descriptor, how)?;
        let checked = OnceLock::new();
        if let Some(again) = saved.checked.and_then(|descriptor| self.host.take_over_checked(descriptor)) {
            let _ = checked.set(again);
        }
        let writes = if mode & MAY_WRITE != 0 { Some(self.decide(node, Operation::Write).ok()?) } else { None };
        let waiting = PollWaiters::default();
        waiting.set_latch(saved.latch);
        Some(OpenFile {
            node: Arc::clone(node),
            backing,
            checked,
            writes,
            opener: opener.as_deref().and_then(decode),
            shows: None,
            is_retry: false,
            filling: Filling::new(node, true),
            _share: self.shares.take(*user)?,
            waiting,
            record: None,
        })
    }

    /// Returns the changes of the host that an earlier server may not have dealt with. Also finds out what watchers knew
    /// before these. To be called once, before the kernel is answered.
    pub fn changes_left(&self) -> Report {
        let is_told = |node: &Arc<Node>| node.record().is_some_and(|record| record.is_told());
        let told: Vec<Arc<Node>> = self.nodes.directories().into_iter().filter(is_told).collect();
        // Listed first: a change after this is among those that are left.
        let now: Vec<Cgroups> =
            told.iter().map(|node| self.shown(node).map(|shown| cgroups(&shown)).unwrap_or_default()).collect();
        let left = self.host.changes_left();
        // The kernel itself tells watchers of these, or has told them.
        let mut own = self.own.awaited();
        let others: Vec<&HostEvent> =
            left.changes.iter().map(|(change, _)| change).filter(|change| !own.take(change)).collect();
        for (node, mut cgroups) in told.into_iter().zip(now) {
            for change in others.iter().rev() {
                undo(change, &node, &mut cgroups);
            }
            node.note_listed_cgroups(|| cgroups);
        }
        left
    }
}

/// Takes a change of a directory's cgroups back.
fn undo(change: &HostEvent, directory: &Node, cgroups: &mut Cgroups) {
    let is_here =
        |hierarchy: usize, inode: u64| directory.position().hierarchy == Some(hierarchy) && directory.inode() == inode;
    match change {
        HostEvent::Entry { hierarchy, directory, name: Some(name), kind } if is_here(*hierarchy, *directory) => {
            match kind {
                EntryChange::Made => drop(cgroups.remove(name)),
                EntryChange::Removed => drop(cgroups.insert(name.clone(), 0)),
                EntryChange::Renamed | EntryChange::Other => {}
            }
        }
        HostEvent::Renamed { hierarchy, directory, from, to } if is_here(*hierarchy, *directory) => {
            let number = cgroups.remove(to).unwrap_or(0);
            cgroups.insert(from.clone(), number);
        }
        _ => {}
    }
}

/// The opener's rights as a record has them: numbers one after the other, and the id maps as text.
fn encode(opener: &Credentials) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [opener.thread.cast_unsigned(), opener.owner.uid, opener.owner.gid] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [opener.capabilities, opener.permitted] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(u32::try_from(opener.groups.len()).unwrap_or(0).to_ne_bytes());
    bytes.extend(opener.groups.iter().flat_map(|group| group.to_ne_bytes()));
    if let Some((users, groups)) = &opener.id_maps {
        bytes.extend([users.to_string(), groups.to_string()].join("\0").into_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Credentials> {
    let mut rest = bytes;
    let mut number = || {
        let (first, others) = rest.split_first_chunk()?;
        rest = others;
        Some(u32::from_ne_bytes(*first))
    };
    let (thread, uid, gid) = (number()?.cast_signed(), number()?, number()?);
    let mut long = || {
        let halves = [number()?.to_ne_bytes(), number()?.to_ne_bytes()].concat();
        Some(u64::from_ne_bytes(halves.try_into().ok()?))
    };
    let (capabilities, permitted) = (long()?, long()?);
    let count = number()?;
    let groups = (0..count).map(|_| number()).collect::<Option<Vec<u32>>>()?;
    let id_maps = if rest.is_empty() {
        None
    } else {
        let (users, groups) = std::str::from_utf8(rest).ok()?.split_once('\0')?;
        Some((IdMap::parse(users), IdMap::parse(groups)))
    };
    Some(Credentials { thread, owner: Owner { uid, gid }, groups, capabilities, permitted, id_maps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_openers_rights_come_back() {
        let maps = |text: &str| IdMap::parse(text);
        let mut opener = Credentials {
            thread: 4711,
            owner: Owner { uid: 1000, gid: u32::MAX },
            groups: Vec::new(),
            capabilities: 1 << 40 | 7,
            permitted: u64::MAX,
            id_maps: None,
        };
        assert_eq!(decode(&encode(&opener)), Some(opener.clone()));
        opener.groups = (1..70).collect();
        opener.id_maps = Some((maps("0 100000 65536\n70000 1000 1"), maps("")));
        assert_eq!(decode(&encode(&opener)), Some(opener.clone()));
        let bytes = encode(&opener);
        assert_eq!(decode(&bytes[..20]), None);
    }
}
