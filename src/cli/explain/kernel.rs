//! Predicts which requests the kernel refuses before it asks the view: by mode bits and owner, and by read-only
//! mounts.

use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;
use std::{fs, io};

use nix::errno::Errno;

use super::operation::Operation;
use crate::cgroup::{CgroupPath, IdMap, MountEntry};
use crate::cli::selected_view::{SelectedView, mounts};
use crate::error::Error;
use crate::fs::Attributes;
use crate::fs::explain::{Explanation, RenameExplanation, RenameStage, UserCheck};

/// A user and group, by the container's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserSpec {
    user: u32,
    group: u32,
}

impl FromStr for UserSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
            // The last number stands for none, as in chown(2).
            let parsed = text.parse().ok().filter(|id| is_plain && *id != u32::MAX);
            parsed.ok_or_else(|| format!("'{text}' isn't the number of a user or group"))
        };
        Ok(Self { user: number(user)?, group: number(group)? })
    }
}

/// A user and group, by the host's numbers.
#[derive(Debug)]
pub(super) struct Caller {
    user: u32,
    group: u32,
    /// The user and group ids over which root's capabilities apply, if the caller is root.
    root_of: Option<(IdMap, IdMap)>,
}

impl Caller {
    /// Returns the user that `--as` names, or else the container's root. Without a TARGET or `--as`, the question is about
    /// the policy alone, and there is no caller.
    ///
    /// # Errors
    /// If the user namespace of the process doesn't map the user or the group, or can't be read.
    pub(super) fn find(selected: &SelectedView, who: Option<UserSpec>) -> Result<Option<Self>, Error> {
        if selected.label.is_none() && who.is_none() {
            return Ok(None);
        }
        let who = who.unwrap_or(UserSpec { user: 0, group: 0 });
        let (users, groups) = match selected.pid {
            Some(pid) => (id_map(pid, "uid_map")?, id_map(pid, "gid_map")?),
            None => (IdMap::parse(HOST_ID_MAP), IdMap::parse(HOST_ID_MAP)),
        };
        let unmapped = |kind: &str, id: u32| {
            let pid = selected.pid.unwrap_or_default();
            let what = format!("{kind} {id} isn't mapped in the user namespace of process {pid}");
            let how = format!("name one with --as UID[:GID] that is in /proc/{pid}/uid_map and gid_map");
            Error::failed(what).advise(how)
        };
        let user = users.outside(who.user).ok_or_else(|| unmapped("user", who.user))?;
        let group = groups.outside(who.group).ok_or_else(|| unmapped("group", who.group))?;
        Ok(Some(Self { user, group, root_of: (who.user == 0).then_some((users, groups)) }))
    }

    /// Whether its capabilities apply to a file, whose owner and group must be in its user namespace
    /// (`privileged_wrt_inode_uidgid`).
    fn is_root_of(&self, attributes: &Attributes) -> bool {
        let has = |(users, groups): &(IdMap, IdMap)| users.contains(attributes.uid) && groups.contains(attributes.gid);
        self.root_of.as_ref().is_some_and(has)
    }

    /// Whether the mode allows the access: 4 to read, 2 to write, 1 to search.
    pub(super) fn may(&self, attributes: &Attributes, bits: u32) -> bool {
        let shift = match self.class(attributes) {
            _ if self.is_root_of(attributes) => return true,
            'u' => 6,
            'g' => 3,
            _ => 0,
        };
        (attributes.mode >> shift) & bits == bits
    }

    /// The class of users whose bits count for it, as chmod(1) names it.
    fn class(&self, attributes: &Attributes) -> char {
        match attributes {
            Attributes { uid, .. } if *uid == self.user => 'u',
            Attributes { gid, .. } if *gid == self.group => 'g',
            _ => 'o',
        }
    }

    /// The user and the group, as chown(1) takes them on the host.
    pub(super) fn owner_words(&self) -> String {
        format!("{}:{}", self.user, self.group)
    }

    /// Whether the kernel lets it migrate a process that isn't its own: root of the host on v1.
    pub(super) fn may_migrate(&self, check: &UserCheck) -> bool {
        match check {
            UserCheck::OwnsProcess(users) => self.user == 0 || users.contains(&self.user),
            UserCheck::WritesAncestor(_, procs) => self.may(procs, 2),
        }
    }
}

/// A refusal of the kernel's before it asks the view.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) explanation: Explanation,
    pub(super) cause: Cause,
}

/// What the kernel has refused for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The mode of an object on the path, by the number of names before it: it lacks these bits (4 to read, 2 to write,
    /// 1 to search) for this class of users (`u`, `g`, `o`).
    Mode { depth: usize, bits: u32, class: char },
    /// The owner of an object on the path.
    Owner { depth: usize },
    /// A read-only mount, with its mount point.
    Mount(OsString),
    /// Two mounts.
    Mounts,
}

