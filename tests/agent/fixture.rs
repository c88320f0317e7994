//! Containers and cgroups that clean up after themselves.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vcgroupfs::helper::{AgentPool, HelperImage, PidNamespace};

/// Directories of the hierarchies that the tests use.
pub(crate) const V1: &str = "/sys/fs/cgroup/pids";
pub(crate) const V2: &str = "/sys/fs/cgroup/unified";

/// The tests count descriptors and processes of their common process: one at a time.
static SERIAL: Mutex<()> = Mutex::new(());

/// Whether the test can run here. Skips loudly, or fails if VCGROUPFS_REQUIRE=all.
pub(crate) fn ready() -> Option<MutexGuard<'static, ()>> {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("root")
    } else if [V1, V2].iter().any(|dir| !Path::new(dir).join("cgroup.procs").exists()) {
        Some("cgroup v1 pids and v2 in /sys/fs/cgroup")
    } else {
        None
    };
    if let Some(missing) = missing {
        let required = std::env::var_os("VCGROUPFS_REQUIRE").is_some_and(|value| value == "all");
        assert!(!required, "VCGROUPFS_REQUIRE=all, but there's no {missing}");
        eprintln!("SKIPPED: needs {missing}");
        return None;
    }
    let guard = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    // As the server does, so that agents leave no zombies.
    vcgroupfs::sys::process::set_disposition(nix::sys::signal::Signal::SIGCHLD, true).unwrap();
    Some(guard)
}

pub(crate) fn pool() -> AgentPool {
    let program = Path::new(env!("CARGO_BIN_EXE_vcgroupfs"));
    AgentPool::new(HelperImage::from_program(program).unwrap())
}

/// One whose agents are executed from a copy of the program: where others than root may write to that, the kernel's protection of what runs
/// isn't enough.
pub(crate) fn pool_of_copies() -> AgentPool {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("vcgroupfs");
    fs::copy(env!("CARGO_BIN_EXE_vcgroupfs"), &program).unwrap();
    std::os::unix::fs::chown(&program, Some(65534), None).unwrap();
    AgentPool::new(HelperImage::from_program(&program).unwrap())
}

/// A shell that is the init of a pid namespace, as uid 0 with every capability.
pub(crate) struct Container {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Host number of its init.
    pub(crate) init: i32,
}

impl Container {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("env")
            .args(["--default-signal=CHLD", "unshare", "--pid", "--fork", "--mount-proc"])
            .args(["--kill-child", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut container = Self { child, input, output, init: 0 };
        assert_eq!(container.run("echo $$").0, "1");
        let pid = container.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        container.init = children.trim().parse().unwrap();
        container
    }

    /// Runs a command line inside: what it printed, stderr included, and its status.
    pub(crate) fn run(&mut self, line: &str) -> (String, i32) {
        writeln!(self.input, "{{ {line}\n}} 2>&1; S=$?; echo; echo END $S").unwrap();
        let mut text = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the container ended: {text}");
            if let Some(status) = line.strip_prefix("END ") {
                return (text.trim_end().to_owned(), status.trim().parse().unwrap());
            }
            text.push_str(&line);
        }
    }

    /// Starts a process inside: its number there, and on the host.
    pub(crate) fn sleeper(&mut self) -> (i32, i32) {
        let number: i32 = self.run("sleep 300 >/dev/null & echo $!").0.parse().unwrap();
        let host = processes().into_iter().find(|pid| self.is_inside(*pid) && inner_number(*pid) == Some(number));
        (number, host.unwrap())
    }

    pub(crate) fn namespace(&self) -> PidNamespace {
        PidNamespace::open(self.init).unwrap()
    }

    /// Kills its init, and so everything in it, and waits until all of that is gone.
    pub(crate) fn end(&mut self) {
        self.kill();
        eventually("the container is gone", || !matches!(self.child.try_wait(), Ok(None)) && !exists(self.init));
    }

    fn kill(&mut self) {
        // While unshare waits for it, the number can't be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        }
    }

    fn is_inside(&self, pid: i32) -> bool {
        let link = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        link(pid).is_some_and(|own| Some(own) == link(self.init))
    }

    /// Its agents: (host number, number inside).
    pub(crate) fn agents(&self) -> Vec<(i32, i32)> {
        let is_agent =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "vcgroupfs-agent\n");
        processes()
            .into_iter()
            .filter(|pid| is_agent(pid) && self.is_inside(*pid))
            .filter_map(|pid| Some((pid, inner_number(pid)?)))
            .collect()
    }

    /// The one agent that it has after a request. On a busy machine it may have ended before it's seen, for want of another request.
    pub(crate) fn agent(&self, mut request: impl FnMut()) -> (i32, i32) {
        let mut agents = Vec::new();
        eventually("there's an agent", || {
            request();
            agents = self.agents();
            !agents.is_empty()
        });
        assert_eq!(agents.len(), 1, "{agents:?}");
        agents[0]
    }

    /// The same, stopped by the container: it doesn't end by itself any more.
    pub(crate) fn stop_agent(&mut self, mut request: impl FnMut()) -> (i32, i32) {
        let mut stopped = None;
        eventually("an agent is stopped", || {
            let (agent, inside) = self.agent(&mut request);
            if self.run(&format!("kill -STOP {inside}")).1 == 0 {
                let is_stopped = || status(agent, "State").map(|state| state.starts_with('T'));
                eventually("it's stopped, or was about to end", || is_stopped() != Some(false));
                stopped = is_stopped().map(|_| (agent, inside));
            }
            stopped.is_some()
        });
        stopped.unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() { self.kill() } else { self.end() }
    }
}

/// A new cgroup, removed in the end.
pub(crate) struct Cgroup(pub(crate) PathBuf);

impl Cgroup {
    pub(crate) fn new(hierarchy: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vcgroupfs-agent-{}-{count}", std::process::id());
        let path = Path::new(hierarchy).join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn procs(&self) -> fs::File {
        fs::File::options().read(true).write(true).open(self.0.join("cgroup.procs")).unwrap()
    }

    pub(crate) fn add(&self, host: i32) {
        fs::write(self.0.join("cgroup.procs"), host.to_string()).unwrap();
    }

    /// Host numbers of its members.
    pub(crate) fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = self.0.with_file_name("cgroup.procs");
        for host in self.members() {
            let _ = fs::write(&root, host.to_string());
        }
        eventually("the cgroup is removed", || fs::remove_dir(&self.0).is_ok());
    }
}

/// The last number of NSpid: what a process is called in its own pid namespace.
fn inner_number(pid: i32) -> Option<i32> {
    status(pid, "NSpid")?.split_whitespace().last()?.parse().ok()
}

/// One field of /proc/PID/status.
pub(crate) fn status(pid: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

pub(crate) fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Waits for something that takes its time, on a busy machine a long one.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}
