//! The fake host's trees, and the record of calls.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::time::UNIX_EPOCH;

use nix::errno::Errno;

use crate::fs::host::Credentials;
use crate::fs::host::Ready;
use crate::fs::{Attributes, SysResult};

/// A call to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The method's name.
    pub(super) name: &'static str,
    /// The hierarchy.
    pub(super) hierarchy: usize,
    /// The path on the host.
    pub(super) path: String,
    /// The written data, the name, or the number.
    pub(super) detail: String,
    /// Whether it can change something.
    pub(super) changes: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Thing {
    pub(super) parent: u64,
    pub(super) name: OsString,
    pub(super) attributes: Attributes,
    pub(super) content: Vec<u8>,
    pub(super) removed: bool,
}

/// A process, under the number that every caller uses.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeProcess {
    /// The cgroups of its threads, for each hierarchy; `None`: outside the server's cgroup namespace.
    pub(super) places: BTreeMap<usize, Vec<Option<&'static str>>>,
    pub(super) users: [u32; 2],
    pub(super) permitted: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The trees; each root has the number 1.
    pub(super) trees: Vec<BTreeMap<u64, Thing>>,
    next: u64,
    pub(super) calls: Vec<Call>,
    /// Failures to come, each for the next call of a method.
    pub(super) faults: VecDeque<(&'static str, Errno)>,
    pub(super) processes: BTreeMap<i32, FakeProcess>,
    /// The callers' rights; full ones by default.
    pub(super) credentials: BTreeMap<i32, Credentials>,
    /// How many files are open.
    pub(super) open: usize,
    /// How often each directory is watched, by hierarchy and inode number.
    pub(super) watches: BTreeMap<(usize, u64), i32>,
    /// The results of waiting for ready files; after the last one, waiting ends.
    pub(super) ready: Vec<Vec<Ready>>,
    /// The poll bits of every file.
    pub(super) polled: u16,
    /// The host's kernel, by what it accepts as the number of a process.
    pub(super) numbers: PidNs,
    /// Whether the kernel itself checks both ends of a migration.
    pub(super) checks_both_ends: bool,
    /// The cgroups into which the host moves processes that are about to be migrated, one after the other.
    pub(super) leaves: Vec<(i32, usize, &'static str)>,
    /// The processes that were migrated while other migrations were recorded.
    pub(super) settled: Vec<i32>,
}

/// The ways in which kernels parse the number of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PidNs {
    /// `simple_strtoull`, in a buffer of 64 bytes (Linux 3.10).
    Simple,
    /// `kstrtoull`, without `strstrip` (Linux 3.15).
    Large,
    /// `kstrtoint` (since Linux 3.16).
    #[default]
    Int,
}

impl PidNs {
    /// Parses a written number, or returns why it isn't accepted.
    pub(super) fn read(self, data: &[u8]) -> Result<i32, Errno> {
        if self == Self::Simple && data.len() >= 64 {
            return Err(Errno::E2BIG);
        }
        let text = String::from_utf8_lossy(data.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let text = if self == Self::Large { text.strip_suffix('\n').unwrap_or(&text) } else { text.trim() };
        let (negative, digits) = match self {
            Self::Simple if text.is_empty() => return Ok(0),
            Self::Simple => (false, text),
            Self::Large => (false, text.strip_prefix('+').unwrap_or(text)),
            Self::Int => {
                (text.starts_with('-'), text.strip_prefix('-').or_else(|| text.strip_prefix('+')).unwrap_or(text))
            }
        };
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(Errno::EINVAL);
        }
        let radix = if digits.len() > 1 && digits.starts_with('0') { 8 } else { 10 };
        let number = u64::from_str_radix(digits, radix).map_err(|_| Errno::EINVAL)?;
        let is_out = negative && number > 0 || number > i32::MAX.unsigned_abs().into();
        // The others pass on an unsigned number of 64 bits, which is looked up as one of 32 bits.
        if self == Self::Int && is_out { Err(Errno::EINVAL) } else { Ok(number as i32) }
    }
}

impl State {
    pub(super) fn path(&self, hierarchy: usize, inode: u64) -> String {
        let mut names = Vec::new();
        let mut at = inode;
        while at != 1 {
            let thing = &self.trees[hierarchy][&at];
            names.push(thing.name.to_string_lossy().into_owned());
            at = thing.parent;
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }

    pub(super) fn add(&mut self, hierarchy: usize, parent: u64, name: &OsStr, mode: u32) -> u64 {
        self.next += 1;
        let inode = self.next + 100;
        let attributes = attributes(inode, mode);
        let thing = Thing {
            parent,
            name: name.to_owned(),
            attributes,
            content: name.as_encoded_bytes().to_vec(),
            removed: false,
        };
        self.trees[hierarchy].insert(inode, thing);
        inode
    }

    pub(super) fn root(&mut self) {
        let attributes = attributes(1, libc::S_IFDIR | 0o755);
        let root = Thing { parent: 1, name: OsString::new(), attributes, content: Vec::new(), removed: false };
        self.trees.push(BTreeMap::from([(1, root)]));
    }

    pub(super) fn in_directory(&self, hierarchy: usize, parent: u64, name: &OsStr) -> Option<u64> {
        let tree = &self.trees[hierarchy];
        tree.iter()
            .find(|(inode, thing)| **inode != 1 && !thing.removed && thing.parent == parent && thing.name == name)
            .map(|(inode, _)| *inode)
    }

    pub(super) fn find(&self, hierarchy: usize, path: &str) -> Option<u64> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(1, |at, name| self.in_directory(hierarchy, at, OsStr::new(name)))
    }

    pub(super) fn thing(&mut self, hierarchy: usize, path: &str) -> &mut Thing {
        let inode = self.find(hierarchy, path).unwrap_or_else(|| panic!("no {path} in {hierarchy}"));
        self.trees[hierarchy].get_mut(&inode).unwrap()
    }

    /// Removes a cgroup and its descendants, as the host does.
    pub(super) fn remove(&mut self, hierarchy: usize, path: &str) {
        let top = self.find(hierarchy, path).unwrap_or_else(|| panic!("no {path} in {hierarchy}"));
        let below: Vec<u64> = self.trees[hierarchy]
            .keys()
            .copied()
            .filter(|inode| {
                let path_of = self.path(hierarchy, *inode);
                *inode == top || path_of.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
            })
            .collect();
        for inode in below {
            self.trees[hierarchy].get_mut(&inode).unwrap().removed = true;
        }
    }

    pub(super) fn living(&self, hierarchy: usize, inode: u64) -> SysResult<&Thing> {
        self.trees[hierarchy].get(&inode).filter(|thing| !thing.removed).ok_or(Errno::ENOENT)
    }
}

pub(super) fn attributes(inode: u64, mode: u32) -> Attributes {
    let links = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
    Attributes { inode, mode, uid: 0, gid: 0, links, size: 0, block_size: 4096, times: [UNIX_EPOCH; 3] }
}
