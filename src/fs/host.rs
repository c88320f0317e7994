//! What the filesystem needs of the host: the backing cgroupfs and the processes that call.
//!
//! The real one is `host::RealHost`; tests have a fake tree.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use nix::errno::Errno;

use crate::cgroup::membership::CgroupLocation;
use crate::cgroup::{CgroupPath, IdMap};
use crate::fs::HandleId;
use crate::fs::cache::Change;
use crate::fs::inode::{Attributes, Node, Watch};
use crate::fs::ops::Ready;

/// What the kernel answers: a value, or its errno, verbatim.
pub type Answer<T> = Result<T, Errno>;

/// An entry of a backing directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingEntry {
    /// Its name.
    pub name: OsString,
    /// Its inode number.
    pub inode: u64,
    /// Whether it's a directory.
    pub is_directory: bool,
}

/// Whoever makes a request, as FUSE's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its *thread* id in the server's pid namespace; 0 if it can't be seen from there.
    pub tid: i32,
    /// Its fsuid.
    pub uid: u32,
    /// Its fsgid.
    pub gid: u32,
}

/// With which rights a file is opened: the kernel judges by the opener's for as long as it's open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The thread that they were read of, which has its number for as long as it waits for its answer.
    pub thread: i32,
    /// fsuid and fsgid.
    pub owner: Owner,
    /// Supplementary groups; none where they can't decide anything ([`Credentials::overrides_permissions`]).
    pub groups: Vec<u32>,
    /// The effective capabilities, a bit each, in the process' own user namespace.
    pub capabilities: u64,
    /// The permitted ones.
    pub permitted: u64,
    /// The users and groups of that user namespace, as ranges of the server's; `None` if it is the server's, so that the capabilities
    /// count towards all of the host's objects.
    pub id_maps: Option<(IdMap, IdMap)>,
}

/// `CAP_DAC_OVERRIDE`, linux/capability.h.
const CAP_DAC_OVERRIDE: u64 = 1 << 1;

/// `CAP_DAC_READ_SEARCH`, linux/capability.h.
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;

impl Credentials {
    /// Whether the permissions of the host's objects don't count for them, whosesoever these are.
    pub fn overrides_permissions(&self) -> bool {
        self.id_maps.is_none() && self.capabilities & CAP_DAC_OVERRIDE != 0
    }

    /// Whether they suffice to write an object (`generic_permission`).
    pub fn may_write(&self, object: &Attributes) -> bool {
        self.may(0o222, CAP_DAC_OVERRIDE, object.mode, Owner { uid: object.uid, gid: object.gid })
    }

    /// Whether they suffice to read an object with this mode and owner.
    pub fn may_read(&self, mode: u32, owner: Owner) -> bool {
        self.may(0o444, CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH, mode, owner)
    }

    fn may(&self, bits: u32, capabilities: u64, mode: u32, owner: Owner) -> bool {
        let class = if self.owner.uid == owner.uid {
            0o700
        } else if self.owner.gid == owner.gid || self.groups.contains(&owner.gid) {
            0o070
        } else {
            0o007
        };
        mode & class & bits != 0 || self.capabilities_over(owner) & capabilities != 0
    }

    /// The capabilities that stand in for being the user to whom an object belongs (`inode_owner_or_capable`).
    pub fn capabilities_over_user(&self, uid: u32) -> u64 {
        match &self.id_maps {
            Some((users, _)) if !users.contains(uid) => 0,
            _ => self.capabilities,
        }
    }

    /// The capabilities that count towards an object with this owner (`capable_wrt_inode_uidgid`).
    pub fn capabilities_over(&self, object: Owner) -> u64 {
        match &self.id_maps {
            Some((users, groups)) if !(users.contains(object.uid) && groups.contains(object.gid)) => 0,
            _ => self.capabilities,
        }
    }
}

/// With which rights something is written: at each write the kernel asks some of the writer's of that moment (`capable`), whoever opened the
/// file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// fsuid and fsgid: the owner of files that appear by the write.
    pub owner: Owner,
    /// The effective capabilities that count towards the host, a bit each: none of a writer in another user namespace than the server's.
    pub capabilities: u64,
    /// The permitted ones, in his own user namespace.
    pub permitted: u64,
}

