//! Changes of the tree or of attributes for a caller, made with the caller's rights. The kernel has checked the
//! request before it came, but with cached attributes that may have been out of date.
//!
//! Mostly no capability is needed, since the caller owns the object. So the first attempt has none, which is cheaper
//! than finding out the caller's capabilities; if the kernel refuses it, a second attempt has those. For user 0 a
//! check of the owner right before replaces the first attempt, since dropping capabilities costs as much as the rest.
//! Only a user 0 without CAP_DAC_OVERRIDE could exploit the moment in between.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fstat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::KernelHost;
use crate::fs::SysResult;
use crate::fs::host::{Caller, Credentials, HostCredentials, HostMutations, Owner, SetAttr, SetTime};
use crate::fs::inode::{Attributes, Node};
use crate::host::errno::errno;
use crate::host::opening::{path_of, single_component};
use crate::sys::capability::{CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID};
use crate::sys::credentials::{Rights, assume, assume_for_files};

impl HostMutations for KernelHost {
    fn make_directory(&self, caller: &Caller, directory: &Node, name: &OsStr, mode: u32) -> SysResult<Attributes> {
        let above = self.object(directory)?;
        self.make_directory_as(caller, &above, name, mode)?;
        self.child_of(&above, directory, name)
    }

    fn remove_directory(&self, caller: &Caller, directory: &Node, name: &OsStr) -> SysResult<()> {
        self.remove_directory_as(caller, &*self.object(directory)?, name)
    }

    fn rename(&self, caller: &Caller, (from, name): (&Node, &OsStr), (to, new_name): (&Node, &OsStr)) -> SysResult<()> {
        self.rename_as(caller, (&*self.object(from)?, name), (&*self.object(to)?, new_name))
    }

    fn set_attributes(&self, caller: &Caller, node: &Node, changes: &SetAttr) -> SysResult<()> {
        self.change_as(caller, &*self.object(node)?, changes)
    }
}

impl KernelHost {
    pub(super) fn make_directory_as(&self, caller: &Caller, above: &OwnedFd, name: &OsStr, mode: u32) -> SysResult<()> {
        let lent = |who: &Credentials| Ok(who.capabilities_over(owner(&fstat(above)?)) & CAP_DAC_OVERRIDE);
        self.act_as(
            caller,
            None,
            || is_roots(above),
            lent,
            || mkdirat(above, single_component(name)?, Mode::from_bits_truncate(mode)),
        )
    }

    pub(super) fn remove_directory_as(&self, caller: &Caller, above: &OwnedFd, name: &OsStr) -> SysResult<()> {
        let lent = |who: &Credentials| may_take_away(who, above, name);
        self.act_as(
            caller,
            None,
            || is_roots(above),
            lent,
            || unlinkat(above, single_component(name)?, UnlinkatFlags::RemoveDir),
        )
    }

    pub(super) fn rename_as(
        &self,
        caller: &Caller,
        (from, name): (&OwnedFd, &OsStr),
        (to, new_name): (&OwnedFd, &OsStr),
    ) -> SysResult<()> {
        let lent = |who: &Credentials| {
            let there = who.capabilities_over(owner(&fstat(to)?)) & CAP_DAC_OVERRIDE;
            Ok(may_take_away(who, from, name)? & (there | CAP_FOWNER))
        };
        let is_own = || Ok(is_roots(from)? && is_roots(to)?);
        self.act_as(caller, None, is_own, lent, || {
            nix::fcntl::renameat(from, single_component(name)?, to, single_component(new_name)?)
        })
    }

    pub(super) fn change_as(&self, caller: &Caller, object: &OwnedFd, changes: &SetAttr) -> SysResult<()> {
        let path = path_of(object);
        let lent = |who: &Credentials| {
            let owner = owner(&fstat(object)?);
            let by_both = who.capabilities_over(owner) & (CAP_CHOWN | CAP_DAC_OVERRIDE | CAP_FSETID);
            Ok(by_both | who.capabilities_over_user(owner.uid) & CAP_FOWNER)
        };
        // Giving an object away takes a capability, whoever owns it.
        let gives = changes.uid.is_some() || changes.gid.is_some();
        let is_own = || Ok(!gives && fstat(object)?.st_uid == 0);
        let act = |group, act: &dyn Fn() -> SysResult<()>| self.act_as(caller, group, is_own, lent, act);
        if let Some(mode) = changes.mode {
            let permissions = std::fs::Permissions::from_mode(mode & 0o7777);
            let change = || std::fs::set_permissions(&path, permissions.clone()).map_err(errno);
            act(group_that_stays(object, mode)?, &change)?;
        }
        if gives {
            let change = || std::os::unix::fs::chown(&path, changes.uid, changes.gid).map_err(errno);
            act(group_that_stays(object, 0)?, &change)?;
        }
        if changes.access.is_some() || changes.modification.is_some() {
            let [access, modification] = [changes.access, changes.modification].map(time_spec);
            let flags = UtimensatFlags::FollowSymlink;
            act(None, &|| utimensat(nix::fcntl::AT_FDCWD, path.as_str(), &access, &modification, flags))?;
        }
        Ok(())
    }

