//! The messages between the server and a helper that attaches or detaches.
//!
//! One SOCK_SEQPACKET message each, in native byte order. Decoding is pure and total: any bytes give a message or
//! [`Malformed`], never a panic.
//!
//! | message | layout |
//! |---|---|
//! | report, helper to server | kind u32, first u32, second u64 |
//! | order, server to helper, with one descriptor | kind u32, then for `Build` the words of the [`Layout`] |

use std::ffi::{CStr, CString};
use std::path::Path;

use super::flags::MountFlags;
use super::layout::{HierarchyMount, Layout, SentinelSource, SentinelSpec, StackSpec, Underlay};
use super::step::AttachStep;
use crate::request::Malformed;

/// Length of a [`Report`], in bytes.
pub const REPORT_LEN: usize = 16;
/// The maximum length of an order, in bytes.
pub const MAX_ORDER: usize = 16 * 1024;

/// The mount point of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// How many components of `/sys/fs/cgroup` exist: 1 to 3.
    pub depth: u32,
    /// Whether the last one that exists is empty. It's checked only if `depth` is below 3.
    pub empty: bool,
    /// The id of the mount that it's on, as in mountinfo, or 0 if the kernel doesn't tell (before Linux 3.15).
    pub mount: u64,
}

/// A helper's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The helper has located the mount point, and awaits a request.
    Location(Location),
    /// The view's connection is mounted, and has to be served from now on.
    Mounted,
    /// The request is done.
    Done,
    /// Nothing was changed, or every change was undone.
    Failed {
        /// The failed step.
        step: AttachStep,
        /// Its errno.
        errno: i32,
    },
}

impl Report {
    /// Encodes the message.
    #[must_use]
    pub fn encode(self) -> [u8; REPORT_LEN] {
        let (kind, first, second) = match self {
            Self::Location(found) => (1u32, found.depth | u32::from(found.empty) << 8, found.mount),
            Self::Mounted => (2, 0, 0),
            Self::Done => (3, 0, 0),
            Self::Failed { step, errno } => (4, step as u32, u64::from(errno.unsigned_abs())),
        };
        let mut out = [0; REPORT_LEN];
        let fields = kind.to_ne_bytes().into_iter().chain(first.to_ne_bytes()).chain(second.to_ne_bytes());
        for (to, from) in out.iter_mut().zip(fields) {
            *to = from;
        }
        out
    }

    /// Decodes a whole message.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`Report::encode`] doesn't produce.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = message.split_first_chunk::<4>().ok_or(Malformed)?;
        let (first, rest) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
        let second = u64::from_ne_bytes(rest.try_into().map_err(|_| Malformed)?);
        let first = u32::from_ne_bytes(*first);
        let report = match u32::from_ne_bytes(*kind) {
            1 => Self::Location(Location { depth: first & 0xff, empty: first >> 8 == 1, mount: second }),
            2 => Self::Mounted,
            3 => Self::Done,
            4 => {
                let step = AttachStep::ALL.into_iter().find(|step| *step as u32 == first).ok_or(Malformed)?;
                Self::Failed { step, errno: i32::try_from(second).map_err(|_| Malformed)? }
            }
            _ => return Err(Malformed),
        };
        let possible = !matches!(report, Self::Location(found) if !(1..=3).contains(&found.depth));
        if possible && report.encode() == *message { Ok(report) } else { Err(Malformed) }
    }
}

/// An order to a helper. One descriptor comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountRequest {
    /// Move a detached mount to the mount point. The descriptor is its root.
    Move,
    /// Build this layout on the mount point. The descriptor is the connection to FUSE.
    Build(Layout),
}

const MOVE: u32 = 1;
const BUILD_STACK: u32 = 2;
const BUILD_SENTINEL: u32 = 3;

impl MountRequest {
    /// Encodes the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Move => MOVE.to_ne_bytes().to_vec(),
            Self::Build(layout) => {
                let (kind, words) = match layout {
                    Layout::Stack(spec) => (BUILD_STACK, words_of(spec)),
                    // The sentinel's source isn't sent.
                    Layout::Sentinel(SentinelSpec { shown, own, flags, files, .. }) => {
                        let words = [flags.word(), shown.clone(), own.clone()].into_iter();
                        (BUILD_SENTINEL, words.chain(files.iter().cloned()).collect())
                    }
                };
                let mut out = kind.to_ne_bytes().to_vec();
                for word in words {
                    out.extend_from_slice(word.to_bytes_with_nul());
                }
                out
            }
        }
    }

    /// Decodes a whole message.
    ///
    /// # Errors
    /// [`Malformed`] if it isn't well-formed, or describes an impossible layout.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = message.split_first_chunk::<4>().ok_or(Malformed)?;
        match (u32::from_ne_bytes(*kind), rest) {
            (MOVE, []) => Ok(Self::Move),
            (BUILD_STACK, rest) => stack_of(rest).map(Layout::Stack).map(Self::Build),
            (BUILD_SENTINEL, rest) => sentinel_of(rest).map(Layout::Sentinel).map(Self::Build),
            _ => Err(Malformed),
        }
    }
}

