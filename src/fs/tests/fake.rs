//! A host in memory: trees of cgroups, processes, a record of all that was done, and failures on demand.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::Mutex;

use crate::cgroup::membership::CgroupLocation;
use crate::cgroup::{CgroupPath, HierarchyKind};
use crate::fs::cache::Change;
use crate::fs::host::{Asked, BackingEntry, Credentials, Follow, ProcessFacts};
use crate::fs::inode::{Node, Watch};
use crate::fs::ops::Ready;
use crate::fs::{Answer, Attributes, Caller, Changes, HandleId, Host, OpenMode, Owner, Statistics, Writer};
use crate::view::View;

use super::held::FakeWatch;
pub(super) use super::held::{FakeFile, root_credentials};
pub(super) use super::tree::{Call, FakeProcess, State};

/// The host; clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct FakeHost {
    view: Arc<View>,
    pub(super) state: Arc<Mutex<State>>,
}

impl FakeHost {
    pub(super) fn new(view: Arc<View>) -> Self {
        let mut state = State::default();
        for _ in &view.hierarchies {
            state.root();
        }
        Self { view, state: Arc::new(Mutex::new(state)) }
    }

    /// The same host behind another view.
    pub(super) fn behind(&self, view: Arc<View>) -> Self {
        Self { view, state: Arc::clone(&self.state) }
    }

    /// The backing object of a node: by its number, or else by its path, as the real host finds it.
    fn object(&self, node: &Node) -> Answer<(usize, u64)> {
        let hierarchy = node.position().hierarchy.ok_or(Errno::ENOENT)?;
        let state = self.state.lock();
        let inode = if node.inode() == 0 {
            let (_, names) = node.backing_path(&self.view).ok_or(Errno::ENOENT)?;
            names.iter().try_fold(1, |at, name| state.in_directory(hierarchy, at, name)).ok_or(Errno::ENOENT)?
        } else {
            node.inode()
        };
        state.living(hierarchy, inode)?;
        Ok((hierarchy, inode))
    }

    fn record(
        &self,
        name: &'static str,
        (hierarchy, inode): (usize, u64),
        detail: impl Into<String>,
        changes: bool,
    ) -> Answer<()> {
        let mut state = self.state.lock();
        let path = state.path(hierarchy, inode);
        state.calls.push(Call { name, hierarchy, path, detail: detail.into(), changes });
        match state.faults.iter().position(|(fault, _)| *fault == name) {
            Some(at) => Err(state.faults.remove(at).unwrap().1),
            None => Ok(()),
        }
    }

    /// A migration: unless somebody else migrates the process right before.
    fn is_still_there(&self) -> Answer<bool> {
        let mut state = self.state.lock();
        let Some((process, hierarchy, path)) = state.leaves.pop() else { return Ok(true) };
        state.processes.get_mut(&process).unwrap().places.insert(hierarchy, vec![Some(path)]);
        if state.checks_both_ends { Err(Errno::ENOENT) } else { Ok(false) }
    }

    fn is_gone(&self, file: &FakeFile) -> bool {
        self.state.lock().living(file.hierarchy, file.inode).is_err()
    }

    pub(super) fn fail(&self, name: &'static str, errno: Errno) {
        self.state.lock().faults.push_back((name, errno));
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// What was done that can change something.
    pub(super) fn changes(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.changes).collect()
    }
}

/// Tests name the fake's objects by text, so it takes no other names. The real host is given them as they are.
fn can_be_found(name: &OsStr) -> Answer<()> {
    name.to_str().map(drop).ok_or(Errno::EINVAL)
}

/// A fake process has no descriptors.
pub(super) enum NoClaim {}

impl crate::fs::ops::Claim for NoClaim {
    fn control(&self) -> crate::fs::ops::ControlFile {
        match *self {}
    }
}

impl Host for FakeHost {
    type File = FakeFile;
    type Process = i32;
    type Witnessed = ();
    /// The caller that they belong to.
    type Numbers = i32;
    type EventClaim<'a> = NoClaim;

