//! Predicts which requests the kernel refuses before it asks the view: by mode bits and owner, and by read-only
//! mounts.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use nix::errno::Errno;

use super::operation::Operation;
use crate::cgroup::{CgroupPath, IdMap};
use crate::cli::selected_view::{SelectedView, mounts};
use crate::fs::Attributes;
use crate::fs::explain::Explanation;

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
        let number = |text: &str| text.parse().map_err(|_| format!("'{text}' isn't the number of a user or group"));
        Ok(Self { user: number(user)?, group: number(group)? })
    }
}

/// A user and group, by the host's numbers.
#[derive(Debug)]
struct Caller {
    user: u32,
    group: u32,
    /// The user and group ids over which root's capabilities apply, if the caller is root.
    root_of: Option<(IdMap, IdMap)>,
}

impl Caller {
    /// Returns the user that `--as` names, or else the container's root.
    fn of(pid: Option<i32>, who: Option<UserSpec>) -> Option<Self> {
        let map = |name: &str| match pid {
            Some(pid) => fs::read_to_string(format!("/proc/{pid}/{name}")).ok(),
            None => Some("0 0 4294967295".to_owned()),
        };
        let (users, groups) = (IdMap::parse(&map("uid_map")?), IdMap::parse(&map("gid_map")?));
        let who = who.unwrap_or(UserSpec { user: 0, group: 0 });
        let (user, group) = (users.outside(who.user)?, groups.outside(who.group)?);
        Some(Self { user, group, root_of: (who.user == 0).then_some((users, groups)) })
    }

    /// Whether its capabilities apply to a file, whose owner and group must be in its user namespace
    /// (`privileged_wrt_inode_uidgid`).
    fn is_root_of(&self, attributes: &Attributes) -> bool {
        let has = |(users, groups): &(IdMap, IdMap)| users.contains(attributes.uid) && groups.contains(attributes.gid);
        self.root_of.as_ref().is_some_and(has)
    }

    /// Whether the mode allows the access: 4 to read, 2 to write, 1 to search.
    fn may(&self, attributes: &Attributes, bits: u32) -> bool {
        let shift = match attributes {
            _ if self.is_root_of(attributes) => return true,
            Attributes { uid, .. } if *uid == self.user => 6,
            Attributes { gid, .. } if *gid == self.group => 3,
            _ => 0,
        };
        (attributes.mode >> shift) & bits == bits
    }
}

/// The directories and the file on a path of the view, from its root, with their attributes.
type PathAttributes = Vec<(OsString, Attributes)>;

/// Returns the kernel's refusal, if it refuses before it asks the view. `on_path` ends before the first missing
/// object.
pub(super) fn refusal(
    selected: &SelectedView,
    operation: Operation,
    path: &CgroupPath,
    on_path: &PathAttributes,
    who: Option<UserSpec>,
) -> Option<Explanation> {
    // Without a TARGET or --as, the question is about the policy alone.
    if selected.label.is_none() && who.is_none() {
        return None;
    }
    let caller = Caller::of(selected.pid, who);
    let by_mode = || caller.as_ref().and_then(|caller| by_mode(caller, operation, path, on_path));
    let by_mount = || selected.live.as_ref().filter(|_| changes(operation)).and_then(|_| by_mount(selected, path));
    // open(2) checks the mode first, all other calls the mount (`do_open`, `mnt_want_write`).
    match operation {
        Operation::Write | Operation::Migrate => by_mode().or_else(by_mount),
        _ => by_mount().or_else(by_mode),
    }
}

fn changes(operation: Operation) -> bool {
    !matches!(operation, Operation::Lookup | Operation::Read)
}

fn by_mode(caller: &Caller, operation: Operation, path: &CgroupPath, on_path: &PathAttributes) -> Option<Explanation> {
    let depth = path.components().len();
    // The last one exists if `on_path` is that long.
    let above = on_path.get(..depth.min(on_path.len()))?;
    let last = on_path.get(depth);
    let refused = |errno: Errno, name: &OsString, attributes: &Attributes, what: &str| {
        let name = if name.is_empty() { "/".into() } else { crate::cgroup::escaped(name) };
        let Attributes { mode, uid, gid, .. } = attributes;
        let who = format!("user {}, group {}", caller.user, caller.group);
        let why = format!(
            "{name} has mode {:04o} and belongs to user {uid}, group {gid} (of the host): {who} {what}",
            mode & 0o7777
        );
        Some(Explanation::kernel(errno, &why))
    };
    if let Some((name, attributes)) = above.iter().find(|(_, attributes)| !caller.may(attributes, 1)) {
        return refused(Errno::EACCES, name, attributes, "may not search it");
    }
    use Operation::*;
    let (bits, what) = match operation {
        Lookup | Setxattr => return None,
        Read => (4, "may not read it"),
        Write | Truncate | Migrate => (2, "may not write it"),
        Chmod | Chown | Utimens => {
            let (name, attributes) = last?;
            let is_owner = attributes.uid == caller.user && operation != Chown;
            let may = is_owner || caller.is_root_of(attributes);
            return if may { None } else { refused(Errno::EPERM, name, attributes, "doesn't own it") };
        }
        Mkdir | Rmdir | Rename | Create | Unlink | Link | Symlink | Mknod => (2, "may not write it"),
    };
    let is_above = matches!(operation, Mkdir | Rmdir | Rename | Create | Unlink | Link | Symlink | Mknod);
    let (name, attributes) = if is_above { above.last()? } else { last? };
    if caller.may(attributes, bits) { None } else { refused(Errno::EACCES, name, attributes, what) }
}

/// Returns the refusal by the read-only mount of a path in the view, as the process sees it.
fn by_mount(selected: &SelectedView, path: &CgroupPath) -> Option<Explanation> {
    let record = selected.live.as_ref()?;
    let mut place = Path::new(record.directory.as_ref()).to_path_buf();
    place.extend(path.components());
    let pid = selected.pid.unwrap_or(record.pid.cast_signed());
    let all = mounts(pid);
    let over = all.iter().filter(|mount| place.starts_with(Path::new(&mount.mount_point)));
    let mount = over.max_by_key(|mount| Path::new(&mount.mount_point).components().count())?;
    let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
    (is_read_only(&mount.options) || is_read_only(&mount.super_options)).then(|| {
        let point = crate::cgroup::escaped(&mount.mount_point);
        Explanation::kernel(Errno::EROFS, &format!("{point} is mounted read-only there"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who() {
        assert_eq!("7".parse(), Ok(UserSpec { user: 7, group: 7 }));
        assert_eq!("7:8".parse(), Ok(UserSpec { user: 7, group: 8 }));
        for wrong in ["", "x", "7:", ":8", "-1", "7:8:9"] {
            assert!(wrong.parse::<UserSpec>().is_err(), "{wrong}");
        }
    }
}
