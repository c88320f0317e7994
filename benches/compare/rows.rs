//! The rows of the table: each an operation, and a check that it does what it says.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::sys::statfs::fstatfs;
use nix::sys::uio::pread;
use nix::unistd::{UnlinkatFlags, read, unlinkat, write};

use super::host::WORK;
use super::site::{FEW_CHILDREN, MANY_CHILDREN, Site};

const BUFFER_BYTES: usize = 4096;
const MEMBERS: &CStr = c"one/cgroup.procs";

/// What is measured. `run` repeats it and returns the time that the operations took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Operations per repetition.
    pub(crate) per_repetition: u64,
    /// Makes sure that the subject really does it. Returns a remark if the result is allowed, but not the kernel's.
    pub(crate) check: fn(&mut Site) -> Result<Option<String>>,
    pub(crate) run: fn(&mut Site, u64) -> Result<Duration>,
    /// After a slice, outside the measured time.
    pub(crate) verify: fn(&mut Site) -> Result<()>,
}

fn nothing(_: &mut Site) -> Result<()> {
    Ok(())
}

const fn row(
    name: &'static str,
    check: fn(&mut Site) -> Result<Option<String>>,
    run: fn(&mut Site, u64) -> Result<Duration>,
) -> Row {
    Row { name, per_repetition: 1, check, run, verify: nothing }
}

pub(crate) const ROWS: &[Row] = &[
    row("open+read+close", check_file, run_open_read),
    row("same, cgroup.procs", check_members, run_members),
    row("pread, kept fd", check_kept, run_pread),
    Row { per_repetition: 2, ..row("pread, 2 threads", check_kept, run_pread_threads) },
    row("open+write+close", check_limit, run_limit),
    row("stat", check_stat, run_stat),
    row("readdir 50", check_few, run_few),
    row("readdir 1000", check_many, run_many),
    row("walk+lstat 1000", check_walk, run_walk),
    row("find -ls 1000", check_find, run_find),
    Row { verify: verify_migration, ..row("migration", check_migration, run_migration) },
    Row { verify: verify_mkdir, ..row("mkdir+rmdir", check_mkdir, run_mkdir) },
    row("statfs, a message", check_statfs, run_statfs),
];

fn timed(repetitions: u64, mut operation: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..repetitions {
        operation()?;
    }
    Ok(start.elapsed())
}

fn open_file(dir: impl AsFd, path: &CStr, flags: OFlag) -> Result<OwnedFd> {
    openat(dir, path, flags | OFlag::O_CLOEXEC, Mode::empty()).with_context(|| format!("open {path:?}"))
}

fn open_read(dir: BorrowedFd<'_>, path: &CStr, buffer: &mut [u8]) -> Result<usize> {
    let file = open_file(dir, path, OFlag::O_RDONLY)?;
    read(&file, buffer).with_context(|| format!("read {path:?}"))
}

/// The content of a file by both ways is the same. It is compared with the kernel's before and after, because it may
/// change in between.
fn same_content(site: &Site, path: &CStr, read_it: impl Fn(&mut [u8]) -> Result<usize>) -> Result<usize> {
    let mut expected = [0; BUFFER_BYTES];
    let mut found = [0; BUFFER_BYTES];
    for _ in 0..5 {
        let length = open_read(site.truth.as_fd(), path, &mut expected)?;
        let count = read_it(&mut found)?;
        if length > 0 && expected.get(..length) == found.get(..count) {
            return Ok(length);
        }
    }
    bail!(
        "{path:?} reads as {:?}, the kernel's as {:?}",
        String::from_utf8_lossy(&found).trim_end_matches('\0'),
        String::from_utf8_lossy(&expected).trim_end_matches('\0')
    )
}

fn check_file(site: &mut Site) -> Result<Option<String>> {
    site.length = same_content(site, site.file, |buffer| open_read(site.root.as_fd(), site.file, buffer))?;
    Ok(None)
}

fn check_members(site: &mut Site) -> Result<Option<String>> {
    same_content(site, MEMBERS, |buffer| open_read(site.root.as_fd(), MEMBERS, buffer))?;
    Ok(None)
}

fn check_kept(site: &mut Site) -> Result<Option<String>> {
    for fd in &site.kept {
        site.length = same_content(site, site.file, |buffer| pread(fd, buffer, 0).context("pread"))?;
    }
    Ok(None)
}

fn write_limit(site: &Site, text: &[u8]) -> Result<()> {
    let file = open_file(site.root.as_fd(), site.limit, OFlag::O_WRONLY)?;
    let count = write(&file, text).with_context(|| format!("write {:?}", site.limit))?;
    expect_length(count, text.len())
}

fn check_limit(site: &mut Site) -> Result<Option<String>> {
    for text in [b"101\n", b"102\n"] {
        write_limit(site, text)?;
        let mut found = [0; BUFFER_BYTES];
        let count = open_read(site.truth.as_fd(), site.limit, &mut found)?;
        ensure!(found.get(..count) == Some(text.as_slice()), "{:?} isn't what was written", site.limit);
    }
    Ok(None)
}