impl Writer {
    /// One that has no capability.
    pub fn without_capabilities(caller: &Caller) -> Self {
        Self { owner: Owner { uid: caller.uid, gid: caller.gid }, capabilities: 0, permitted: 0 }
    }
}

/// What the kernel's rules on migration ask of the process that is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its real and its saved user.
    pub users: [u32; 2],
    /// Its permitted capabilities.
    pub permitted: u64,
}

/// What the kernel may ask of whoever migrates a process, besides its rules about users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whether he may change the process' scheduling, where `cpuset_can_attach` may ask for that.
    pub nice: Option<bool>,
    /// Who migrates himself may be asked that about each of his threads.
    pub of_threads: bool,
    /// Before Linux 3.13, `devcgroup_can_attach` asks for CAP_SYS_ADMIN, unless the thread that is migrated writes by itself. Of a whole
    /// process it's the first one.
    pub for_administrators: bool,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// With `O_TRUNC`, which changes nothing but is seen by who watches the file.
    pub truncate: bool,
}

/// What setattr changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub access: Option<Time>,
    /// Modification time.
    pub modification: Option<Time>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The present.
    Now,
    /// This one.
    At(SystemTime),
}

/// What statfs(2) says, as far as FUSE passes it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Block size.
    pub block_size: u32,
    /// Longest name.
    pub name_length: u32,
}

/// What has changed in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nothing.
    Nothing,
    /// What is there under these names, or whether anything is.
    Names(Vec<OsString>),
    /// Anything may have.
    Anything,
}

/// Sees whether a directory's entries change, until it's dropped.
pub trait Follow: std::fmt::Debug + Send + Sync {
    /// What has changed since it was asked last, or made, as of now.
    fn since(&self) -> Since;
}

