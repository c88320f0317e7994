//! The backing cgroupfs: every object is reached from a held directory descriptor, by its kernfs id or by single names that are never
//! followed through a symlink or onto another filesystem.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::boundary::Boundary;
use super::discover::{HostCgroups, HostHierarchy};
use super::file::BackingFile;
use super::follow::Followers;
use super::lists::OpenersList;
use super::namespace::OpenedIn;
use super::objects::Key;
use super::opening::{by_id, is_membership, open_as, open_flags, path_of, single, walk};
use super::process::{HeldProcess, Numbers};
use super::ready;
use super::shared::SharedHost;
use super::witness::{self, Witnessed};
use super::xattrs;
use crate::agents::{AgentPool, Control, EventClaim};
use crate::cgroup::HierarchyKind;
use crate::cgroup::file::has_notified_files;
use crate::fs::HandleId;
use crate::fs::cache::Change;
use crate::fs::host::{
    Answer, Asked, BackingEntry, Caller, Changes, Credentials, Follow, Host, OpenMode, Owner, ProcessFacts, Statistics,
    Writer,
};
use crate::fs::inode::{Attributes, Node, Object, Watch};
use crate::fs::ops::ControlFile;
use crate::fs::ops::Ready;
use crate::view::View;

/// The host's cgroupfs and processes behind a view.
#[derive(Debug)]
pub struct RealHost {
    pub(super) view: Arc<View>,
    pub(super) shared: Arc<SharedHost>,
    pub(super) boundary: Option<Arc<Boundary>>,
}

impl RealHost {
    /// The host behind `view`, whose hierarchies are those of `cgroups`, in that order. Without agents nothing can be asked about the
    /// processes of another pid namespace.
    ///
    /// # Errors
    /// When the server's own namespaces can't be read.
    pub fn new(view: Arc<View>, cgroups: HostCgroups, agents: Option<AgentPool>) -> std::io::Result<Self> {
        let host = Self::sharing(view, Arc::new(SharedHost::new(cgroups, agents, true)?));
        if let Some(boundary) = &host.boundary {
            boundary.attempt();
        }
        Ok(host)
    }

    /// The host behind one of several views.
    pub fn sharing(view: Arc<View>, shared: Arc<SharedHost>) -> Self {
        let boundary = Boundary::of(&view, &shared);
        Self { view, shared, boundary }
    }

    pub(super) fn hierarchy(&self, node: &Node) -> Answer<&HostHierarchy> {
        let index = node.position().hierarchy.ok_or(Errno::ENOENT)?;
        self.shared.cgroups.hierarchies.get(index).ok_or(Errno::ENOENT)
    }

    /// A descriptor (`O_PATH`) of a node's backing object. That of a directory may have been open for a while: of one that was removed since,
    /// there are still the attributes.
    pub(super) fn object(&self, node: &Node) -> Answer<Arc<OwnedFd>> {
        let Some(key) = held_as(node) else {
            return self.open_object(node).map(Arc::new);
        };
        if let Some(object) = self.shared.objects.get(key) {
            return Ok(object);
        }
        let object = Arc::new(self.open_object(node)?);
        self.shared.objects.hold(key, &object);
        if node.is_forgotten() || node.may_be_gone() {
            // It may have been let go just before.
            self.shared.objects.release(key);
        }
        Ok(object)
    }

    fn open_object(&self, node: &Node) -> Answer<OwnedFd> {
        let hierarchy = self.hierarchy(node)?;
        if hierarchy.has_handles() && node.inode() != 0 {
            return by_id(hierarchy.root(), node.inode(), libc::O_PATH);
        }
        let (_, path) = node.backing_path(&self.view).ok_or(Errno::ENOENT)?;
        let object = walk(hierarchy, &path)?;
        // What the path leads to now may be another cgroup of the same name.
        if node.inode() != 0 && fstat(&object)?.st_ino != node.inode() {
            return Err(Errno::ENOENT);
        }
        Ok(object)
    }