fn run_limit(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || write_limit(site, b"101\n"))
}

fn expect_length(found: usize, wanted: usize) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(anyhow!("read {found} bytes, not {wanted}")) }
}

fn run_open_read(site: &mut Site, repetitions: u64) -> Result<Duration> {
    let mut buffer = [0; BUFFER_BYTES];
    timed(repetitions, || expect_length(open_read(site.root.as_fd(), site.file, &mut buffer)?, site.length))
}

fn run_members(site: &mut Site, repetitions: u64) -> Result<Duration> {
    let mut buffer = [0; BUFFER_BYTES];
    timed(repetitions, || {
        let count = open_read(site.root.as_fd(), MEMBERS, &mut buffer)?;
        if count > 0 { Ok(()) } else { Err(anyhow!("cgroup.procs is empty")) }
    })
}

fn pread_times(fd: &OwnedFd, length: usize, repetitions: u64) -> Result<Duration> {
    let mut buffer = [0; BUFFER_BYTES];
    timed(repetitions, || expect_length(pread(fd, &mut buffer, 0).context("pread")?, length))
}

fn run_pread(site: &mut Site, repetitions: u64) -> Result<Duration> {
    let [fd, _] = &site.kept;
    pread_times(fd, site.length, repetitions)
}

fn run_pread_threads(site: &mut Site, repetitions: u64) -> Result<Duration> {
    let [first, second] = &site.kept;
    let length = site.length;
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            barrier.wait();
            pread_times(second, length, repetitions)
        });
        barrier.wait();
        let start = Instant::now();
        let own = pread_times(first, length, repetitions);
        let other = other.join().map_err(|_| anyhow!("a thread panicked"))?;
        let elapsed = start.elapsed();
        own.and(other).map(|_| elapsed)
    })
}

fn check_stat(site: &mut Site) -> Result<Option<String>> {
    let stat = fstatat(&site.root, site.file, AtFlags::AT_SYMLINK_NOFOLLOW).context("stat")?;
    let truth = fstatat(&site.truth, site.file, AtFlags::AT_SYMLINK_NOFOLLOW).context("stat")?;
    ensure!(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG, "not a regular file");
    let differs = |what: &str, found: u64, wanted: u64| {
        (found != wanted).then(|| format!("stat: {what} is {found:o}, the kernel's {wanted:o} (octal)"))
    };
    Ok(differs("st_mode", stat.st_mode.into(), truth.st_mode.into()))
}

fn run_stat(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || fstatat(&site.root, site.file, AtFlags::AT_SYMLINK_NOFOLLOW).map(drop).context("stat"))
}

fn open_dir(dir: impl AsFd, path: &CStr) -> Result<OwnedFd> {
    open_file(dir, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
}

fn names(dir: OwnedFd) -> Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in Dir::from_fd(dir)? {
        let entry = entry.context("readdir")?;
        if !is_dots(entry.file_name()) {
            found.push(entry.file_name().to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// All cgroups are listed, each once. Interface files may be hidden: that's a remark.
fn check_dir(site: &Site, path: &CStr, cgroups: usize) -> Result<(usize, Option<String>)> {
    let found = names(open_dir(&site.root, path)?)?;
    let truth = names(open_dir(&site.truth, path)?)?;
    let count = found.iter().filter(|name| name.to_bytes().starts_with(b"c0")).count();
    ensure!(count == cgroups, "{path:?} lists {count} cgroups, not {cgroups}");
    ensure!(found.is_sorted_by(|a, b| a < b), "{path:?} lists a name twice");
    let hidden = truth.iter().filter(|name| found.binary_search(name).is_err());
    let more = found.iter().filter(|name| truth.binary_search(name).is_err());
    let list = |label: &str, names: Vec<&CString>| {
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        (!names.is_empty()).then(|| format!("a cgroup lists {label}: {}", names.join(", ")))
    };
    Ok((found.len(), list("less than the kernel's", hidden.collect()).or(list("more", more.collect()))))
}

fn check_few(site: &mut Site) -> Result<Option<String>> {
    let (entries, remark) = check_dir(site, c"few", FEW_CHILDREN)?;
    site.entries[0] = entries;
    Ok(remark)
}

fn check_many(site: &mut Site) -> Result<Option<String>> {
    let (entries, remark) = check_dir(site, c"many", MANY_CHILDREN)?;
    site.entries[1] = entries;
    Ok(remark)
}

fn expect_entries(found: usize, wanted: usize) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(anyhow!("listed {found} entries, not {wanted}")) }
}

/// opendir to closedir.
fn list(dir: &OwnedFd, path: &CStr) -> Result<usize> {
    let mut count = 0;
    for entry in Dir::from_fd(open_dir(dir, path)?)? {
        count += usize::from(!is_dots(entry.context("readdir")?.file_name()));
    }
    Ok(count)
}

fn run_few(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || expect_entries(list(&site.root, c"few")?, site.entries[0]))
}

fn run_many(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || expect_entries(list(&site.root, c"many")?, site.entries[1]))
}

