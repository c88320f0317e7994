//! Containers that use the same names at the same time, and guess each other's.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::O_PATH;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// A wrong answer is an error, described in words.
type Outcome = Result<(), String>;

/// Uses the cgroup `name` below `own`, and tries everything with what the rival has below `other`, for `seconds`. Fails at the first wrong
/// answer.
pub fn run(own: &str, other: &str, name: &str, seconds: u64) -> ExitCode {
    let rival = Rival { own: own.into(), other: other.into(), job: Path::new(own).join(name), name: name.into() };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0_u64;
    while Instant::now() < end {
        if let Err(wrong) = rival.round() {
            eprintln!("rival {} in {own}, round {rounds}: {wrong}", std::process::id());
            return ExitCode::FAILURE;
        }
        rounds += 1;
    }
    println!("{rounds}");
    ExitCode::SUCCESS
}

/// Watches directories for everything, says `ready`, and prints a line for each event (`DIR NAME MASK`) until standard input ends.
pub fn watch(directories: &[String]) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let mut labels = std::collections::HashMap::new();
    for directory in directories {
        labels.insert(inotify.add_watch(directory.as_str(), AddWatchFlags::IN_ALL_EVENTS)?, directory);
    }
    println!("ready");
    io::stdin().lines().for_each(drop);
    while let Ok(events) = inotify.read_events() {
        for event in events {
            let name = event.name.unwrap_or_default();
            let directory = labels.get(&event.wd).map_or("", |label| label.as_str());
            println!("{directory} {} {:?}", name.display(), event.mask);
        }
    }
    Ok(())
}

struct Rival {
    own: PathBuf,
    other: PathBuf,
    job: PathBuf,
    name: OsString,
}

fn step<T>(what: &str, path: &Path, done: io::Result<T>) -> Result<T, String> {
    done.map_err(|error| format!("{what} {}: {error}", path.display()))
}

/// Checks that an operation failed with ENOENT.
fn absent<T>(what: &str, path: &Path, done: io::Result<T>) -> Outcome {
    refused(what, path, done, Errno::ENOENT)
}

fn refused<T>(what: &str, path: &Path, done: io::Result<T>, with: Errno) -> Outcome {
    match done.map_err(|error| error.raw_os_error().map(Errno::from_raw)) {
        Err(Some(errno)) if errno == with => Ok(()),
        Err(errno) => Err(format!("{what} {}: {errno:?} instead of {with}", path.display())),
        Ok(_) => Err(format!("{what} {} succeeded", path.display())),
    }
}

impl Rival {
    fn round(&self) -> Outcome {
        step("mkdir", &self.job, fs::create_dir(&self.job))?;
        self.guess()?;
        self.use_it()?;
        self.look_around()?;
        self.guess()?;
        step("rmdir", &self.job, fs::remove_dir(&self.job))?;
        absent("stat after rmdir of", &self.job, fs::symlink_metadata(&self.job))
    }

    /// Migrates itself there and back.
    fn use_it(&self) -> Outcome {
        let list = self.job.join("cgroup.procs");
        let own_list = self.own.join("cgroup.procs");
        let number = std::process::id().to_string();
        let read = |path: &Path| step("read", path, fs::read_to_string(path));
        let before = read(&list)?;
        if !before.is_empty() {
            return Err(format!("{} has processes from the beginning: {before:?}", list.display()));
        }
        step("write to", &list, fs::write(&list, &number))?;
        if !read(&list)?.lines().any(|line| line == number) {
            return Err(format!("{number} isn't in {}", list.display()));
        }
        let memberships = read(Path::new("/proc/self/cgroup"))?;
        let end = format!("/{}", self.name.display());
        if !memberships.lines().any(|line| line.ends_with(&end)) {
            return Err(format!("written to {}, but is in {memberships}", list.display()));
        }
        step("write to", &own_list, fs::write(&own_list, "0"))?;
        if !read(&own_list)?.lines().any(|line| line == number) {
            return Err(format!("{number} isn't in {}", own_list.display()));
        }
        step("chdir", &self.job, std::env::set_current_dir(&self.job))?;
        let at = step("getcwd in", &self.job, std::env::current_dir())?;
        let here = step("stat . in", &self.job, fs::metadata("."))?;
        let there = step("stat", &self.job, fs::metadata(&self.job))?;
        step("chdir", Path::new("/"), std::env::set_current_dir("/"))?;
        if at != self.job || here.ino() != there.ino() {
            return Err(format!("{} is {}, {} and {}", self.job.display(), at.display(), here.ino(), there.ino()));
        }
        Ok(())
    }

    /// Checks that a listing never shows what is beside its own cgroup.
    fn look_around(&self) -> Outcome {
        let above = self.own.parent().unwrap_or(Path::new("/"));
        let mut directories = Vec::new();
        for entry in step("list", above, fs::read_dir(above))? {
            let entry = step("list", above, entry)?;
            if step("type of", &entry.path(), entry.file_type())?.is_dir() {
                directories.push(entry.file_name());
            }
        }
        if directories != [self.own.file_name().unwrap_or_default()] {
            return Err(format!("{} has {directories:?}", above.display()));
        }
        let listed = step("list", &self.own, fs::read_dir(&self.own))?;
        if listed.flatten().any(|entry| entry.file_name() == self.name) {
            Ok(())
        } else {
            Err(format!("{} isn't listed", self.job.display()))
        }
    }

    /// Checks that the rival's path, which it knows, leads nowhere.
    fn guess(&self) -> Outcome {
        let theirs = self.other.join(&self.name);
        for path in [&self.other, &theirs] {
            absent("stat", path, fs::symlink_metadata(path))?;
            absent("open", path, File::open(path))?;
            absent("open with O_PATH", path, OpenOptions::new().read(true).custom_flags(O_PATH).open(path))?;
            absent("list", path, fs::read_dir(path))?;
            absent("chdir", path, std::env::set_current_dir(path))?;
            absent("rmdir", path, fs::remove_dir(path))?;
            absent("unlink", path, fs::remove_file(path))?;
            absent("rename", path, fs::rename(path, self.own.join("theirs")))?;
            absent("mkdir below", path, fs::create_dir(path.join("new")))?;
            for file in ["cgroup.procs", "cgroup.events", "notify_on_release", "nothing"] {
                let file = path.join(file);
                absent("open", &file, File::open(&file))?;
                absent("open for writing", &file, OpenOptions::new().write(true).open(&file))?;
                absent("create", &file, OpenOptions::new().write(true).create(true).truncate(true).open(&file))?;
            }
        }
        // Where it has no cgroups of its own, what is there and what isn't are refused alike.
        for path in [&self.other, &self.other.with_file_name("nothing")] {
            refused("mkdir", path, fs::create_dir(path), Errno::EACCES)?;
            refused("create", path, File::create_new(path), Errno::EACCES)?;
        }
        absent("rename to", &theirs, fs::rename(&self.job, &theirs))
    }
}
