//! Processes that use a cgroup tree as hard as they can and check every answer. Each process migrates only itself and makes cgroups with names
//! that only it uses, so it knows which answers are right.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A wrong answer is an error, described in words.
type Outcome = Result<(), String>;

/// Runs `count` processes on the cgroups below `directory` for `seconds`, and every now and then kills one in the middle of whatever it does
/// and starts another one. Fails if one of them got a wrong answer.
pub fn run_many(directory: &str, count: usize, seconds: u64) -> ExitCode {
    let program = std::env::current_exe().expect("the path of this program");
    let end = Instant::now() + Duration::from_secs(seconds);
    let start = |seed: usize| -> Child {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let mut command = Command::new(&program);
        command.args(["--hammer-one", directory, &seed.to_string(), &left.to_string()]);
        command.stdin(Stdio::null()).spawn().expect("another process")
    };
    let mut processes: Vec<Child> = (0..count).map(start).collect();
    let mut next = count;
    while Instant::now() + Duration::from_secs(1) < end {
        // The pace of the kills: each process has worked for a while before.
        std::thread::sleep(Duration::from_millis(50));
        let killed = next % count;
        let _ = processes[killed].kill();
        let _ = processes[killed].wait();
        processes[killed] = start(next);
        next += 1;
    }
    let failed =
        processes.iter_mut().filter_map(|process| process.wait().ok()).filter(|status| !status.success()).count();
    println!("{} processes, {failed} failed", next);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one such process.
pub fn run_one(directory: &str, seed: u64, seconds: u64) -> ExitCode {
    let homes: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => {
            let is_home =
                |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("home"));
            entries.flatten().map(|entry| entry.path()).filter(is_home).collect()
        }
        Err(error) => return told(&format!("{directory}: {error}")),
    };
    let mut hammer = Hammer { directory: directory.into(), homes, at: 0, random: seed.wrapping_mul(2) | 1 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0_u64;
    // The first step is a migration, so that it knows where it is.
    let mut outcome = hammer.migrate(false);
    while outcome.is_ok() && Instant::now() < end {
        outcome = hammer.step();
        rounds += 1;
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => told(&format!("after {rounds} rounds: {wrong}")),
    }
}

/// Opens `path` up to `count` times, and keeps all open until standard input ends. Prints how many it got, and why no more.
pub fn open_many(path: &str, count: u64) -> ExitCode {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    match limit {
        Ok(limit) if limit > count + 64 => {}
        limit => return told(&format!("may open {limit:?} files, not {count}")),
    }
    let mut open = Vec::new();
    let mut why = "all".to_owned();
    for _ in 0..count {
        match File::open(path) {
            Ok(file) => open.push(file),
            Err(error) => {
                why = Errno::from_raw(error.raw_os_error().unwrap_or(0)).to_string();
                break;
            }
        }
    }
    println!("{} {why}", open.len());
    let _ = std::io::stdout().flush();
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    ExitCode::SUCCESS
}

/// Opens all files below `directory`, each once, and keeps all open until standard input ends. Prints how many it got, and how many not.
pub fn open_all(directory: &str) -> ExitCode {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer, fewer are opened.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let (mut open, mut failed, mut folders) = (Vec::new(), 0, vec![PathBuf::from(directory)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => match File::open(entry.path()) {
                    Ok(file) => open.push(file),
                    Err(_) => failed += 1,
                },
            }
        }
    }
    println!("{} {failed}", open.len());
    let _ = std::io::stdout().flush();
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    ExitCode::SUCCESS
}

fn told(wrong: &str) -> ExitCode {
    eprintln!("hammer {}: {wrong}", std::process::id());
    ExitCode::FAILURE
}

struct Hammer {
    directory: PathBuf,
    homes: Vec<PathBuf>,
    at: usize,
    random: u64,
}

impl Hammer {
    /// xorshift64.
    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    fn home(&self) -> &Path {
        &self.homes[self.at]
    }

