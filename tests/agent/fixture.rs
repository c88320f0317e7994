//! Containers and cgroups that clean up after themselves.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Need, hierarchy, missing};
use vcgroupfs::agents::{AgentPool, HelperImage, PidNamespace};

/// A hierarchy of v1 with a controller, as the testkit names it.
pub(crate) fn v1() -> &'static str {
    testkit::controller()
}

/// v2, or where the machine has none, v1 with a name.
pub(crate) fn v2() -> &'static str {
    testkit::each_sort().last().expect("a hierarchy")
}

/// The tests count descriptors and processes of their common process: one at a time.
static SERIAL: Mutex<()> = Mutex::new(());

/// What a list of this process and of one that the reader can't see shows: v2 shows that one as 0, v1 leaves it out.
pub(crate) fn beside_a_hidden_one(hierarchy: &str, number: i32) -> Vec<i32> {
    if hierarchy == "unified" { vec![0, number] } else { vec![number] }
}

/// Whether the test can run here, loudly.
pub(crate) fn ready() -> Option<MutexGuard<'static, ()>> {
    if missing(&[Need::Root, Need::Hierarchy("name=systemd")]).is_some() {
        return None;
    }
    let guard = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    if !crate::is_legacy() {
        // They may have to be built, by a child whose end couldn't be waited for afterwards.
        testkit::Programs::find();
    }
    // As the server does, so that agents leave no zombies.
    vcgroupfs::sys::process::set_disposition(nix::sys::signal::Signal::SIGCHLD, true).unwrap();
    Some(guard)
}

pub(crate) fn program() -> &'static str {
    testkit::program(env!("CARGO_BIN_EXE_vcgroupfs"))
}

pub(crate) fn pool() -> AgentPool {
    AgentPool::new(HelperImage::from_program(Path::new(program())).unwrap())
}

/// One whose agents are executed from a copy of the program: where others than root may write to that, the kernel's protection of what runs
/// isn't enough.
pub(crate) fn pool_of_copies() -> AgentPool {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("vcgroupfs");
    fs::copy(self::program(), &program).unwrap();
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
        container.init = children(container.child.id())[0];
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
        let mut host = None;
        // It may be about to become `sleep`.
        eventually("the process is found", || {
            let mut inside = processes().into_iter().filter(|pid| self.is_inside(*pid));
            host = inside.find(|pid| self.inner_number(*pid) == Some(number));
            host.is_some()
        });
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
        if self.init > 0 && matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        }
    }

    /// What a process is called in this container: the last number of NSpid, or, before Linux 4.1, the one of it that the container's /proc has.
    fn inner_number(&self, pid: i32) -> Option<i32> {
        if let Some(numbers) = status(pid, "NSpid") {
            return numbers.split_whitespace().last()?.parse().ok();
        }
        let wanted = identity(&format!("/proc/{pid}/stat"))?;
        let inside = format!("/proc/{}/root/proc", self.init);
        let numbers = fs::read_dir(&inside).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut numbers = numbers.collect::<Vec<i32>>().into_iter();
        numbers.find(|number| identity(&format!("{inside}/{number}/stat")).as_ref() == Some(&wanted))
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
            .filter_map(|pid| Some((pid, self.inner_number(pid)?)))
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
    /// In the hierarchy with this selector.
    pub(crate) fn new(selector: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vcgroupfs-agent-{}-{count}", std::process::id());
        let path = hierarchy(selector).expect("a hierarchy that the machine has").mountpoint.join(name);
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

/// When a process began, and where its stack does: no two have both in common.
fn identity(stat: &str) -> Option<(String, String)> {
    let text = fs::read_to_string(stat).ok()?;
    // The name before it may have any characters. proc(5) counts from 1, and the state is number 3.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some(((*fields.get(22 - 3)?).to_owned(), (*fields.get(28 - 3)?).to_owned()))
}

/// A field of `/proc/PID/status`.
pub(crate) fn status(pid: i32, field: &str) -> Option<String> {
    testkit::status_field(pid.cast_unsigned(), field)
}

pub(crate) fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The children of a process that it hasn't waited for.
pub(crate) fn children(parent: u32) -> Vec<i32> {
    testkit::children_of(parent).into_iter().map(u32::cast_signed).collect()
}

pub(crate) use testkit::wait_until as eventually;
