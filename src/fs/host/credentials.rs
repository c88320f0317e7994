//! The rights by which the kernel judges opens and writes.

use super::{Caller, Owner};
use crate::cgroup::IdMap;
use crate::fs::SysResult;
use crate::fs::inode::Attributes;
use crate::sys::capability::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH};

/// The rights with which a file is opened. The kernel judges later operations by the opener's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The thread whose rights these are. It keeps its number as long as it waits for its answer.
    pub thread: i32,
    /// The fsuid and fsgid.
    pub owner: Owner,
    /// Supplementary groups; none where they can't decide anything ([`Credentials::overrides_permissions`]).
    pub groups: Vec<u32>,
    /// The effective capabilities, a bit each, in the process' own user namespace.
    pub capabilities: u64,
    /// The permitted capabilities, a bit each.
    pub permitted: u64,
    /// The users and groups of that user namespace, as ranges of the server's; `None` if it is the server's, so that
    /// the capabilities apply to all of the host's objects.
    pub id_maps: Option<(IdMap, IdMap)>,
}

impl Credentials {
    /// Whether they override the permissions of all of the host's objects.
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

    /// Returns the capabilities that replace being the owner of an object (`inode_owner_or_capable`).
    pub fn capabilities_over_user(&self, uid: u32) -> u64 {
        match &self.id_maps {
            Some((users, _)) if !users.contains(uid) => 0,
            _ => self.capabilities,
        }
    }

    /// Returns the capabilities that apply to an object with this owner (`capable_wrt_inode_uidgid`).
    pub fn capabilities_over(&self, object: Owner) -> u64 {
        match &self.id_maps {
            Some((users, groups)) if !(users.contains(object.uid) && groups.contains(object.gid)) => 0,
            _ => self.capabilities,
        }
    }
}

/// The rights of a writer. At each write the kernel checks some capabilities of the current writer (`capable`),
/// whoever opened the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterCredentials {
    /// fsuid and fsgid: they own the files that a write makes appear.
    pub owner: Owner,
    /// The effective capabilities that apply to the host, a bit each: none if the writer is in another user namespace
    /// than the server.
    pub capabilities: u64,
    /// The permitted capabilities, in the writer's own user namespace.
    pub permitted: u64,
}

impl WriterCredentials {
    /// The rights of a writer without capabilities.
    pub fn without_capabilities(caller: &Caller) -> Self {
        Self { owner: Owner { uid: caller.uid, gid: caller.gid }, capabilities: 0, permitted: 0 }
    }
}

/// The process of a caller, as people know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerProcess {
    /// Its number, in the server's pid namespace.
    pub pid: i32,
    /// The name of its command, which it chooses itself; empty if it's gone.
    pub command: String,
}

/// What the host knows about callers. A caller waits for its answer, so its thread id can't come to mean another
/// thread meanwhile.
pub trait HostCredentials {
    /// Returns the caller's current rights.
    fn credentials(&self, caller: &Caller) -> SysResult<Credentials>;
    /// Returns the rights with which the caller writes now.
    fn writer(&self, caller: &Caller) -> SysResult<WriterCredentials>;
    /// Returns the caller's process, for messages.
    fn process(&self, caller: &Caller) -> CallerProcess;
    /// Drops what the calling worker keeps of the caller that it answered last. A worker calls this before it sleeps:
    /// what it keeps would keep the namespaces of an ended container.
    fn forget_last_caller() {}
}
