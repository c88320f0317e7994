//! Operations on whole directory trees.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use rustix::fs as rfs;
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use serde_json::{Value, json};

use super::files::{patiently, read_file, type_name};
use super::op::Op;
use super::state::{Answer, Failure, State};

/// Times before this one (in 2001) were set by a script.
const LONG_AGO: i64 = 1_000_000_000;

/// Performs an operation on trees; `None` if it isn't one.
pub(super) fn execute(state: &Arc<State>, op: &Op) -> Option<Answer> {
    Some(match op {
        Op::List { fd } => state.fd(fd).and_then(|fd| names_of(&fd)),
        Op::Getdents { path, buffer, seek } => state.expand(path).and_then(|path| getdents(&path, *buffer, *seek)),
        Op::Times { path } => state.expand(path).and_then(|path| times(&path)),
        Op::Tree { path } => state.expand(path).map(|path| {
            let mut found = BTreeMap::new();
            describe(&path, "", &mut found);
            json!(found)
        }),
        Op::Settle { path, real } => state.expand(path).and_then(|path| {
            let real = state.expand(real)?;
            Ok(json!(patiently(|| names(&path) == names(&real))))
        }),
        _ => return None,
    })
}

fn open_directory(path: &str) -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    rfs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn getdents(path: &str, buffer: usize, seek: usize) -> Answer {
    let fd = open_directory(path).map_err(|error| Failure::Sys("open", error.raw_os_error()))?;
    let read_on = || -> Result<Vec<(String, u64)>, rustix::io::Errno> {
        let mut space = vec![MaybeUninit::<u8>::uninit(); buffer];
        let mut directory = RawDir::new(&fd, &mut space);
        let mut entries = Vec::new();
        while let Some(entry) = directory.next() {
            let entry = entry?;
            entries.push((entry.file_name().to_string_lossy().into_owned(), entry.next_entry_cookie()));
        }
        Ok(entries)
    };
    let first = read_on()?;
    let at = seek.min(first.len());
    rfs::seek(&fd, SeekFrom::Start(if at == 0 { 0 } else { first[at - 1].1 }))?;
    let second = read_on()?;
    let mut names: Vec<_> = first.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    let rest = |entries: &[(String, u64)]| entries.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    Ok(json!({"names": names, "reads on": rest(&first[at..]) == rest(&second)}))
}

fn names_of(directory: &OwnedFd) -> Answer {
    rfs::seek(directory, SeekFrom::Start(0))?;
    let mut space = vec![MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut space);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(json!(names))
}

fn times(path: &str) -> Answer {
    let stat = rfs::lstat(path)?;
    let told = |seconds: i64| if seconds < LONG_AGO { json!(seconds) } else { json!("recent") };
    Ok(json!([told(stat.st_atime), told(stat.st_mtime)]))
}

fn entries(path: &str) -> Result<Vec<String>, rustix::io::Errno> {
    let mut names = Vec::new();
    for entry in rfs::Dir::new(open_directory(path)?)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn error_name(raw: i32) -> Value {
    json!([format!("{:?}", Errno::from_raw(raw))])
}

fn describe(top: &str, below: &str, found: &mut BTreeMap<String, Value>) {
    let path = format!("{top}{below}");
    let stat = match rfs::lstat(&path) {
        Ok(stat) => stat,
        Err(error) => {
            found.insert(below.into(), error_name(error.raw_os_error()));
            return;
        }
    };
    let kind = type_name(rfs::FileType::from_raw_mode(stat.st_mode));
    let (mode, links) = (stat.st_mode & 0o7777, stat.st_nlink);
    let line = format!("{kind} {mode:04o} {} {} {links}", stat.st_uid, stat.st_gid);
    let listed = if kind == "directory" { entries(&path) } else { Ok(Vec::new()) };
    let content = match (kind, &listed) {
        ("directory", Ok(names)) => json!(names),
        ("directory", Err(error)) => error_name(error.raw_os_error()),
        _ => match read_file(&path) {
            Ok(text) => text,
            Err(Failure::Sys(_, raw)) => error_name(raw),
            Err(Failure::Script(what)) => json!(what),
        },
    };
    found.insert(below.into(), json!({"stat": line, "content": content}));
    for name in listed.unwrap_or_default() {
        describe(top, &format!("{below}/{name}"), found);
    }
}

/// The names in a tree, and whether each can be looked up.
fn names(top: &str) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    let mut open = vec![String::new()];
    while let Some(below) = open.pop() {
        for name in entries(&format!("{top}{below}")).unwrap_or_default() {
            let below = format!("{below}/{name}");
            let stat = rfs::lstat(format!("{top}{below}"));
            if stat.as_ref().is_ok_and(|stat| rfs::FileType::from_raw_mode(stat.st_mode).is_dir()) {
                open.push(below.clone());
            }
            found.insert(below, stat.is_ok());
        }
    }
    found
}