    /// Attributes of what `directory`, whose backing object is `object`, has under this name.
    fn child_of(&self, object: &OwnedFd, directory: &Node, name: &OsStr) -> Answer<Attributes> {
        let stat = fstatat(object, single(name)?, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let is_shown = matches!(stat.st_mode & libc::S_IFMT, libc::S_IFDIR | libc::S_IFREG);
        if stat.st_dev != self.hierarchy(directory)?.device() || !is_shown {
            return Err(Errno::ENOENT);
        }
        Ok(attributes(&stat))
    }
}

/// As what the object of a node is held open, if it's a directory.
fn held_as(node: &Node) -> Option<Key> {
    let is_known = *node.object() == Object::Directory && node.inode() != 0;
    is_known.then_some((node.position().hierarchy?, node.inode()))
}

pub(super) fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn attributes(stat: &FileStat) -> Attributes {
    let time = |seconds: i64, nanoseconds: i64| {
        let since = Duration::new(seconds.unsigned_abs(), u32::try_from(nanoseconds).unwrap_or(0));
        let time = if seconds >= 0 { UNIX_EPOCH.checked_add(since) } else { UNIX_EPOCH.checked_sub(since) };
        time.unwrap_or(UNIX_EPOCH)
    };
    Attributes {
        inode: stat.st_ino,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        block_size: u32::try_from(stat.st_blksize).unwrap_or(4096),
        times: [
            time(stat.st_atime, stat.st_atime_nsec),
            time(stat.st_mtime, stat.st_mtime_nsec),
            time(stat.st_ctime, stat.st_ctime_nsec),
        ],
    }
}

impl Host for RealHost {
    type File = BackingFile;
    type Process = HeldProcess;
    type Witnessed = Witnessed;
    type Numbers = Numbers;
    type EventClaim<'a> = EventClaim<'a>;

    fn attributes(&self, node: &Node) -> Answer<Attributes> {
        Ok(attributes(&fstat(self.object(node)?)?))
    }

    fn file_attributes(&self, file: &BackingFile) -> Answer<Attributes> {
        Ok(attributes(&fstat(&file.fd)?))
    }

    fn child(&self, directory: &Node, name: &OsStr) -> Answer<Attributes> {
        self.child_of(&*self.object(directory)?, directory, name)
    }

    fn list(&self, directory: &Node) -> Answer<Vec<BackingEntry>> {
        let object = self.object(directory)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::from_fd(openat(&object, ".", flags, Mode::empty())?)?;
        let mut entries = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let is_directory = match entry.file_type() {
                Some(kind) => kind == nix::dir::Type::Directory,
                None => match self.child(directory, name) {
                    Ok(attributes) => attributes.is_directory(),
                    Err(_) => continue,
                },
            };
            entries.push(BackingEntry { name: name.to_os_string(), inode: entry.ino(), is_directory });
        }
        Ok(entries)
    }

    fn open(&self, file: &Node, mode: OpenMode, opener: Option<&Credentials>) -> Answer<BackingFile> {
        let flags = open_flags(mode);
        let hierarchy = self.hierarchy(file)?;
        let (_entered, opened_in) = match opener {
            Some(opener) if mode.write && hierarchy.kind == HierarchyKind::Unified => self.enter_for(file, opener)?,
            _ => (None, OpenedIn::Around),
        };
        if let (Some(opener), true, false) = (opener, mode.truncate, mode.write) {
            // The kernel takes set-user and set-group bits away, or not, by the opener's rights. The mount for reading doesn't let truncate.
            open_as(&*self.object(file)?, flags | OFlag::O_TRUNC, opener)?;
        }
        let opened = self.open_backing(file, flags, mode.write, opener.filter(|_| mode.write));
        // An older kernel (5.10) still finds a removed file by its id, and kernfs_fop_open says ENODEV. By name it's gone.
        let fd = opened.map_err(|errno| if errno == Errno::ENODEV { Errno::ENOENT } else { errno })?;
        let is_list = mode.read && is_membership(file) && hierarchy.kind != HierarchyKind::Unified;
        let list = (is_list && self.shared.lists_are_made_at_open()).then(OpenersList::default);
        Ok(BackingFile::new(fd, opened_in, list))
    }