/// Returns the words of a stack. An underlay that is a bind has none, since a container has nothing to bind.
fn words_of(spec: &StackSpec) -> Vec<CString> {
    let mut words = vec![spec.flags.word()];
    for hierarchy in &spec.hierarchies {
        let access = if hierarchy.read_only { c"r" } else { c"w" };
        words.extend([access.to_owned(), hierarchy.flags.word(), hierarchy.directory.clone()]);
        match &hierarchy.underlay {
            Underlay::Mount { options, below } => {
                words.extend([c"v1".to_owned(), options.clone(), below.clone()]);
            }
            Underlay::None | Underlay::Bind { .. } => words.push(c"none".to_owned()),
        }
    }
    for (name, target) in &spec.links {
        words.extend([c"l".to_owned(), name.clone(), target.clone()]);
    }
    words
}

fn words_in(bytes: &[u8]) -> impl Iterator<Item = Result<CString, Malformed>> {
    bytes.split_inclusive(|byte| *byte == 0).map(|word| {
        let word = CStr::from_bytes_with_nul(word).map_err(|_| Malformed)?;
        Ok(word.to_owned())
    })
}

fn sentinel_of(bytes: &[u8]) -> Result<SentinelSpec, Malformed> {
    let mut words = words_in(bytes);
    let flags = flags_of(&words.next().ok_or(Malformed)??)?;
    let shown = checked(words.next().ok_or(Malformed)??, is_shown)?;
    let own = checked(words.next().ok_or(Malformed)??, is_shown)?;
    let files = words.map(|word| checked(word?, is_core_file)).collect::<Result<_, _>>()?;
    Ok(SentinelSpec { underlay: SentinelSource::Namespace, shown, own, flags, files })
}

fn stack_of(bytes: &[u8]) -> Result<StackSpec, Malformed> {
    let mut words = words_in(bytes);
    let flags = flags_of(&words.next().ok_or(Malformed)??)?;
    let mut spec = StackSpec { flags, hierarchies: Vec::new(), links: Vec::new() };
    while let Some(kind) = words.next() {
        let mut next = || words.next().ok_or(Malformed)?;
        let kind = kind?;
        match kind.to_bytes() {
            kind @ (b"r" | b"w") => {
                let flags = flags_of(&next()?)?;
                let directory = checked(next()?, is_name)?;
                let underlay = match next()?.to_bytes() {
                    b"none" => Underlay::None,
                    b"v1" => {
                        Underlay::Mount { options: checked(next()?, is_options)?, below: checked(next()?, is_below)? }
                    }
                    _ => return Err(Malformed),
                };
                spec.hierarchies.push(HierarchyMount { directory, underlay, read_only: kind == b"r", flags });
            }
            b"l" => spec.links.push((checked(next()?, is_name)?, checked(next()?, is_name)?)),
            _ => return Err(Malformed),
        }
    }
    Ok(spec)
}

fn flags_of(word: &CStr) -> Result<MountFlags, Malformed> {
    MountFlags::from_word(word.to_bytes()).ok_or(Malformed)
}

fn checked(word: CString, legal: fn(&[u8]) -> bool) -> Result<CString, Malformed> {
    if legal(word.to_bytes()) { Ok(word) } else { Err(Malformed) }
}

/// Whether this is a single component, and not a name that the stack itself uses while it's built.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/') && !name.starts_with(b".")
}

/// Whether these options only select a v1 hierarchy: controllers, a name, and the two flags that change the names and
/// the content of its files. No option may change a setting.
fn is_options(options: &[u8]) -> bool {
    let is_word = |word: &[u8]| {
        let word = word.strip_prefix(b"name=").unwrap_or(word);
        !word.is_empty() && !word.contains(&b'=')
    };
    options.split(|byte| *byte == b',').all(is_word)
}

/// Whether this is a path below the root: names with one slash between them.
fn is_shown(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|name| !name.is_empty() && name != b"." && name != b"..")
}

fn is_core_file(name: &[u8]) -> bool {
    name.starts_with(b"cgroup.") && !name.contains(&b'/')
}