    fn attributes(&self, node: &Node) -> Answer<Attributes> {
        let at = self.object(node)?;
        self.record("attributes", at, "", false)?;
        self.state.lock().living(at.0, at.1).map(|thing| thing.attributes)
    }

    fn file_attributes(&self, file: &FakeFile) -> Answer<Attributes> {
        Ok(self.state.lock().trees[file.hierarchy][&file.inode].attributes)
    }

    fn child(&self, directory: &Node, name: &OsStr) -> Answer<Attributes> {
        let (hierarchy, inode) = self.object(directory)?;
        self.record("child", (hierarchy, inode), name.to_string_lossy(), false)?;
        let state = self.state.lock();
        let child = state.in_directory(hierarchy, inode, name).ok_or(Errno::ENOENT)?;
        Ok(state.trees[hierarchy][&child].attributes)
    }

    fn list(&self, directory: &Node) -> Answer<Vec<BackingEntry>> {
        let (hierarchy, parent) = self.object(directory)?;
        self.record("list", (hierarchy, parent), "", false)?;
        let state = self.state.lock();
        let mut entries: Vec<BackingEntry> = state.trees[hierarchy]
            .iter()
            .filter(|(inode, thing)| **inode != 1 && !thing.removed && thing.parent == parent)
            .map(|(inode, thing)| BackingEntry {
                name: thing.name.clone(),
                inode: *inode,
                is_directory: thing.attributes.is_directory(),
            })
            .collect();
        // kernfs lists in the order of its hashes.
        entries.sort_by_key(|entry| entry.name.as_encoded_bytes().iter().rev().copied().collect::<Vec<_>>());
        Ok(entries)
    }

    fn open(&self, file: &Node, mode: OpenMode, opener: Option<&Credentials>) -> Answer<FakeFile> {
        let (hierarchy, inode) = self.object(file)?;
        let detail = format!("read={} write={} as={:?}", mode.read, mode.write, opener.map(|opener| opener.owner.uid));
        self.record("open", (hierarchy, inode), detail, false)?;
        self.state.lock().open += 1;
        Ok(FakeFile { state: Arc::clone(&self.state), hierarchy, inode, mode })
    }

    fn checks_both_ends(&self, _: &FakeFile) -> bool {
        self.state.lock().checks_both_ends
    }

    fn is_opened_inside(&self, _: &FakeFile) -> bool {
        false
    }

    fn open_checked(&self, _: &FakeFile, _: &Node, _: &Credentials) -> Option<FakeFile> {
        None
    }

