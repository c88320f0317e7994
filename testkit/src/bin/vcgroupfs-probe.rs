//! Executes file operations, one JSON object a line on standard input or one an argument, and prints one answer a line.
//!
//! ```text
//! vcgroupfs-probe [OPERATION...]                  the script
//! vcgroupfs-probe --join DIR... -- COMMAND...     becomes a member of the cgroups, then COMMAND
//! vcgroupfs-probe --init                          sleeps and reaps, until standard input ends
//! vcgroupfs-probe --sleep                         sleeps, until its parent ends
//! vcgroupfs-probe --busy                          uses the first CPU, until its parent ends
//! vcgroupfs-probe --storm                         starts processes that end at once, until its parent ends
//! vcgroupfs-probe --churn NUMBER                  makes, lists and removes cgroups where it is, until nobody serves them any more
//! vcgroupfs-probe --hammer DIR COUNT SECONDS      COUNT processes that use the cgroups below DIR, and check what they find
//! vcgroupfs-probe --hammer-one DIR SEED SECONDS   one of them
//! vcgroupfs-probe --rival OWN OTHER NAME SECONDS  uses a cgroup NAME below OWN, and tries to get at OTHER
//! vcgroupfs-probe --watch DIR...                  prints the events of directories, until standard input ends
//! vcgroupfs-probe --parallelism                   says how many CPUs Rust's standard library finds
//! vcgroupfs-probe --open-many FILE COUNT          holds FILE open so often, until standard input ends
//! vcgroupfs-probe --flood KIND DIR COUNT        asks for one thing so often
//! vcgroupfs-probe --open-all DIR                  holds all files below DIR open, until standard input ends
//! vcgroupfs-probe --allocate BYTES                uses so much memory
//! vcgroupfs-probe --start-all                     starts processes until one is refused, when standard input has ended
//! vcgroupfs-probe --compute MILLISECONDS          uses a CPU so long
//! vcgroupfs-probe --try-fuse                      ends well where this process may mount FUSE, and mounts none
//! vcgroupfs-probe --copy CALL INTO FILE...        copies files into a directory, by a system call
//! vcgroupfs-probe --copy-each CALL INTO FILE...   the same, with numbers as names
//! ```

use std::io::{self, Cursor, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use vcgroupfs_testkit::{consumers, copying, flood, hammer, rivals};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [role, path, rest @ ..] = words.as_slice()
        && let Some(numbers) = rest.iter().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()
    {
        match (role.as_str(), numbers.as_slice()) {
            ("--hammer", [count, seconds]) => return hammer::run_many(path, *count as usize, *seconds),
            ("--hammer-one", [seed, seconds]) => return hammer::run_one(path, *seed, *seconds),
            ("--open-many", [count]) => return hammer::open_many(path, *count),
            ("--open-all", []) => return hammer::open_all(path),
            _ => {}
        }
    }
    if let [role, call, into, files @ ..] = words.as_slice()
        && matches!(role.as_str(), "--copy" | "--copy-each")
    {
        return copying::run(call, into, files, role == "--copy-each");
    }
    if let [role, own, other, name, seconds] = words.as_slice()
        && role == "--rival"
        && let Ok(seconds) = seconds.parse()
    {
        return rivals::run(own, other, name, seconds);
    }
    if let [role, kind, directory, count] = words.as_slice()
        && role == "--flood"
        && let Ok(count) = count.parse()
    {
        return flood::run(kind, directory, count);
    }
    let result = match arguments.peek().map(String::as_str) {
        Some("--join") => join(arguments.skip(1)),
        Some("--init") => init(),
        Some("--sleep") => sleep(),
        Some("--storm") => storm(),
        Some("--busy") => busy(),
        Some("--churn") => churn(&arguments.nth(1).unwrap_or_default()),
        Some("--watch") => rivals::watch(words.get(1..).unwrap_or_default()),
        Some("--parallelism") => thread::available_parallelism().map(|cpus| println!("{cpus}")),
        Some("--exit") => Ok(()),
        Some("--start-all") => consumers::start_all(),
        Some(role @ ("--allocate" | "--compute")) => {
            let number: u64 = words.get(1).and_then(|word| word.parse().ok()).unwrap_or_default();
            if role == "--allocate" {
                consumers::allocate(number as usize)
            } else {
                consumers::compute(Duration::from_millis(number))
            }
        }
        Some("--try-fuse") => try_fuse(),
        Some(_) => {
            let script: String = arguments.map(|op| op + "\n").collect();
            vcgroupfs_testkit::probe::run(Cursor::new(script), io::stdout())
        }
        None => vcgroupfs_testkit::probe::run(io::stdin().lock(), io::stdout()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vcgroupfs-probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn join(mut arguments: impl Iterator<Item = String>) -> io::Result<()> {
    for dir in arguments.by_ref().take_while(|argument| argument != "--") {
        std::fs::write(format!("{dir}/cgroup.procs"), "0")
            .map_err(|error| io::Error::new(error.kind(), format!("can't join {dir}: {error}")))?;
    }
    let program = arguments.next().ok_or_else(|| io::Error::other("--join needs a command"))?;
    Err(Command::new(program).args(arguments).exec())
}

/// Without options it's EINVAL (`fuse_fill_super`), but only to whom it isn't forbidden.
fn try_fuse() -> io::Result<()> {
    match nix::mount::mount(Some("none"), "/", Some("fuse"), nix::mount::MsFlags::empty(), None::<&str>) {
        Err(nix::errno::Errno::EINVAL) => Ok(()),
        other => Err(io::Error::other(format!("mount of FUSE: {other:?}"))),
    }
}

fn init() -> io::Result<()> {
    println!("ready");
    io::stdout().flush()?;
    thread::spawn(|| {
        loop {
            if waitpid(None, None).is_err() {
                // Without a child waitpid(2) doesn't wait.
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn sleep() -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    loop {
        thread::park();
    }
}

fn busy() -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let itself = nix::unistd::Pid::from_raw(0);
    let allowed = nix::sched::sched_getaffinity(itself)?;
    let first = (0..nix::sched::CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = nix::sched::CpuSet::new();
    one.set(first.unwrap_or(0))?;
    loop {
        // All on one CPU, so that two of them want more than there is. Before Linux 6.2 whoever is moved to another cpuset may run anywhere again
        // (cpuset_attach).
        nix::sched::sched_setaffinity(itself, &one)?;
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(10) {
            std::hint::spin_loop();
        }
    }
}

fn churn(own: &str) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let ended = |error: io::Error| error.raw_os_error() == Some(nix::libc::ENOTCONN);
    loop {
        for name in ["all", own] {
            let made = std::fs::create_dir(name);
            let listed = std::fs::read_dir(".").and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
            let removed = std::fs::remove_dir(name);
            if made.is_err_and(ended) || listed.is_err_and(ended) || removed.is_err_and(ended) {
                return Ok(());
            }
        }
    }
}

fn storm() -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let exe = std::env::current_exe()?;
    loop {
        Command::new(&exe).arg("--exit").stdin(Stdio::null()).spawn()?.wait()?;
    }
}