    fn checks_both_ends(&self, file: &BackingFile) -> bool {
        self.boundary.as_ref().is_some_and(|boundary| boundary.is_checked(file.opened_in))
    }

    fn is_opened_inside(&self, file: &BackingFile) -> bool {
        file.opened_in == OpenedIn::Inside
    }

    fn open_checked(&self, file: &BackingFile, node: &Node, opener: &Credentials) -> Option<BackingFile> {
        if file.opened_in != OpenedIn::Around || self.hierarchy(node).ok()?.kind != HierarchyKind::Unified {
            return None;
        }
        let _entered = self.boundary.as_ref()?.enter()?;
        let mode = OpenMode { read: false, write: true, truncate: false };
        let fd = self.open_backing(node, open_flags(mode), true, Some(opener)).ok()?;
        Some(BackingFile::new(fd, OpenedIn::Boundary, None))
    }

    fn passthrough(&self, file: &Node) -> Answer<OwnedFd> {
        let hierarchy = self.hierarchy(file)?;
        if hierarchy.has_handles() && file.inode() != 0 {
            return by_id(hierarchy.root(), file.inode(), libc::O_RDONLY);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path_of(&*self.object(file)?).as_str(), flags, Mode::empty())
    }

    fn most_files(&self) -> usize {
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        limit.map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
    }

    fn read(&self, file: &BackingFile, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
        file.read_at(offset, buffer)
    }

    fn write(&self, file: &BackingFile, data: &[u8], writer: &Writer) -> Answer<usize> {
        self.write_by(writer, file, data)
    }

    fn write_migrating(&self, file: &BackingFile, directory: &Node, data: &[u8], writer: &Writer) -> Answer<usize> {
        self.write_migrating_by(writer, file, directory, data)
    }

    fn write_invalid(&self, file: &BackingFile, data: &[u8]) -> Answer<usize> {
        file.write_once(data)
    }

    fn sync(&self, file: &BackingFile) -> Answer<()> {
        nix::unistd::fsync(&file.fd)
    }

    fn make_directory(&self, caller: &Caller, directory: &Node, name: &OsStr, mode: u32) -> Answer<Attributes> {
        let above = self.object(directory)?;
        self.make_directory_as(caller, &above, name, mode)?;
        self.child_of(&above, directory, name)
    }

    fn remove_directory(&self, caller: &Caller, directory: &Node, name: &OsStr) -> Answer<()> {
        self.remove_directory_as(caller, &*self.object(directory)?, name)
    }

    fn rename(&self, caller: &Caller, (from, name): (&Node, &OsStr), (to, new_name): (&Node, &OsStr)) -> Answer<()> {
        self.rename_as(caller, (&*self.object(from)?, name), (&*self.object(to)?, new_name))
    }

    fn change(&self, caller: &Caller, node: &Node, changes: &Changes) -> Answer<()> {
        self.change_as(caller, &*self.object(node)?, changes)
    }

    fn xattr(&self, node: &Node, name: &OsStr) -> Answer<Vec<u8>> {
        xattrs::get(&*self.object(node)?, name)
    }

    fn xattrs(&self, node: &Node, reader: &Credentials) -> Answer<Vec<u8>> {
        xattrs::list(&*self.object(node)?, reader)
    }

    fn set_xattr(&self, node: &Node, name: &OsStr, value: &[u8], flags: i32, writer: &Credentials) -> Answer<()> {
        xattrs::set(&*self.object(node)?, name, value, flags, writer)
    }