/// The directories and the file on a path of the view, from its root, with their attributes.
type PathAttributes = Vec<(OsString, Attributes)>;

/// The id map of the initial user namespace.
const HOST_ID_MAP: &str = "0 0 4294967295";

/// Reads an id map of a process. A kernel without user namespaces has no such file.
fn id_map(pid: i32, file: &str) -> Result<IdMap, Error> {
    let path = format!("/proc/{pid}/{file}");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(IdMap::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && Path::new(&format!("/proc/{pid}/stat")).exists() => {
            Ok(IdMap::parse(HOST_ID_MAP))
        }
        Err(error) => Err(Error::system(format!("can't read {path}"), error)),
    }
}

/// Returns the kernel's refusal, if it refuses before it asks the view. `errno` is the answer without that, and `on_path`
/// ends before the first missing object. A migration's path is that of the list.
pub(super) fn refusal(
    selected: &SelectedView,
    operation: Operation,
    path: &CgroupPath,
    errno: Option<Errno>,
    on_path: &PathAttributes,
    caller: Option<&Caller>,
) -> Option<Refusal> {
    let by_mode = || caller.and_then(|caller| by_mode(caller, operation, path, on_path));
    let by_mount = || selected.live.as_ref().filter(|_| changes(operation)).and_then(|_| by_mount(selected, path));
    let is_about_name = matches!(errno, Some(Errno::ENOENT | Errno::EEXIST | Errno::ENOTDIR | Errno::EISDIR));
    // Nothing is asked below a directory that may not be searched (`may_lookup`).
    let searched = caller.and_then(|caller| by_search(caller, path, on_path));
    searched.or_else(|| match operation {
        // They check the mount once they have the directory, before they look for the name in it (`do_unlinkat`,
        // `do_rmdir`, `do_renameat2`), and the directory's mode before the kind of what has the name (`may_delete`).
        Operation::Unlink | Operation::Rmdir | Operation::Rename if is_about_name => {
            let of_name = || by_mode().filter(|_| on_path.len() > path.depth());
            by_mount().filter(|_| is_parent_there(path, on_path)).or_else(of_name)
        }
        _ if is_about_name => None,
        // open(2) checks the mode first, all other calls the mount (`do_open`, `mnt_want_write`).
        Operation::Write | Operation::Migrate => by_mode().or_else(by_mount),
        _ => by_mount().or_else(by_mode),
    })
}

/// Whether everything above the last name of the path exists, and is a directory.
fn is_parent_there(path: &CgroupPath, on_path: &PathAttributes) -> bool {
    let above = path.depth().checked_sub(1).and_then(|last| on_path.get(last));
    above.is_some_and(|(_, attributes)| leads_on(attributes))
}

fn changes(operation: Operation) -> bool {
    !matches!(operation, Operation::Lookup | Operation::Read | Operation::CloneInto)
}

/// Whether names can be looked up in it. The view's symlinks lead to directories.
fn leads_on(attributes: &Attributes) -> bool {
    attributes.mode & libc::S_IFMT != libc::S_IFREG
}

/// Returns the refusal by a directory of the path that the caller may not search.
pub(super) fn by_search(caller: &Caller, path: &CgroupPath, on_path: &PathAttributes) -> Option<Refusal> {
    let above = on_path.iter().enumerate().take(path.depth());
    let mut closed = above.filter(|(_, (_, attributes))| leads_on(attributes) && !caller.may(attributes, 1));
    let (depth, object) = closed.next()?;
    Some(refused_bits(caller, (depth, object), 1, "may not search it"))
}

/// Makes a refusal by the mode of an object.
fn refused_bits(
    caller: &Caller,
    (depth, (name, attributes)): (usize, &(OsString, Attributes)),
    bits: u32,
    what: &str,
) -> Refusal {
    let explanation = refused(caller, Errno::EACCES, name, attributes, what);
    Refusal { explanation, cause: Cause::Mode { depth, bits, class: caller.class(attributes) } }
}

/// Makes the explanation of a refusal by the mode or the owner of an object.
fn refused(caller: &Caller, errno: Errno, name: &OsString, attributes: &Attributes, what: &str) -> Explanation {
    let name = if name.is_empty() { "/".into() } else { crate::cgroup::escaped(name) };
    let Attributes { mode, uid, gid, .. } = attributes;
    let who = format!("user {}, group {}", caller.user, caller.group);
    let why = format!(
        "{name} has mode {:04o} and belongs to user {uid}, group {gid} (of the host): {who} {what}",
        mode & 0o7777
    );
    Explanation::kernel(errno, &why)
}