    fn step(&mut self) -> Outcome {
        match self.random(8) {
            0 => self.migrate(false),
            1 => self.migrate(true),
            2 => self.is_listed(),
            3 | 4 => self.make_and_remove(),
            5 => self.list(),
            6 => self.poll(),
            _ => self.nonsense(),
        }
    }

    /// Migrates itself into another cgroup, by its own number or as `0`.
    fn migrate(&mut self, as_zero: bool) -> Outcome {
        let to = self.random(self.homes.len());
        let path = self.homes[to].join("cgroup.procs");
        let number = if as_zero { 0 } else { std::process::id() };
        fs::write(&path, number.to_string())
            .map_err(|error| format!("write {number} to {}: {error}", path.display()))?;
        self.at = to;
        let memberships = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let name = self.home().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if memberships.lines().any(|line| line.ends_with(&format!("/{name}"))) {
            Ok(())
        } else {
            Err(format!("written to {}, but is in {memberships}", path.display()))
        }
    }

    fn is_listed(&self) -> Outcome {
        let path = self.home().join("cgroup.procs");
        let list = fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
        let own = std::process::id().to_string();
        if list.lines().any(|line| line == own) {
            Ok(())
        } else {
            Err(format!("{own} isn't in {}: {list:?}", path.display()))
        }
    }

    fn make_and_remove(&mut self) -> Outcome {
        let name = format!("own-{}-{}", std::process::id(), self.random(3));
        let path = self.home().join(name);
        let step =
            |what: &str, done: std::io::Result<()>| done.map_err(|error| format!("{what} {}: {error}", path.display()));
        step("mkdir", fs::create_dir(&path))?;
        step("stat", fs::metadata(&path).map(drop))?;
        let list = fs::read(path.join("cgroup.procs"));
        step(
            "read of",
            list.and_then(|list| if list.is_empty() { Ok(()) } else { Err(std::io::Error::other("not empty")) }),
        )?;
        step("rmdir", fs::remove_dir(&path))?;
        match fs::metadata(&path) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
            other => Err(format!("{} after rmdir: {other:?}", path.display())),
        }
    }

    /// Checks that a listing has all homes, however many cgroups come and go beside them.
    fn list(&self) -> Outcome {
        let entries = fs::read_dir(&self.directory).map_err(|error| format!("list: {error}"))?;
        let found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        match self.homes.iter().find(|home| !found.contains(home)) {
            None => Ok(()),
            Some(missing) => Err(format!("{} isn't listed", missing.display())),
        }
    }

    /// Checks that its own cgroup is populated, and that poll reports a file that was never read as ready.
    fn poll(&self) -> Outcome {
        let path = self.home().join("cgroup.events");
        let file = File::open(&path).map_err(|error| format!("open {}: {error}", path.display()))?;
        let mut asked = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        poll(&mut asked, PollTimeout::ZERO).map_err(|error| format!("poll: {error}"))?;
        let ready = asked[0].revents().unwrap_or(PollFlags::empty());
        if !ready.contains(PollFlags::POLLPRI) {
            return Err(format!("{} was never read, but poll says {ready:?}", path.display()));
        }
        let text = std::io::read_to_string(&file).map_err(|error| format!("read {}: {error}", path.display()))?;
        if text.starts_with("populated 1") { Ok(()) } else { Err(format!("{}: {text:?}", path.display())) }
    }

    fn nonsense(&mut self) -> Outcome {
        let path = self.home().join("cgroup.procs");
        let wrong = ["x", "-1", "99999999999", "4194304"][self.random(4)];
        let errno = fs::write(&path, wrong).err().and_then(|error| error.raw_os_error()).map(Errno::from_raw);
        if matches!(errno, Some(Errno::EINVAL | Errno::ESRCH)) {
            Ok(())
        } else {
            Err(format!("{wrong:?} to {}: {errno:?}", path.display()))
        }
    }
}