    fn remove_xattr(&self, node: &Node, name: &OsStr, writer: &Credentials) -> Answer<()> {
        xattrs::remove(&*self.object(node)?, name, writer)
    }

    fn hold_directory(&self, directory: &Node, name: &OsStr) -> Answer<BackingFile> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&*self.object(directory)?, single(name)?, flags, Mode::empty())?;
        Ok(BackingFile::new(fd, OpenedIn::Around, None))
    }

    fn clear_xattr(&self, removed: &BackingFile, name: &OsStr) {
        // It may have been removed by others.
        let _ = xattrs::clear(&removed.fd, name);
    }

    fn has_directory(&self, hierarchy: usize, inode: u64) -> bool {
        let hierarchy = self.shared.cgroups.hierarchies.get(hierarchy);
        hierarchy.is_none_or(|hierarchy| {
            !hierarchy.has_handles() || by_id(hierarchy.root(), inode, libc::O_PATH).err() != Some(Errno::ENOENT)
        })
    }

    fn statistics(&self, hierarchy: usize) -> Answer<Statistics> {
        let hierarchy = self.shared.cgroups.hierarchies.get(hierarchy).ok_or(Errno::ENOENT)?;
        let statistics = nix::sys::statfs::fstatfs(hierarchy.root())?;
        Ok(Statistics { block_size: u32::try_from(statistics.block_size()).unwrap_or(4096), name_length: 255 })
    }

    fn watch(&self, directory: &Node) -> Option<Box<dyn Watch>> {
        let hierarchy = directory.position().hierarchy?;
        let files = has_notified_files(&self.view.hierarchy(hierarchy)?.kind);
        self.shared.watches.as_ref()?.add((hierarchy, directory.inode()), self.object(directory).ok()?.as_fd(), files)
    }

    fn follow(&self, directory: &Node) -> Option<Box<dyn Follow>> {
        let files = self.hierarchy(directory).ok()?.kind == HierarchyKind::Unified;
        let object = self.object(directory).ok()?;
        self.shared.followers.get_or_init(Followers::new).as_ref()?.follow(object.as_fd(), files)
    }

    fn forget(&self, node: &Node) {
        if let Some(key) = held_as(node) {
            self.shared.objects.release(key);
        }
    }

    fn wait_for_changes(&self) -> Option<Vec<Change>> {
        self.shared.watches.as_ref()?.wait()
    }

    fn poll(&self, file: &BackingFile) -> Answer<u16> {
        ready::state(&file.fd)
    }

    fn wake_when_ready(&self, file: &BackingFile, handle: HandleId) -> Answer<()> {
        self.shared.ready.arm(&file.fd, handle)
    }

    fn stop_waking(&self, file: &BackingFile) {
        self.shared.ready.disarm(&file.fd);
    }

    fn wait_for_ready(&self) -> Option<Vec<Ready>> {
        self.shared.ready.wait()
    }

    fn stop_waiting(&self) {
        self.shared.ready.stop();
        if let Some(watches) = &self.shared.watches {
            watches.stop();
        }
    }

    fn credentials(&self, caller: &Caller) -> Answer<Credentials> {
        self.shared.processes.credentials(caller)
    }

    fn writer(&self, caller: &Caller) -> Answer<Writer> {
        self.shared.processes.writer(caller)
    }

    fn process_id(&self, caller: &Caller) -> i32 {
        self.shared.processes.process_id(caller)
    }

    fn numbers(&self, caller: &Caller) -> Answer<Numbers> {
        self.shared.processes.numbers(caller)
    }

    fn takes_agent(numbers: &Numbers) -> bool {
        matches!(numbers, Numbers::Of(_))
    }

    fn read_members(&self, numbers: &Numbers, file: &BackingFile, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
        match numbers {
            Numbers::Own => self.read(file, offset, buffer),
            Numbers::Of(namespace) => {
                let agents = self.shared.processes.agents()?;
                match &file.list {
                    Some(list) => list.read(agents, namespace, file, offset, buffer),
                    None => agents.read(namespace, file.fd.as_fd(), offset, buffer),
                }
            }
        }
    }

    fn shows_openers_numbers(&self, file: &BackingFile) -> bool {
        file.list.is_some()
    }

    fn pin_caller(&self, caller: &Caller) -> Answer<HeldProcess> {
        self.shared.processes.pin_own(caller.tid)
    }

    fn pin(&self, numbers: &Numbers, number: i32) -> Answer<HeldProcess> {
        self.shared.processes.pin(numbers, number)
    }

    fn places(
        &self,
        process: &mut HeldProcess,
        hierarchy: usize,
        whole_process: bool,
    ) -> Answer<Vec<crate::cgroup::membership::CgroupLocation>> {
        self.shared.processes.places(process, hierarchy, whole_process)
    }

    fn facts(&self, process: &HeldProcess) -> Answer<ProcessFacts> {
        super::process::facts(process)
    }

    fn is_in_own_user_namespace(&self, process: &HeldProcess) -> bool {
        self.shared.processes.is_of_own_user_namespace(process.directory())
    }

    fn is_held(&self, process: &HeldProcess) -> bool {
        process.is_held()
    }

    fn asks_about_scheduling(&self, hierarchy: usize) -> bool {
        self.shared.cgroups.hierarchies.get(hierarchy).is_some_and(HostHierarchy::has_cpuset)
    }

    fn asks_for_administrators(&self, hierarchy: usize) -> bool {
        self.shared.cgroups.hierarchies.get(hierarchy).is_some_and(HostHierarchy::has_devices)
    }

    fn procs_attributes(&self, hierarchy: usize, cgroup: &crate::cgroup::CgroupPath) -> Answer<Attributes> {
        let hierarchy = self.shared.cgroups.hierarchies.get(hierarchy).ok_or(Errno::ENOENT)?;
        let names: Vec<OsString> = cgroup.components().iter().cloned().chain(["cgroup.procs".into()]).collect();
        Ok(attributes(&fstat(walk(hierarchy, &names)?)?))
    }

    fn migrate_caller(&self, caller: &Caller, file: &BackingFile, asked: Asked, process: &HeldProcess) -> Answer<bool> {
        self.migrate_caller_by(caller, file, asked, process)
    }

    fn migrate(
        &self,
        caller: &Caller,
        numbers: &Numbers,
        file: &BackingFile,
        number: i32,
        asked: Asked,
        process: &HeldProcess,
    ) -> Answer<bool> {
        self.migrate_number(caller, numbers, file, number, asked, process)
    }

    fn is_caller(&self, process: &HeldProcess, caller: &Caller) -> bool {
        process.host_number() == Some(caller.tid)
    }

    fn witness(&self, file: &Node) -> Option<Witnessed> {
        witness::begin(&self.shared, &self.view, file.position().hierarchy?)
    }

    fn settle(&self, witnessed: Witnessed, process: HeldProcess) {
        witnessed.settle(process);
    }

    fn claim_event(
        &self,
        caller: &Caller,
        event_control: &BackingFile,
        eventfd: u32,
        control: u32,
    ) -> Answer<EventClaim<'_>> {
        let registrar = self.shared.registrar.as_ref().ok_or(Errno::EACCES)?;
        registrar.claim(caller.tid, eventfd, control, event_control.fd.as_fd())
    }

    fn register_event(&self, claim: EventClaim<'_>, control: &BackingFile, arguments: &[u8]) -> Answer<()> {
        claim.register(control.fd.as_fd(), arguments)
    }
}

impl crate::fs::ops::Claim for EventClaim<'_> {
    fn control(&self) -> ControlFile {
        let Control { node, mode, uid, gid } = self.control();
        ControlFile { node, mode, owner: Owner { uid, gid } }
    }
}
