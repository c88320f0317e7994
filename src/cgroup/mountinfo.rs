//! Mounts: `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;

use super::HierarchyKind;

/// The filesystem type of a view, as mountinfo shows it.
pub const VIEW_FSTYPE: &str = "fuse.vcgroupfs";

/// One line of mountinfo: a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's id.
    pub id: u32,
    /// The id of the mount that it's mounted on.
    pub parent: u32,
    /// Major and minor number of its superblock (`st_dev` of its files).
    pub device: (u32, u32),
    /// The directory of the filesystem that is mounted.
    pub root: OsString,
    /// The mount point, as the process sees it.
    pub mount_point: OsString,
    /// Per-mount options: `rw,relatime`.
    pub options: String,
    /// The peer group of the mount: a mount on one member appears on all others.
    pub shared: Option<u32>,
    /// The peer group whose mounts propagate to it.
    pub master: Option<u32>,
    /// The filesystem's type.
    pub fstype: String,
    /// The source of the mount, as free text.
    pub source: OsString,
    /// Per-superblock options; on cgroup v1 they hold the controllers and `name=`.
    pub super_options: String,
}

impl MountEntry {
    /// The hierarchy that it shows; `None` if it isn't a cgroup mount.
    pub fn hierarchy(&self) -> Option<HierarchyKind> {
        match self.fstype.as_str() {
            "cgroup2" => Some(HierarchyKind::Unified),
            "cgroup" => Some(HierarchyKind::v1(&self.controller_words())),
            _ => None,
        }
    }

    /// Returns the controllers and the name of a v1 mount: its super options without flags and settings. A list of
    /// all kernels' controllers couldn't be complete.
    fn controller_words(&self) -> String {
        const FLAGS: [&str; 11] = [
            "rw",
            "ro",
            "noprefix",
            "xattr",
            "clone_children",
            "cpuset_v2_mode",
            "favordynmods",
            "nofavordynmods",
            "none",
            "seclabel",
            "all",
        ];
        let is_controller = |word: &&str| word.starts_with("name=") || (!word.contains('=') && !FLAGS.contains(word));
        self.super_options.split(',').filter(is_controller).collect::<Vec<_>>().join(",")
    }
}

/// Parses the text of `/proc/PID/mountinfo`. Malformed lines are skipped.
pub fn parse_mountinfo(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok().map(str::to_owned);
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let device = text()?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let mount_point = unescape(fields.next()?);
    let options = std::str::from_utf8(fields.next()?).ok()?.to_owned();
    let (mut shared, mut master) = (None, None);
    // There's any number of optional fields, and a lone '-' ends them.
    loop {
        let field = std::str::from_utf8(fields.next()?).unwrap_or_default();
        match field.split_once(':') {
            Some(("shared", group)) => shared = group.parse().ok(),
            Some(("master", group)) => master = group.parse().ok(),
            _ if field == "-" => break,
            _ => {}
        }
    }
    let fstype = String::from_utf8(unescape(fields.next()?).into_vec()).ok()?;
    let source = unescape(fields.next()?);
    let super_options = std::str::from_utf8(fields.next()?).ok()?.to_owned();
    Some(MountEntry { id, parent, device, root, mount_point, options, shared, master, fstype, source, super_options })
}

/// Decodes the octal escapes (`\040` for a space) of a field.
pub fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

/// Encodes bytes as text without control characters, for [`unescape`]. `\ooo` stands for each byte of a control character, for bytes that
/// aren't UTF-8, and for the backslash.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let octal = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string doesn't fail.
            let _ = write!(text, "\\{byte:03o}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                octal(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(character);
            }
        }
        octal(&mut text, chunk.invalid());
    }
    text
}

/// The last component of a mount point; `None` for `/`.
pub fn base_name(mount_point: &OsStr) -> Option<&OsStr> {
    std::path::Path::new(mount_point).file_name()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(line: &str) -> MountEntry {
        parse_mountinfo(line.as_bytes()).pop().unwrap()
    }

    #[test]
    fn hierarchies() {
        for (line, kind) in [
            ("40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd", "name=systemd"),
            (
                "30 25 0:26 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd",
                "name=systemd",
            ),
            (
                "33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,seclabel,cpuacct,cpu",
                "cpuacct,cpu",
            ),
            ("33 25 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,noprefix,clone_children", "cpuset"),
            ("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate", "unified"),
        ] {
            assert_eq!(one(line).hierarchy().unwrap().to_string(), kind, "{line}");
        }
        assert_eq!(one("27 1 254:0 / / rw - ext4 /dev/vda rw,discard").hierarchy(), None);
        assert_eq!(one("50 49 0:44 / /x ro - fuse.vcgroupfs vcgroupfs rw,user_id=0,allow_other").hierarchy(), None);
    }

    #[test]
    fn fields() {
        let entry = one(
            "36 35 98:0 /my\\040root /a\\040b\\011c\\134d rw,noatime master:1 propagate_from:2 unbindable - ext3 /dev/my\\040disk rw,errors=continue",
        );
        assert_eq!(entry.device, (98, 0));
        assert_eq!((entry.id, entry.parent), (36, 35));
        assert_eq!((entry.shared, entry.master), (None, Some(1)));
        assert_eq!(entry.root, "/my root");
        assert_eq!(entry.mount_point, "/a b\tc\\d");
        assert_eq!(entry.source, "/dev/my disk");
        assert_eq!(entry.super_options, "rw,errors=continue");
        assert_eq!(one("1 0 0:1 /../.. /x rw - cgroup2 none rw").root, "/../..");
    }

    #[test]
    fn nonsense_is_skipped() {
        for line in ["", "1 2 3", "a b 0:1 / / rw - x y z", "1 2 0:1 / / rw shared:1 x y z", "1 2 0-1 / / rw - x y z"] {
            assert_eq!(parse_mountinfo(line.as_bytes()), [], "{line:?}");
        }
    }

    #[test]
    fn odd_escapes_stay() {
        for (field, plain) in
            [("\\", "\\"), ("\\04", "\\04"), ("\\999", "\\999"), ("\\400", "\\400"), ("a\\0401", "a 1")]
        {
            assert_eq!(unescape(field.as_bytes()), plain);
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_mountinfo(&bytes);
            let _ = unescape(&bytes);
        }

        #[test]
        fn escapes_can_be_undone(bytes in prop::collection::vec(prop_oneof![Just(b'\\'), Just(b'0'), any::<u8>()], 0..50)) {
            let text = escape(&bytes);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(unescape(text.as_bytes()).into_vec(), bytes);
        }
    }
}
