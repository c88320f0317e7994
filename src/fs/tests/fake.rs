//! A host in memory: trees of cgroups, processes, a record of all calls, and failures on demand.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::Mutex;

use crate::cgroup::HierarchyKind;
use crate::fs::host::Ready;
use crate::fs::host::Report;
use crate::fs::host::{
    BackingEntry, Credentials, FollowChanges, HostEvents, HostFiles, HostMutations, HostReadiness, HostTree, HostXattrs,
};
use crate::fs::inode::{Node, Watch};
use crate::fs::{Attributes, Caller, HandleId, OpenMode, Owner, SetAttr, Statistics, SysResult, WriterCredentials};
use crate::view::View;

use super::held::FakeWatch;
pub(super) use super::held::{FakeFile, root_credentials};
pub(super) use super::tree::{Call, FakeProcess, State};

/// The host. Clones share its state.
#[derive(Clone, Debug)]
pub(super) struct FakeHost {
    pub(super) view: Arc<View>,
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

    /// Finds the backing object of a node by its number, or else by its path, as the real host does.
    pub(super) fn object(&self, node: &Node) -> SysResult<(usize, u64)> {
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

    pub(super) fn record(
        &self,
        name: &'static str,
        (hierarchy, inode): (usize, u64),
        detail: impl Into<String>,
        changes: bool,
    ) -> SysResult<()> {
        let mut state = self.state.lock();
        let path = state.path(hierarchy, inode);
        state.calls.push(Call { name, hierarchy, path, detail: detail.into(), changes });
        match state.faults.iter().position(|(fault, _)| *fault == name) {
            Some(at) => Err(state.faults.remove(at).unwrap().1),
            None => Ok(()),
        }
    }

    /// Whether the process is still in its cgroup: a test can have it migrated right before.
    pub(super) fn is_still_there(&self) -> SysResult<bool> {
        let mut state = self.state.lock();
        let Some((process, hierarchy, path)) = state.leaves.pop() else { return Ok(true) };
        state.processes.get_mut(&process).unwrap().places.insert(hierarchy, vec![Some(path)]);
        if state.checks_both_ends { Err(Errno::ENOENT) } else { Ok(false) }
    }

    pub(super) fn is_gone(&self, file: &FakeFile) -> bool {
        self.state.lock().living(file.hierarchy, file.inode).is_err()
    }

    pub(super) fn fail(&self, name: &'static str, errno: Errno) {
        self.state.lock().faults.push_back((name, errno));
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// Returns the calls that can change something.
    pub(super) fn changes(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.changes).collect()
    }
}

/// Rejects names that aren't UTF-8: tests name the fake's objects by text. The real host accepts all names.
fn can_be_found(name: &OsStr) -> SysResult<()> {
    name.to_str().map(drop).ok_or(Errno::EINVAL)
}
impl HostTree for FakeHost {
    fn attributes(&self, node: &Node) -> SysResult<Attributes> {
        let at = self.object(node)?;
        self.record("attributes", at, "", false)?;
        self.state.lock().living(at.0, at.1).map(|thing| thing.attributes)
    }

    fn child(&self, directory: &Node, name: &OsStr) -> SysResult<Attributes> {
        let (hierarchy, inode) = self.object(directory)?;
        self.record("child", (hierarchy, inode), name.to_string_lossy(), false)?;
        let state = self.state.lock();
        let child = state.in_directory(hierarchy, inode, name).ok_or(Errno::ENOENT)?;
        Ok(state.trees[hierarchy][&child].attributes)
    }

    fn list(&self, directory: &Node) -> SysResult<Vec<BackingEntry>> {
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

    fn follow_changes(&self, _: &Node) -> Option<Box<dyn FollowChanges>> {
        None
    }

    fn has_directory(&self, hierarchy: usize, inode: u64) -> bool {
        self.state.lock().trees[hierarchy].get(&inode).is_some_and(|thing| !thing.removed)
    }

    fn statistics(&self, _hierarchy: usize) -> SysResult<Statistics> {
        Ok(Statistics { block_size: 4096, name_length: 255 })
    }
}

impl HostFiles for FakeHost {
    type File = FakeFile;

    fn open(&self, file: &Node, mode: OpenMode, opener: Option<&Credentials>) -> SysResult<FakeFile> {
        let (hierarchy, inode) = self.object(file)?;
        let detail = format!("read={} write={} as={:?}", mode.read, mode.write, opener.map(|opener| opener.owner.uid));
        self.record("open", (hierarchy, inode), detail, false)?;
        self.state.lock().open += 1;
        Ok(FakeFile { state: Arc::clone(&self.state), hierarchy, inode, mode })
    }

    fn file_attributes(&self, file: &FakeFile) -> SysResult<Attributes> {
        Ok(self.state.lock().trees[file.hierarchy][&file.inode].attributes)
    }