/// Whether this is a relative path below a hierarchy's root, or empty for the root itself.
fn is_below(path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    path.components().all(|component| matches!(component, std::path::Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> StackSpec {
        let v1 = |options: &CStr, below: &CStr| Underlay::Mount { options: options.into(), below: below.into() };
        let hierarchy = |directory: &CStr, underlay, read_only| {
            let flags = MountFlags::from_options(if read_only { "nodev,noatime" } else { "" });
            HierarchyMount { directory: directory.into(), underlay, read_only, flags }
        };
        StackSpec {
            flags: MountFlags::TMPFS,
            hierarchies: vec![
                hierarchy(c"unified", Underlay::None, false),
                hierarchy(c"cpu,cpuacct", v1(c"cpu,cpuacct", c""), true),
                hierarchy(c"systemd", v1(c"xattr,name=systemd", c"a/b"), false),
            ],
            links: vec![(c"cpu".into(), c"cpu,cpuacct".into())],
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        let sentinel = |shown: &CStr, files: &[&CStr]| {
            let files = files.iter().map(|name| (*name).to_owned()).collect();
            let (flags, own) = (MountFlags::HIERARCHY, c"machine.slice/c1".into());
            Layout::Sentinel(SentinelSpec {
                underlay: SentinelSource::Namespace,
                shown: shown.into(),
                own,
                flags,
                files,
            })
        };
        let stacks =
            [Layout::Stack(StackSpec { hierarchies: Vec::new(), links: Vec::new(), ..spec() }), Layout::Stack(spec())];
        let sentinels = [sentinel(c"c1", &[]), sentinel(c"machine.slice/c1", &[c"cgroup.controllers", c"cgroup.type"])];
        for order in stacks.into_iter().chain(sentinels).map(MountRequest::Build).chain([MountRequest::Move]) {
            assert_eq!(MountRequest::decode(&order.encode()), Ok(order));
        }
        let found = Location { depth: 2, empty: true, mount: u64::MAX };
        let failed = Report::Failed { step: AttachStep::Unmount, errno: libc::EBUSY };
        for report in [Report::Location(found), Report::Mounted, Report::Done, failed] {
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
    }

    #[test]
    fn nothing_else_is() {
        let build = |words: &[u8]| MountRequest::decode(&[&BUILD_STACK.to_ne_bytes(), words].concat());
        assert!(build(b"\0r\0nosuid\0a\0none\0").is_ok());
        for words in [
            &b"r\0\0a\0none"[..],
            b"r\0\0a\0",
            b"x\0\0a\0none\0",
            b"r\0\0a/b\0none\0",
            b"r\0\0..\0none\0",
            b"r\0\0.view\0none\0",
            b"r\0\0\0none\0",
            b"r\0rw\0a\0none\0",
            b"r\0nodev,nosuid\0a\0none\0",
            b"r\0\0a\0v2\0\0\0",
            b"r\0\0a\0v1\0memory,release_agent=/x\0\0",
            b"r\0\0a\0v1\0\0\0",
            b"r\0\0a\0v1\0memory\0../x\0",
            b"r\0\0a\0v1\0memory\0/x\0",
            b"l\0a\0",
            b"l\0a\0/etc\0",
            b"\0",
        ] {
            let words = [b"\0", words].concat();
            assert_eq!(build(&words), Err(Malformed), "{}", String::from_utf8_lossy(&words));
        }
        for words in [&b""[..], b"bind\0", b"nosuid"] {
            assert_eq!(build(words), Err(Malformed), "{}", String::from_utf8_lossy(words));
        }
        let guard = |words: &[u8]| MountRequest::decode(&[&BUILD_SENTINEL.to_ne_bytes(), words].concat());
        assert!(guard(b"\0a\0a/b\0cgroup.type\0").is_ok());
        assert_eq!((guard(b""), guard(b"rw\0a\0a\0")), (Err(Malformed), Err(Malformed)));
        for words in [
            &b""[..],
            b"a",
            b"\0",
            b"/a\0",
            b"a/\0",
            b"a//b\0",
            b"./a\0",
            b"a/../b\0",
            b"a\0",
            b"a\0/b\0",
            b"a\0a/../b\0",
            b"a\0a\0cgroup.type",
            b"a\0a\0memory.max\0",
            b"a\0a\0cgroup./x\0",
            b"a\0a\0\0",
        ] {
            let words = [b"\0", words].concat();
            assert_eq!(guard(&words), Err(Malformed), "{}", String::from_utf8_lossy(&words));
        }
        assert_eq!(MountRequest::decode(&[]), Err(Malformed));
        assert_eq!(MountRequest::decode(&[&MOVE.to_ne_bytes()[..], b"x"].concat()), Err(Malformed));
        for message in [&[][..], &[0; 16], &[1; 16], &[9; 16], &[3; 15]] {
            assert_eq!(Report::decode(message), Err(Malformed));
        }
        let nowhere = Location { depth: 4, empty: false, mount: 0 };
        assert_eq!(Report::decode(&Report::Location(nowhere).encode()), Err(Malformed));
    }
}