    fn read(&self, file: &FakeFile, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
        self.record("read", (file.hierarchy, file.inode), offset.to_string(), false)?;
        if self.is_gone(file) {
            return Err(Errno::ENODEV);
        }
        let state = self.state.lock();
        let content = &state.trees[file.hierarchy][&file.inode].content;
        let rest = &content[content.len().min(offset as usize)..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_invalid(&self, file: &FakeFile, data: &[u8]) -> Answer<usize> {
        self.write(file, data, &Writer { owner: Owner { uid: 0, gid: 0 }, capabilities: u64::MAX, permitted: u64::MAX })
    }

    fn write_migrating(&self, file: &FakeFile, _: &Node, data: &[u8], writer: &Writer) -> Answer<usize> {
        self.write(file, data, writer)
    }

    fn write(&self, file: &FakeFile, data: &[u8], writer: &Writer) -> Answer<usize> {
        let with = if writer.capabilities == 0 { " without capabilities" } else { "" };
        let detail = format!("{} by {}{with}", String::from_utf8_lossy(data), writer.owner.uid);
        self.record("write", (file.hierarchy, file.inode), detail, true)?;
        assert!(file.mode.write, "a write to a file that was opened for reading");
        if data.len() > 4096 {
            return Err(Errno::E2BIG);
        }
        if self.is_gone(file) {
            return Err(Errno::ENODEV);
        }
        let mut state = self.state.lock();
        let thing = state.trees[file.hierarchy].get_mut(&file.inode).unwrap();
        if matches!(thing.name.to_str(), Some("cgroup.procs" | "cgroup.threads" | "tasks")) {
            let number = state.numbers.read(data)?;
            assert!(number > 4_194_304, "only what names no process may be written as a plain write: {number}");
            return Err(Errno::ESRCH);
        }
        thing.content = data.to_vec();
        Ok(data.len())
    }

    fn sync(&self, file: &FakeFile) -> Answer<()> {
        self.record("sync", (file.hierarchy, file.inode), "", false)
    }

    fn make_directory(&self, caller: &Caller, directory: &Node, name: &OsStr, mode: u32) -> Answer<Attributes> {
        let (hierarchy, parent) = self.object(directory)?;
        self.record("make_directory", (hierarchy, parent), name.to_string_lossy(), true)?;
        // As the real host: nothing but a single name.
        let bytes = name.as_encoded_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(Errno::ENOENT);
        }
        can_be_found(name)?;
        let mut state = self.state.lock();
        if state.in_directory(hierarchy, parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let inode = state.add(hierarchy, parent, name, libc::S_IFDIR | mode);
        let made = &mut state.trees[hierarchy].get_mut(&inode).unwrap().attributes;
        (made.uid, made.gid) = (caller.uid, caller.gid);
        Ok(*made)
    }

    fn remove_directory(&self, _: &Caller, directory: &Node, name: &OsStr) -> Answer<()> {
        let (hierarchy, parent) = self.object(directory)?;
        let fault = self.record("remove_directory", (hierarchy, parent), name.to_string_lossy(), true);
        let mut state = self.state.lock();
        let inode = state.in_directory(hierarchy, parent, name).ok_or(Errno::ENOENT)?;
        if !state.trees[hierarchy][&inode].attributes.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        fault?;
        let has_children = state.trees[hierarchy]
            .values()
            .any(|thing| thing.parent == inode && !thing.removed && thing.attributes.is_directory());
        if has_children {
            return Err(Errno::EBUSY);
        }
        let path = state.path(hierarchy, inode);
        state.remove(hierarchy, &path);
        Ok(())
    }

    fn rename(&self, _: &Caller, (from, name): (&Node, &OsStr), (to, new_name): (&Node, &OsStr)) -> Answer<()> {
        let ((hierarchy, parent), target) = (self.object(from)?, self.object(to)?);
        let above = self.state.lock().path(target.0, target.1);
        let detail = format!("{} to {above}/{}", name.display(), new_name.display());
        let fault = self.record("rename", (hierarchy, parent), detail, true);
        if self.view.hierarchies[hierarchy].kind == HierarchyKind::Unified {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        let inode = state.in_directory(hierarchy, parent, name).ok_or(Errno::ENOENT)?;
        if !state.trees[hierarchy][&inode].attributes.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if target != (hierarchy, parent) {
            return Err(Errno::EIO);
        }
        can_be_found(new_name)?;
        if state.in_directory(hierarchy, parent, new_name).is_some() {
            return Err(Errno::EEXIST);
        }
        fault?;
        state.trees[hierarchy].get_mut(&inode).unwrap().name = new_name.to_owned();
        Ok(())
    }

    fn change(&self, _: &Caller, node: &Node, changes: &Changes) -> Answer<()> {
        let at = self.object(node)?;
        self.record("change", at, format!("{changes:?}"), true)?;
        let mut state = self.state.lock();
        let found = &mut state.trees[at.0].get_mut(&at.1).unwrap().attributes;
        found.mode = changes.mode.map_or(found.mode, |mode| found.mode & libc::S_IFMT | mode & 0o7777);
        found.uid = changes.uid.unwrap_or(found.uid);
        found.gid = changes.gid.unwrap_or(found.gid);
        Ok(())
    }

    fn claim_event(&self, _caller: &Caller, _file: &FakeFile, _eventfd: u32, _control: u32) -> Answer<NoClaim> {
        Err(Errno::EBADF)
    }

    fn register_event(&self, claim: NoClaim, _control: &FakeFile, _arguments: &[u8]) -> Answer<()> {
        match claim {}
    }

    fn xattr(&self, node: &Node, _name: &OsStr) -> Answer<Vec<u8>> {
        self.object(node)?;
        Err(Errno::ENODATA)
    }

    fn xattrs(&self, node: &Node, reader: &Credentials) -> Answer<Vec<u8>> {
        self.object(node)?;
        Ok(if reader.id_maps.is_none() { b"trusted.x\0".to_vec() } else { Vec::new() })
    }

    fn set_xattr(&self, node: &Node, name: &OsStr, _value: &[u8], _flags: i32, _writer: &Credentials) -> Answer<()> {
        self.record("set_xattr", self.object(node)?, name.to_string_lossy(), true)
    }

    fn remove_xattr(&self, node: &Node, name: &OsStr, _writer: &Credentials) -> Answer<()> {
        self.record("remove_xattr", self.object(node)?, name.to_string_lossy(), true)
    }

    fn hold_directory(&self, directory: &Node, name: &OsStr) -> Answer<FakeFile> {
        let hierarchy = self.object(directory)?.0;
        let inode = self.child(directory, name)?.inode;
        let mut state = self.state.lock();
        state.open += 1;
        drop(state);
        let mode = OpenMode { read: false, write: false, truncate: false };
        Ok(FakeFile { state: Arc::clone(&self.state), hierarchy, inode, mode })
    }

    fn clear_xattr(&self, removed: &FakeFile, name: &OsStr) {
        self.record("clear_xattr", (removed.hierarchy, removed.inode), name.to_string_lossy(), true).unwrap();
    }

    fn has_directory(&self, hierarchy: usize, inode: u64) -> bool {
        self.state.lock().trees[hierarchy].get(&inode).is_some_and(|thing| !thing.removed)
    }

    fn statistics(&self, _hierarchy: usize) -> Answer<Statistics> {
        Ok(Statistics { block_size: 4096, name_length: 255 })
    }

    fn watch(&self, directory: &Node) -> Option<Box<dyn Watch>> {
        let at = self.object(directory).ok()?;
        self.record("watch", at, "", false).ok()?;
        *self.state.lock().watches.entry(at).or_default() += 1;
        Some(Box::new(FakeWatch { state: Arc::clone(&self.state), at }))
    }

    fn follow(&self, _: &Node) -> Option<Box<dyn Follow>> {
        None
    }

    fn forget(&self, _: &Node) {}

    fn wait_for_changes(&self) -> Option<Vec<Change>> {
        None
    }

    fn poll(&self, file: &FakeFile) -> Answer<u16> {
        self.record("poll", (file.hierarchy, file.inode), "", false)?;
        Ok(self.state.lock().polled)
    }

    fn wake_when_ready(&self, file: &FakeFile, handle: HandleId) -> Answer<()> {
        self.record("wake_when_ready", (file.hierarchy, file.inode), handle.0.to_string(), false)
    }

    fn stop_waking(&self, _file: &FakeFile) {}

    fn wait_for_ready(&self) -> Option<Vec<Ready>> {
        self.state.lock().ready.pop()
    }

    fn stop_waiting(&self) {}

    fn credentials(&self, caller: &Caller) -> Answer<Credentials> {
        let known = self.state.lock().credentials.get(&caller.tid).cloned();
        let owner = Owner { uid: caller.uid, gid: caller.gid };
        Ok(known.unwrap_or_else(|| Credentials { owner, ..root_credentials() }))
    }

    fn writer(&self, caller: &Caller) -> Answer<Writer> {
        let Credentials { owner, capabilities, permitted, id_maps, .. } = self.credentials(caller)?;
        Ok(Writer { owner, capabilities: if id_maps.is_none() { capabilities } else { 0 }, permitted })
    }

    fn process_id(&self, caller: &Caller) -> i32 {
        caller.tid
    }

    fn read_members(&self, numbers: &i32, file: &FakeFile, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
        self.record("read_members", (file.hierarchy, file.inode), numbers.to_string(), false)?;
        self.read(file, offset, buffer)
    }

    fn shows_openers_numbers(&self, _: &FakeFile) -> bool {
        false
    }

    fn pin_caller(&self, caller: &Caller) -> Answer<i32> {
        self.record("pin_caller", (0, 1), caller.tid.to_string(), false)?;
        self.state.lock().processes.contains_key(&caller.tid).then_some(caller.tid).ok_or(Errno::ESRCH)
    }

    fn pin(&self, _: &i32, number: i32) -> Answer<i32> {
        self.record("pin", (0, 1), number.to_string(), false)?;
        self.state.lock().processes.contains_key(&number).then_some(number).ok_or(Errno::ESRCH)
    }

    fn facts(&self, process: &i32) -> Answer<ProcessFacts> {
        self.record("facts", (0, 1), process.to_string(), false)?;
        let state = self.state.lock();
        let known = state.processes.get(process).ok_or(Errno::ESRCH)?;
        Ok(ProcessFacts { users: known.users, permitted: known.permitted })
    }

    fn is_in_own_user_namespace(&self, process: &i32) -> bool {
        self.state.lock().processes.get(process).is_none_or(|known| known.users[0] < 100_000)
    }

    fn passthrough(&self, _: &Node) -> Answer<std::os::fd::OwnedFd> {
        Ok(std::fs::File::open("/dev/null").map_err(|_| Errno::EIO)?.into())
    }

    fn numbers(&self, caller: &Caller) -> Answer<i32> {
        Ok(caller.tid)
    }

    fn takes_agent(_: &i32) -> bool {
        false
    }

    fn most_files(&self) -> usize {
        1 << 20
    }

    fn is_held(&self, process: &i32) -> bool {
        self.state.lock().processes.contains_key(process)
    }

    fn asks_about_scheduling(&self, hierarchy: usize) -> bool {
        self.view.hierarchies[hierarchy].kind.controllers().is_some_and(|controllers| controllers.contains("memory"))
    }

    fn asks_for_administrators(&self, _: usize) -> bool {
        false
    }

    fn is_caller(&self, process: &i32, caller: &Caller) -> bool {
        *process == caller.tid
    }

    fn places(&self, process: &mut i32, hierarchy: usize, whole_process: bool) -> Answer<Vec<CgroupLocation>> {
        self.record("places", (hierarchy, 1), format!("{process} whole={whole_process}"), false)?;
        let state = self.state.lock();
        let found =
            state.processes.get(process).and_then(|process| process.places.get(&hierarchy)).ok_or(Errno::ESRCH)?;
        let shown = found.iter().take(if whole_process { usize::MAX } else { 1 });
        let place = |path: &Option<&str>| match path {
            Some(path) => CgroupLocation::At(CgroupPath::parse(path).unwrap()),
            None => CgroupLocation::OutsideNamespace,
        };
        Ok(shown.map(place).collect())
    }

    fn procs_attributes(&self, hierarchy: usize, cgroup: &CgroupPath) -> Answer<Attributes> {
        self.record("procs_attributes", (hierarchy, 1), cgroup.to_string(), false)?;
        let state = self.state.lock();
        let inode = state.find(hierarchy, &format!("{cgroup}/cgroup.procs")).ok_or(Errno::ENOENT)?;
        Ok(state.trees[hierarchy][&inode].attributes)
    }

    fn witness(&self, file: &Node) -> Option<()> {
        self.record("witness", self.object(file).ok()?, "", false).ok()
    }

    fn settle(&self, (): (), process: i32) {
        self.state.lock().settled.push(process);
    }

    fn migrate_caller(&self, caller: &Caller, file: &FakeFile, _: Asked, _: &i32) -> Answer<bool> {
        assert!(file.mode.write, "a migration by a file that was opened for reading");
        self.record("migrate", (file.hierarchy, file.inode), format!("caller {}", caller.tid), true)?;
        if self.is_gone(file) { Err(Errno::ENODEV) } else { self.is_still_there() }
    }

    fn migrate(&self, _: &Caller, _: &i32, file: &FakeFile, number: i32, asked: Asked, _: &i32) -> Answer<bool> {
        assert!(file.mode.write, "a migration by a file that was opened for reading");
        self.record("migrate", (file.hierarchy, file.inode), format!("{number} nice={:?}", asked.nice), true)?;
        if self.is_gone(file) { Err(Errno::ENODEV) } else { self.is_still_there() }
    }
}