/// Lists everything below a directory and lstats it, as find does. Returns the number of entries.
fn walk(dir: OwnedFd) -> Result<usize> {
    let mut count = 0;
    let listing = Dir::from_fd(dir.try_clone()?)?;
    for entry in listing {
        let entry = entry.context("readdir")?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        count += 1;
        let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).with_context(|| format!("lstat {name:?}"))?;
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR {
            count += walk(open_dir(&dir, name)?)?;
        }
    }
    Ok(count)
}

fn check_walk(site: &mut Site) -> Result<Option<String>> {
    let found = walk(open_dir(&site.root, c"many")?)?;
    let truth = walk(open_dir(&site.truth, c"many")?)?;
    ensure!(found >= MANY_CHILDREN, "a walk finds {found} entries, not {truth}");
    site.entries[2] = found;
    Ok((found != truth).then(|| format!("a walk finds {found} entries, in the kernel's {truth}")))
}

fn run_walk(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || expect_entries(walk(open_dir(&site.root, c"many")?)?, site.entries[2]))
}

fn find(dir: &Path) -> Result<Command> {
    let mut command = Command::new("find");
    command.args([".", "-ls"]).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(Path::new(WORK).join("find.log"))?);
    Ok(command)
}

fn find_failed() -> anyhow::Error {
    let log = fs::read_to_string(Path::new(WORK).join("find.log")).unwrap_or_default();
    anyhow!("find: {}", log.lines().next().unwrap_or("failed"))
}

fn check_find(site: &mut Site) -> Result<Option<String>> {
    let remark = check_walk(site)?;
    let output = find(&site.root_path.join("many"))?.stdout(Stdio::piped()).output().context("start find")?;
    ensure!(output.status.success(), find_failed());
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    ensure!(lines == site.entries[2] + 1, "find prints {lines} lines, not {}", site.entries[2] + 1);
    Ok(remark)
}

fn run_find(site: &mut Site, repetitions: u64) -> Result<Duration> {
    let mut command = find(&site.root_path.join("many"))?;
    timed(repetitions, || if command.status().context("start find")?.success() { Ok(()) } else { Err(find_failed()) })
}

fn migrate(site: &mut Site) -> Result<()> {
    let path = if site.in_b { c"a/cgroup.procs" } else { c"b/cgroup.procs" };
    let file = open_file(&site.root, path, OFlag::O_WRONLY)?;
    write(&file, site.pid_text.as_bytes()).with_context(|| format!("write {path:?}"))?;
    site.in_b = !site.in_b;
    Ok(())
}

fn check_migration(site: &mut Site) -> Result<Option<String>> {
    for _ in 0..2 {
        migrate(site)?;
        verify_migration(site)?;
    }
    Ok(None)
}

fn run_migration(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || migrate(site))
}

/// The process is where it was written to.
fn verify_migration(site: &mut Site) -> Result<()> {
    let found = site.hierarchy.membership(site.migrant.pid())?;
    let wanted = if site.in_b { "/b" } else { "/a" };
    ensure!(found.ends_with(wanted), "after the migration the process is in {found}, not in {wanted}");
    Ok(())
}

const NEW: &CStr = c"new/x";

fn check_mkdir(site: &mut Site) -> Result<Option<String>> {
    mkdirat(&site.root, NEW, Mode::from_bits_truncate(0o755)).context("mkdir")?;
    fstatat(&site.truth, NEW, AtFlags::AT_SYMLINK_NOFOLLOW).context("mkdir made no cgroup")?;
    unlinkat(&site.root, NEW, UnlinkatFlags::RemoveDir).context("rmdir")?;
    verify_mkdir(site)?;
    Ok(None)
}

fn run_mkdir(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || {
        mkdirat(&site.root, NEW, Mode::from_bits_truncate(0o755)).context("mkdir")?;
        unlinkat(&site.root, NEW, UnlinkatFlags::RemoveDir).context("rmdir")
    })
}

fn verify_mkdir(site: &mut Site) -> Result<()> {
    match fstatat(&site.truth, NEW, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(()),
        result => bail!("the cgroup is still there after rmdir: {result:?}"),
    }
}

/// The kernel asks a FUSE server each time, and that has next to nothing to do: what a message costs here, whoever serves it.
fn check_statfs(site: &mut Site) -> Result<Option<String>> {
    let found = fstatfs(&site.root).context("statfs")?;
    ensure!(found.block_size() > 0, "statfs: a block of {} bytes", found.block_size());
    Ok(None)
}

fn run_statfs(site: &mut Site, repetitions: u64) -> Result<Duration> {
    timed(repetitions, || fstatfs(&site.root).map(drop).context("statfs"))
}
