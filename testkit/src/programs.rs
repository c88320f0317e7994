//! The test programs, and child processes that are killed if they take too long.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{TIMEOUT, comes_true, end_of, thread_states};

/// Runs a command to its end.
///
/// # Panics
///
/// When it can't be started, or takes longer than `timeout`. In the latter case it's killed.
pub fn run_to_end(command: &mut Command, timeout: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start {command:?}: {error}"));
    let collect = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What could be read is what there is.
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    };
    let stdout = child.stdout.take().map(|pipe| collect(Box::new(pipe)));
    let stderr = child.stderr.take().map(|pipe| collect(Box::new(pipe)));
    let Some(status) = end_of(&mut child, timeout) else {
        let _ = child.kill();
        panic!("{command:?} didn't end within {timeout:?}");
    };
    let bytes =
        |reader: Option<thread::JoinHandle<Vec<u8>>>| reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    Output { status, stdout: bytes(stdout), stderr: bytes(stderr) }
}

/// Copies a program to a place where everybody can execute it at once. Another process makes the copy: if this one had the file open for writing
/// while another thread forks, the file couldn't be executed (ETXTBSY).
///
/// # Panics
///
/// When it can't be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = run_to_end(Command::new("cp").args([from, to]), TIMEOUT);
    assert!(copied.status.success(), "{}: {}", to.display(), String::from_utf8_lossy(&copied.stderr));
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o755))
        .unwrap_or_else(|error| panic!("{}: {error}", to.display()));
}

/// Writes a script that can be executed at once, as [`copy_program`] does.
///
/// # Panics
///
/// When it can't be written.
pub fn write_program(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap_or_else(|error| panic!("{}: {error}", draft.display()));
    copy_program(&draft, path);
    std::fs::remove_file(&draft).unwrap_or_else(|error| panic!("{}: {error}", draft.display()));
}

/// Stops a process (SIGSTOP), and waits until all of its threads have stopped. kill(2) doesn't wait for that, and a thread that hasn't stopped yet
/// may still serve a request. Returns false if there's no such process any more.
///
/// # Panics
///
/// When a thread doesn't stop.
pub fn stop(process: Pid) -> bool {
    if kill(process, Signal::SIGSTOP).is_err() {
        return false;
    }
    assert!(comes_true(TIMEOUT, || has_stopped(process)), "{process} runs on after SIGSTOP");
    kill(process, None).is_ok()
}

/// Whether each thread has stopped, has ended, or is in an uninterruptible system call, after which it stops.
fn has_stopped(process: Pid) -> bool {
    all_threads_are(process, "TtDZX")
}

/// The program under test: the one that the environment variable `VCGROUPFS_PROGRAM` names, for example a release build, or else the one that
/// cargo `built` for the test.
pub fn program(built: &'static str) -> &'static str {
    static OTHER: OnceLock<Option<String>> = OnceLock::new();
    OTHER.get_or_init(|| std::env::var("VCGROUPFS_PROGRAM").ok()).as_deref().unwrap_or(built)
}

/// Kills a process, and waits until none of its threads holds a file any more. A process that is ending has no command line, but still its locks.
///
/// # Panics
///
/// When it doesn't end.
pub fn kill_to_the_end(process: Pid) {
    // It may have ended by itself.
    let _ = kill(process, Signal::SIGKILL);
    assert!(comes_true(TIMEOUT, || has_ended(process)), "{process} doesn't end after SIGKILL");
}

/// Whether nothing but zombies is left of a process.
fn has_ended(process: Pid) -> bool {
    all_threads_are(process, "ZX")
}

fn all_threads_are(process: Pid, states: &str) -> bool {
    thread_states(process.as_raw().cast_unsigned()).into_iter().all(|state| states.contains(state))
}

/// The test programs of this package.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `vcgroupfs-probe`.
    pub probe: PathBuf,
    /// `vcgroupfs-legacy-kernel`.
    pub legacy: PathBuf,
    /// `vcgroupfs-legacy-syscalls`.
    pub legacy_calls: PathBuf,
}

impl Programs {
    /// Has cargo build the programs, which a test of another package doesn't, and finds them beside the running test.
    ///
    /// # Panics
    ///
    /// When they can't be built or found.
    pub fn find() -> &'static Self {
        static FOUND: OnceLock<Programs> = OnceLock::new();
        FOUND.get_or_init(|| {
            let exe = std::env::current_exe().expect("the path of the test program");
            // target/[TRIPLE/]PROFILE/deps/TEST
            let folder = exe.ancestors().nth(2).expect("a test program in PROFILE/deps");
            build(folder);
            let program = |name: &str| {
                let path = folder.join(name);
                assert!(path.exists(), "{} is missing: cargo build -p vcgroupfs-testkit", path.display());
                path
            };
            Self {
                probe: program("vcgroupfs-probe"),
                legacy: program("vcgroupfs-legacy-kernel"),
                legacy_calls: program("vcgroupfs-legacy-syscalls"),
            }
        })
    }
}

/// The commit that the build of [`next_version`] says it's of.
pub const NEXT_COMMIT: &str = "fffffffffff0";

/// A build of the program whose state has another version, which fails at a point of an upgrade if `VCGROUPFS_TEST_UPGRADE`
/// says so. Has cargo build it, in a folder of its own.
///
/// # Panics
///
/// When it can't be built.
pub fn next_version() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let exe = std::env::current_exe().expect("the path of the test program");
        // target/[TRIPLE/]PROFILE/deps/TEST
        let target = exe.ancestors().nth(3).expect("a test program in target/PROFILE/deps").join("next-version");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--quiet", "--bin", "vcgroupfs", "--features", "next-version", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .env("CARGO_TARGET_DIR", &target)
            .env("VCGROUPFS_COMMIT", NEXT_COMMIT);
        let output = run_to_end(&mut command, Duration::from_secs(600));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        target.join("debug/vcgroupfs")
    })
}

fn build(folder: &Path) {
    // Set by `cargo test`; without it the programs have to be there already.
    let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), folder.parent()) else {
        return;
    };
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--bins", "-p", "vcgroupfs-testkit", "--profile", profile, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .env("CARGO_TARGET_DIR", target);
    let output = run_to_end(&mut command, Duration::from_secs(600));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