    fn passthrough(&self, _: &Node) -> SysResult<std::os::fd::OwnedFd> {
        Ok(std::fs::File::open("/dev/null").map_err(|_| Errno::EIO)?.into())
    }

    fn most_files(&self) -> usize {
        1 << 20
    }

    fn read(&self, file: &FakeFile, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
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

    fn write(&self, file: &FakeFile, data: &[u8], writer: &WriterCredentials) -> SysResult<usize> {
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
            assert!(number > 4_194_304, "a plain write must not name a process: {number}");
            return Err(Errno::ESRCH);
        }
        thing.content = data.to_vec();
        Ok(data.len())
    }

    fn write_migrating(&self, file: &FakeFile, _: &Node, data: &[u8], writer: &WriterCredentials) -> SysResult<usize> {
        self.write(file, data, writer)
    }

    fn write_invalid(&self, file: &FakeFile, data: &[u8]) -> SysResult<usize> {
        self.write(
            file,
            data,
            &WriterCredentials { owner: Owner { uid: 0, gid: 0 }, capabilities: u64::MAX, permitted: u64::MAX },
        )
    }

    fn sync(&self, file: &FakeFile) -> SysResult<()> {
        self.record("sync", (file.hierarchy, file.inode), "", false)
    }
}

impl HostMutations for FakeHost {
    fn make_directory(&self, caller: &Caller, directory: &Node, name: &OsStr, mode: u32) -> SysResult<Attributes> {
        let (hierarchy, parent) = self.object(directory)?;
        self.record("make_directory", (hierarchy, parent), name.to_string_lossy(), true)?;
        // Like the real host, accept only a single path component.
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

    fn remove_directory(&self, _: &Caller, directory: &Node, name: &OsStr) -> SysResult<()> {
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

    fn rename(&self, _: &Caller, (from, name): (&Node, &OsStr), (to, new_name): (&Node, &OsStr)) -> SysResult<()> {
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

    fn set_attributes(&self, _: &Caller, node: &Node, changes: &SetAttr) -> SysResult<()> {
        let at = self.object(node)?;
        self.record("change", at, format!("{changes:?}"), true)?;
        let mut state = self.state.lock();
        let found = &mut state.trees[at.0].get_mut(&at.1).unwrap().attributes;
        found.mode = changes.mode.map_or(found.mode, |mode| found.mode & libc::S_IFMT | mode & 0o7777);
        found.uid = changes.uid.unwrap_or(found.uid);
        found.gid = changes.gid.unwrap_or(found.gid);
        Ok(())
    }
}

impl HostXattrs for FakeHost {
    fn xattr(&self, node: &Node, _name: &OsStr) -> SysResult<Vec<u8>> {
        self.object(node)?;
        Err(Errno::ENODATA)
    }

    fn xattrs(&self, node: &Node, reader: &Credentials) -> SysResult<Vec<u8>> {
        self.object(node)?;
        Ok(if reader.id_maps.is_none() { b"trusted.x\0".to_vec() } else { Vec::new() })
    }

    fn set_xattr(&self, node: &Node, name: &OsStr, _value: &[u8], _flags: i32, _writer: &Credentials) -> SysResult<()> {
        self.record("set_xattr", self.object(node)?, name.to_string_lossy(), true)
    }

    fn remove_xattr(&self, node: &Node, name: &OsStr, _writer: &Credentials) -> SysResult<()> {
        self.record("remove_xattr", self.object(node)?, name.to_string_lossy(), true)
    }

    fn hold_directory(&self, directory: &Node, name: &OsStr) -> SysResult<FakeFile> {
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
}

impl HostEvents for FakeHost {
    fn watch(&self, directory: &Node) -> Option<Box<dyn Watch>> {
        let at = self.object(directory).ok()?;
        self.record("watch", at, "", false).ok()?;
        *self.state.lock().watches.entry(at).or_default() += 1;
        Some(Box::new(FakeWatch { state: Arc::clone(&self.state), at }))
    }

    fn forget(&self, _: &Node) {}

    fn wait_for_changes(&self) -> Option<Report> {
        None
    }

    fn stop_watching(&self) {}
}

impl HostReadiness for FakeHost {
    fn poll(&self, file: &FakeFile) -> SysResult<u16> {
        self.record("poll", (file.hierarchy, file.inode), "", false)?;
        Ok(self.state.lock().polled)
    }

    fn wake_when_ready(&self, file: &FakeFile, handle: HandleId) -> SysResult<()> {
        self.record("wake_when_ready", (file.hierarchy, file.inode), handle.0.to_string(), false)
    }

    fn stop_waking(&self, _file: &FakeFile) {}

    fn wait_for_ready(&self) -> Option<Vec<Ready>> {
        self.state.lock().ready.pop()
    }

    fn stop_waiting_for_ready(&self) {}
}
