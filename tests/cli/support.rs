//! Runs the program under a mark by which everything that it leaves behind can be found again.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{TIMEOUT, TestCgroup, hierarchies, run_to_end};

/// How long the last traces may take to go.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(20);

/// The environment variable that holds the mark.
const VARIABLE: &str = "VCGROUPFS_TEST_MARK";

static NEXT: AtomicUsize = AtomicUsize::new(1);

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// That it succeeded, and what it printed. Tests that run beside this one migrate processes on the host: that may be told of.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        let told = |line: &&str| !line.contains(" WARN the host wrote a list of processes outside while ");
        let stderr: Vec<&str> = self.stderr.lines().filter(told).collect();
        assert_eq!((self.code, stderr), (0, vec![]), "{}", self.stdout);
        self.stdout
    }

    /// That it failed as a user needs it: with this status, nothing on stdout, and one line on stderr.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {}", self.stderr);
        assert!(self.stderr.starts_with("vcgroupfs: ") && self.stderr.ends_with('\n'), "{}", self.stderr);
        assert!(!self.stderr.trim_end().chars().any(char::is_control), "{:?}", self.stderr);
        self.stderr
    }

    /// That it printed JSON.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        let text = self.ok();
        assert_eq!(text.lines().count(), 1, "one document a line: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A name, a temporary directory and perhaps cgroups of one test. Everything that the program is asked to make has the mark in its name.
/// When it's dropped, nothing of it may be left.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) mark: String,
    pub(crate) cgroup: Option<TestCgroup>,
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let mark = format!("vcgroupfs-cli-{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix(&mark).tempdir().expect("a temporary directory");
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        Self { mark, cgroup: None, folder }
    }

    /// With a cgroup in these hierarchies.
    pub(crate) fn with_cgroup(selectors: &[&str]) -> Self {
        let mut sandbox = Self::new();
        sandbox.cgroup = Some(TestCgroup::named(&sandbox.mark, selectors));
        sandbox
    }

    /// With a cgroup in every hierarchy of the host.
    pub(crate) fn everywhere() -> Self {
        let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
        Self::with_cgroup(&selectors.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The path of its cgroup.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.mark)
    }

    pub(crate) fn cgroup(&self) -> &TestCgroup {
        self.cgroup.as_ref().expect("a cgroup")
    }

    /// A path in its temporary directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new directory in it.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        fs::create_dir(&path).expect("a directory");
        path
    }

    /// The program, or another one that starts it, with the mark.
    pub(crate) fn command_of(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(VARIABLE, &self.mark);
        command
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_of(program());
        command.args(arguments);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn vcgroupfs(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }

    /// What is left of it: processes, mounts, records of live views, and cgroups that the test didn't make.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        testkit::comes_true(CLEANUP_TIMEOUT, || self.traces().is_empty());
        self.traces()
    }

    fn traces(&self) -> Vec<String> {
        let mut found: Vec<String> = self.processes().into_iter().map(|pid| format!("process {pid}")).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        found.extend(mounts.lines().filter(|line| line.contains(&self.mark)).map(str::to_owned));
        for entry in fs::read_dir("/run/vcgroupfs").into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if text.contains(&self.mark) {
                found.push(format!("{}: {text}", entry.path().display()));
            }
        }
        for hierarchy in hierarchies() {
            let made = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.hierarchies().contains(&hierarchy));
            let own = hierarchy.mountpoint.join(&self.mark);
            if own.exists() && !made {
                found.push(own.display().to_string());
            }
            for entry in fs::read_dir(own).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.path().is_dir() && !name.starts_with("kept") {
                    found.push(entry.path().display().to_string());
                }
            }
        }
        found
    }

    /// The processes with the mark, but for those that have ended and wait to be reaped.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let marked = format!("{VARIABLE}={}", self.mark);
        let is_marked = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == marked.as_bytes())
        };
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect()
    }

    #[track_caller]
    pub(crate) fn is_clean(&self) {
        let found = self.leftovers();
        assert!(found.is_empty(), "left behind:\n{}", found.join("\n"));
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for _ in 0..10 {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let ours = mounts.lines().filter_map(|line| line.split(' ').nth(4)).find(|path| path.contains(&self.mark));
            let Some(path) = ours else { break };
            // The next round finds it again if this fails.
            let _ = nix::mount::umount2(Path::new(path), nix::mount::MntFlags::MNT_DETACH);
        }
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vcgroupfs"))
}

pub(crate) fn said(command: &mut Command) -> Said {
    let output = run_to_end(command, TIMEOUT);
    let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {:?}", output.status));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

pub(crate) use testkit::wait_until;

pub(crate) fn is_mounted(directory: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == directory))
}

/// A child whose output is read up to the end; killed if it's still there when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    stdout: Option<thread::JoinHandle<String>>,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a child");
        let mut pipe = child.stdout.take().expect("a pipe");
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = thread::spawn(move || {
            let (mut all, mut line, mut byte) = (Vec::new(), Vec::new(), [0]);
            while matches!(pipe.read(&mut byte), Ok(1)) {
                all.push(byte[0]);
                line.push(byte[0]);
                if byte[0] == b'\n' {
                    // Nobody may want it any more.
                    let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
                    line.clear();
                }
            }
            String::from_utf8_lossy(&all).into_owned()
        });
        Self { child, stdout: Some(stdout), lines }
    }

    /// The next line of its output.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(TIMEOUT).expect("a line of output")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a signal");
    }

    /// How it ended: with a status, or by a signal.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let mut status = None;
        wait_until("the child's end", || {
            status = self.child.try_wait().expect("the child's state");
            status.is_some()
        });
        status.expect("a status")
    }

    /// All of its output, once it has ended.
    pub(crate) fn output(mut self) -> String {
        self.wait();
        self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