    /// Does something as the caller, who waits for it: first without any capability, and if the kernel refuses that,
    /// with the caller's. If the caller is in another user namespace, only the capabilities in `lent` count: those
    /// that the kernel accepts for objects of that namespace's users (`capable_wrt_inode_uidgid`). `group` stands in
    /// for the caller's own. `is_own` says whether user 0 may do it as the owner.
    fn act_as<T>(
        &self,
        caller: &Caller,
        group: Option<u32>,
        is_own: impl Fn() -> SysResult<bool>,
        lent: impl Fn(&Credentials) -> SysResult<u64>,
        act: impl Fn() -> SysResult<T>,
    ) -> SysResult<T> {
        let (uid, gid) = (caller.uid, group.unwrap_or(caller.gid));
        let with = |groups: &[u32], capabilities| {
            let _assumed = assume(&Rights { uid, gid, groups, capabilities }).map_err(errno)?;
            act()
        };
        let tried = if uid != 0 {
            match assume_for_files(uid, gid) {
                Ok(_assumed) => act(),
                Err(_) => with(&[], 0),
            }
        } else if is_own()? {
            return with(&[], u64::MAX);
        } else {
            Err(Errno::EACCES)
        };
        let refused = match tried {
            Err(refused @ (Errno::EACCES | Errno::EPERM)) => refused,
            done => return done,
        };
        // A caller that isn't visible is assumed to have no capabilities.
        if caller.tid <= 0 {
            return if uid == 0 { with(&[], 0) } else { Err(refused) };
        }
        let mut who = self.credentials(caller)?;
        if gid != caller.gid {
            who.groups.push(caller.gid);
        }
        let capabilities = if who.id_maps.is_none() { who.capabilities } else { lent(&who)? };
        if uid != 0 && capabilities == 0 && who.groups.is_empty() {
            return Err(refused);
        }
        with(&who.groups, capabilities)
    }
}

/// Whether user 0 owns a directory, and may change its entries as the owner.
fn is_roots(directory: &OwnedFd) -> SysResult<bool> {
    let stat = fstat(directory)?;
    Ok(stat.st_uid == 0 && stat.st_mode & 0o300 == 0o300)
}

fn owner(stat: &FileStat) -> Owner {
    Owner { uid: stat.st_uid, gid: stat.st_gid }
}

/// Returns a caller's capabilities over a directory and over the entry to remove: in a directory with the sticky bit
/// the kernel checks those of the entry, too.
fn may_take_away(who: &Credentials, above: &OwnedFd, name: &OsStr) -> SysResult<u64> {
    let directory = who.capabilities_over(owner(&fstat(above)?)) & CAP_DAC_OVERRIDE;
    let taken = fstatat(above, single_component(name)?, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(directory | who.capabilities_over(owner(&taken)) & CAP_FOWNER)
}

/// Returns the group of an object that has a set-group-ID bit, or gets one. The kernel clears the bit if the caller
/// is neither in the group nor has CAP_FSETID, and it has decided that for the caller before the request came.
fn group_that_stays(object: &OwnedFd, mode: u32) -> SysResult<Option<u32>> {
    let stat = fstat(object)?;
    Ok(((stat.st_mode | mode) & libc::S_ISGID != 0).then_some(stat.st_gid))
}

fn time_spec(time: Option<SetTime>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(SetTime::Now) => TimeSpec::UTIME_NOW,
        Some(SetTime::At(time)) => time_since_epoch(time),
    }
}

fn time_since_epoch(time: SystemTime) -> TimeSpec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => TimeSpec::from_duration(since),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => TimeSpec::new(-seconds, 0),
                nanoseconds => TimeSpec::new(-seconds - 1, 1_000_000_000 - i64::from(nanoseconds)),
            }
        }
    }
}