/// The host. Every method that takes a [`Node`] means its backing object; on a node without one it fails with `ENOENT`.
pub trait Host: std::fmt::Debug + Send + Sync + 'static {
    /// An open backing file.
    type File: std::fmt::Debug + Send + Sync + 'static;
    /// A process or thread, held so that its number can't come to mean another one.
    type Process;
    /// A migration during which others' writes to lists of processes are noted.
    type Witnessed;
    /// Whose pid numbers a caller uses: its pid namespace.
    type Numbers: std::fmt::Debug + Send + Sync;
    /// A caller's eventfd, held to be registered.
    type EventClaim<'a>: crate::fs::ops::Claim;

    /// Attributes of a node.
    fn attributes(&self, node: &Node) -> Answer<Attributes>;
    /// Attributes of an open file; they outlive its removal.
    fn file_attributes(&self, file: &Self::File) -> Answer<Attributes>;
    /// Attributes of what a directory has under this name. `ENOENT` also for what isn't on the same filesystem.
    fn child(&self, directory: &Node, name: &OsStr) -> Answer<Attributes>;
    /// The entries of a directory, without `.` and `..`.
    fn list(&self, directory: &Node) -> Answer<Vec<BackingEntry>>;
    /// Sees from now on whether a directory's entries change; `None` where that can't be seen.
    fn follow(&self, directory: &Node) -> Option<Box<dyn Follow>>;
    /// Opens a file, with the opener's rights if they are given, else with the server's.
    fn open(&self, file: &Node, mode: OpenMode, opener: Option<&Credentials>) -> Answer<Self::File>;
    /// Whether the kernel checks by itself, at the write, that both ends of a migration by this file are within the delegated subtree. It says
    /// `ENOENT` otherwise.
    fn checks_both_ends(&self, file: &Self::File) -> bool;
    /// Whether that's so by the opener's own cgroup namespace, which may begin further below.
    fn is_opened_inside(&self, file: &Self::File) -> bool;
    /// A membership file once more, opened so that the kernel does, if that can be by now.
    fn open_checked(&self, file: &Self::File, node: &Node, opener: &Credentials) -> Option<Self::File>;
    /// A descriptor by which the kernel can open the file by itself, for each who opens it in the view.
    fn passthrough(&self, file: &Node) -> Answer<OwnedFd>;
    /// How many files can be open at once.
    fn most_files(&self) -> usize;
    /// Reads at an offset.
    fn read(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> Answer<usize>;
    /// Writes once, with no more than the writer's rights; files that appear by it belong to him.
    fn write(&self, file: &Self::File, data: &[u8], writer: &Writer) -> Answer<usize>;
    /// The same for what migrates the processes below `directory` from one cpuset to another: the kernel may compare their permitted
    /// capabilities with the writer's.
    fn write_migrating(&self, file: &Self::File, directory: &Node, data: &[u8], writer: &Writer) -> Answer<usize>;
    /// Writes, with the server's rights, what the kernel takes from nobody, for its errno.
    fn write_invalid(&self, file: &Self::File, data: &[u8]) -> Answer<usize>;
    /// fsync(2).
    fn sync(&self, file: &Self::File) -> Answer<()>;
    /// Makes a cgroup with the caller's rights, whose it is then, and says what it's like.
    fn make_directory(&self, caller: &Caller, directory: &Node, name: &OsStr, mode: u32) -> Answer<Attributes>;
    /// Removes a cgroup, with the caller's rights.
    fn remove_directory(&self, caller: &Caller, directory: &Node, name: &OsStr) -> Answer<()>;
    /// Renames a cgroup, with the caller's rights; both directories are of one hierarchy.
    fn rename(&self, caller: &Caller, from: (&Node, &OsStr), to: (&Node, &OsStr)) -> Answer<()>;
    /// chmod, chown, utimens, with the caller's rights.
    fn change(&self, caller: &Caller, node: &Node, changes: &Changes) -> Answer<()>;
    /// An xattr's value.
    fn xattr(&self, node: &Node, name: &OsStr) -> Answer<Vec<u8>>;
    /// The names of all xattrs, each ended by a NUL, as `reader` may see them.
    fn xattrs(&self, node: &Node, reader: &Credentials) -> Answer<Vec<u8>>;
    /// Sets an xattr, with the writer's rights.
    fn set_xattr(&self, node: &Node, name: &OsStr, value: &[u8], flags: i32, writer: &Credentials) -> Answer<()>;
    /// Removes an xattr, with the writer's rights.
    fn remove_xattr(&self, node: &Node, name: &OsStr, writer: &Credentials) -> Answer<()>;
    /// Takes hold of the cgroup that a directory has under this name, for what is to be done once it's removed.
    fn hold_directory(&self, directory: &Node, name: &OsStr) -> Answer<Self::File>;
    /// Removes an xattr of a cgroup that was removed, if it's there.
    fn clear_xattr(&self, removed: &Self::File, name: &OsStr);
    /// Whether there's a cgroup with this inode number. True also where that can't be told.
    fn has_directory(&self, hierarchy: usize, inode: u64) -> bool;
    /// statfs of a hierarchy.
    fn statistics(&self, hierarchy: usize) -> Answer<Statistics>;

    /// Watches a directory until what is returned is dropped; `None` if that can't be.
    fn watch(&self, directory: &Node) -> Option<Box<dyn Watch>>;
    /// A node was removed, or nobody knows it any more: what is kept for it can go.
    fn forget(&self, node: &Node);
    /// Waits for changes of watched directories; `None` once [`Host::stop_waiting`] was called.
    fn wait_for_changes(&self) -> Option<Vec<Change>>;
    /// What poll(2) says of an open file, as its bits.
    fn poll(&self, file: &Self::File) -> Answer<u16>;
    /// Lets [`Host::wait_for_ready`] report each event of this file from now on, and at first one that it has already.
    fn wake_when_ready(&self, file: &Self::File, handle: HandleId) -> Answer<()>;
    /// Ends that.
    fn stop_waking(&self, file: &Self::File);
    /// Waits for files to become ready; `None` once [`Host::stop_waiting`] was called.
    fn wait_for_ready(&self) -> Option<Vec<Ready>>;
    /// Lets [`Host::wait_for_changes`] and [`Host::wait_for_ready`] return.
    fn stop_waiting(&self);

    /// The caller's rights, now. It waits for its answer meanwhile, so it can't be another process.
    fn credentials(&self, caller: &Caller) -> Answer<Credentials>;
    /// With which rights the caller writes, now. It waits for its answer meanwhile.
    fn writer(&self, caller: &Caller) -> Answer<Writer>;
    /// The caller's process id, for messages.
    fn process_id(&self, caller: &Caller) -> i32;
    /// Whose pid numbers the caller uses. It waits for its answer meanwhile, so that doesn't change.
    fn numbers(&self, caller: &Caller) -> Answer<Self::Numbers>;
    /// Whether it takes an agent to translate them.
    fn takes_agent(numbers: &Self::Numbers) -> bool;
    /// Reads a pid list in these numbers.
    fn read_members(&self, numbers: &Self::Numbers, file: &Self::File, offset: u64, buffer: &mut [u8])
    -> Answer<usize>;
    /// Whether a list of processes that is open for reading shows the numbers of who opened it, as of then, and not the reader's.
    fn shows_openers_numbers(&self, file: &Self::File) -> bool;
    /// Takes hold of the caller itself.
    fn pin_caller(&self, caller: &Caller) -> Answer<Self::Process>;
    /// Takes hold of what `number` names; `ESRCH` if nothing.
    fn pin(&self, numbers: &Self::Numbers, number: i32) -> Answer<Self::Process>;
    /// Whose a process is.
    fn facts(&self, process: &Self::Process) -> Answer<ProcessFacts>;
    /// Whether a process is in the server's own user namespace, or can't be told to be in another one.
    fn is_in_own_user_namespace(&self, process: &Self::Process) -> bool;
    /// Whether the process still has its number.
    fn is_held(&self, process: &Self::Process) -> bool;
    /// Whether a migration in this hierarchy asks the writer's right to change the process' scheduling, as a cpuset does.
    fn asks_about_scheduling(&self, hierarchy: usize) -> bool;
    /// Whether one asks whether the writer is an administrator, as devices may.
    fn asks_for_administrators(&self, hierarchy: usize) -> bool;
    /// Whether a process or thread is the calling thread.
    fn is_caller(&self, process: &Self::Process, caller: &Caller) -> bool;
    /// Where each thread of the process is in this hierarchy, or only the thread itself. It's remembered where that was seen.
    fn places(&self, process: &mut Self::Process, hierarchy: usize, whole_process: bool)
    -> Answer<Vec<CgroupLocation>>;
    /// Owner and mode of `cgroup.procs` of a cgroup.
    fn procs_attributes(&self, hierarchy: usize, cgroup: &CgroupPath) -> Answer<Attributes>;
    /// Writes the caller's own number to a membership file, if it's still where it was seen last; `false` if not.
    fn migrate_caller(&self, caller: &Caller, file: &Self::File, asked: Asked, process: &Self::Process)
    -> Answer<bool>;
    /// Writes `number`, which names `process`, to a membership file for the caller, if it's still where it was seen last; `false` if not. It's
    /// the kernel that asks.
    fn migrate(
        &self,
        caller: &Caller,
        numbers: &Self::Numbers,
        file: &Self::File,
        number: i32,
        asked: Asked,
        process: &Self::Process,
    ) -> Answer<bool>;
    /// Notes from now on who else migrates processes in a membership file's hierarchy. `None` where that can't be seen.
    fn witness(&self, file: &Node) -> Option<Self::Witnessed>;
    /// The process was migrated. If somebody else has written a list outside of the subtree meanwhile, and it's inside, that's logged.
    fn settle(&self, witnessed: Self::Witnessed, process: Self::Process);

    /// Takes hold of the eventfd that the caller has as `eventfd`, to be registered by this file, and looks what it has as `control`. `EBADF`
    /// and `EINVAL` as the kernel.
    fn claim_event(
        &self,
        caller: &Caller,
        event_control: &Self::File,
        eventfd: u32,
        control: u32,
    ) -> Answer<Self::EventClaim<'_>>;
    /// Registers it with a control file, and lets it go.
    fn register_event(&self, claim: Self::EventClaim<'_>, control: &Self::File, arguments: &[u8]) -> Answer<()>;
}