/// Returns the refusal by the mode or the owner of the object, or of the directory that has it.
pub(super) fn by_mode(
    caller: &Caller,
    operation: Operation,
    path: &CgroupPath,
    on_path: &PathAttributes,
) -> Option<Refusal> {
    let depth = path.depth();
    // The last one exists if `on_path` is that long.
    let above = on_path.get(..depth.min(on_path.len()))?;
    let last = on_path.get(depth);
    use Operation::*;
    let (bits, what) = match operation {
        Lookup | CloneInto => return None,
        Read => (4, "may not read it"),
        // Those named `user.`. The others need a capability (`xattr_permission`).
        Setxattr => (2, "may not write it, which attributes named user. need"),
        Write | Truncate | Migrate => (2, "may not write it"),
        Chmod | Chown | Utimens => {
            let (name, attributes) = last?;
            let is_owner = attributes.uid == caller.user && operation != Chown;
            let may = is_owner || caller.is_root_of(attributes);
            let explanation = || refused(caller, Errno::EPERM, name, attributes, "doesn't own it");
            return (!may).then(|| Refusal { explanation: explanation(), cause: Cause::Owner { depth } });
        }
        Mkdir | Rmdir | Rename | Create | Unlink | Link | Symlink | Mknod => (2, "may not write it"),
    };
    let is_above = matches!(operation, Mkdir | Rmdir | Rename | Create | Unlink | Link | Symlink | Mknod);
    let (depth, object) = if is_above { (above.len().checked_sub(1)?, above.last()?) } else { (depth, last?) };
    (!caller.may(&object.1, bits)).then(|| refused_bits(caller, (depth, object), bits, what))
}

/// Returns the refusal by the read-only mount of a path in the view, as the process sees it.
pub(super) fn by_mount(selected: &SelectedView, path: &CgroupPath) -> Option<Refusal> {
    let mount = mount_at(selected, path)?;
    let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
    (is_read_only(&mount.options) || is_read_only(&mount.super_options)).then(|| {
        let point = crate::cgroup::escaped(&mount.mount_point);
        let explanation = Explanation::kernel(Errno::EROFS, &format!("{point} is mounted read-only there"));
        Refusal { explanation, cause: Cause::Mount(mount.mount_point) }
    })
}

/// Returns the mount of a path in the view, as the process sees it.
fn mount_at(selected: &SelectedView, path: &CgroupPath) -> Option<MountEntry> {
    let record = selected.live.as_ref()?;
    let mut place = Path::new(record.directory.as_ref()).to_path_buf();
    place.extend(path.components());
    let pid = selected.pid.unwrap_or(record.pid.cast_signed());
    let over = mounts(pid).into_iter().filter(|mount| place.starts_with(Path::new(&mount.mount_point)));
    over.max_by_key(|mount| Path::new(&mount.mount_point).components().count())
}

/// Returns the kernel's refusal of a rename, if it refuses before it asks the view (`do_renameat2`, `vfs_rename`),
/// and at which end.
pub(super) fn refusal_of_rename<'a>(
    selected: &SelectedView,
    told: &RenameExplanation,
    ends: [(&'a CgroupPath, &PathAttributes); 2],
    caller: Option<&Caller>,
) -> Option<(&'a CgroupPath, Refusal)> {
    let [(old, on_old), (new, _)] = ends;
    let searched = |(path, on_path)| Some((path, by_search(caller?, path, on_path)?));
    if let Some(refusal) = ends.into_iter().find_map(searched) {
        return Some(refusal);
    }
    if told.stage == RenameStage::Directories {
        return None;
    }
    let above = ends.map(|(path, _)| path.parent().and_then(|above| mount_at(selected, &above)));
    if let [Some(before), Some(after)] = &above
        && before.id != after.id
    {
        let explanation = Explanation::kernel(Errno::EXDEV, "the two names are on different mounts");
        return Some((old, Refusal { explanation, cause: Cause::Mounts }));
    }
    let mounted = |(path, _): (&'a CgroupPath, _)| Some((path, by_mount(selected, &path.parent()?)?));
    if let Some(refusal) = ends.into_iter().find_map(mounted) {
        return Some(refusal);
    }
    if told.stage == RenameStage::Names {
        return None;
    }
    let caller = caller?;
    let by_directory = |(path, on_path)| Some((path, by_mode(caller, Operation::Rename, path, on_path)?));
    ends.into_iter().find_map(by_directory).or_else(|| {
        // A cgroup that changes its parent is written itself (`..`).
        let (depth, is_moved) = (old.depth(), old.parent() != new.parent());
        let object = on_old.get(depth).filter(|(_, attributes)| is_moved && leads_on(attributes))?;
        (!caller.may(&object.1, 2)).then(|| (old, refused_bits(caller, (depth, object), 2, "may not write it")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who() {
        assert_eq!("7".parse(), Ok(UserSpec { user: 7, group: 7 }));
        assert_eq!("7:8".parse(), Ok(UserSpec { user: 7, group: 8 }));
        for wrong in ["", "x", "7:", ":8", "-1", "+1", "7:8:9", "4294967295", "0:4294967295"] {
            assert!(wrong.parse::<UserSpec>().is_err(), "{wrong}");
        }
    }
}
