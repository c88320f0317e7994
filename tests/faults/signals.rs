//! Signals end a server in every state of its view, and do nothing else; a command's end is the end of its `run`, whatever it has frozen.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{Need, TIMEOUT, TestCgroup, ViewProcesses, hierarchies, require, run_to_end};

use crate::life::{HANG_TIMEOUT, Server, in_time, program, wait_until};

const NONE: Option<&str> = None;

/// All signals but those that can't be ignored, those of the kernel for a thread that did something wrong, and those that have a meaning.
fn others() -> impl Iterator<Item = i32> {
    let kept = [
        Signal::SIGKILL,
        Signal::SIGSTOP,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
        Signal::SIGTRAP,
        Signal::SIGSYS,
        Signal::SIGTERM,
        Signal::SIGINT,
    ];
    (1..=64).filter(move |number| !kept.iter().any(|signal| *signal as i32 == *number))
}

/// Sends a signal by number: no library has names for the signals that libc reserves.
fn send(number: i32, pid: i32) {
    let sent = run_to_end(Command::new("/bin/kill").args([format!("-{number}"), pid.to_string()]), TIMEOUT);
    assert!(sent.status.success(), "signal {number} to {pid}: {}", String::from_utf8_lossy(&sent.stderr));
}

fn children_of(pid: Pid) -> Vec<i32> {
    testkit::children_of(pid.as_raw().cast_unsigned()).into_iter().map(u32::cast_signed).collect()
}

#[test]
fn other_signals_do_nothing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let mut server = Server::start(&[], Stdio::null());
    let guards = children_of(server.pid());
    assert!(!guards.is_empty(), "no abort guard");
    for number in others() {
        send(number, server.pid().as_raw());
        guards.iter().for_each(|pid| send(number, *pid));
    }
    server.answers();
    assert!(server.is_running());
    assert_eq!(children_of(server.pid()), guards);
}

/// A directory that is a mount of its own, so that mounts in it can be moved, with a directory in it.
struct Private(tempfile::TempDir);

impl Private {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("vcgroupfs-private-").tempdir().expect("a temporary directory");
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), NONE).expect("a tmpfs");
        mount(NONE, folder.path(), NONE, MsFlags::MS_PRIVATE, NONE).expect("a private mount");
        let private = Self(folder);
        fs::create_dir(private.elsewhere()).expect("a directory");
        private
    }

    fn elsewhere(&self) -> PathBuf {
        self.0.path().join("elsewhere")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        while umount2(self.0.path(), MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// A process that keeps a copy of all mounts.
struct Copy(Child);

impl Copy {
    /// The mount is also bound on another directory.
    fn of(mounted: &Path, elsewhere: &Path) -> Self {
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" \"$1\" && exec sleep 1000";
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).args([mounted, elsewhere]);
        command.stdin(Stdio::null());
        let copy = Self(command.spawn().expect("unshare"));
        wait_until("the copy", || {
            let name = fs::read_to_string(format!("/proc/{}/comm", copy.0.id()));
            name.is_ok_and(|name| name.trim() == "sleep")
        });
        copy
    }

    fn sees(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.0.id(), path.display()))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_mounted(path: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    text.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == path))
}

/// The errno of a listing of a directory, which must not hang.
fn errno_of(path: PathBuf) -> Option<Errno> {
    let found = in_time(move || fs::read_dir(path).map(Iterator::count)).expect("the view hangs");
    found.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
}

/// A state of a view, made from what the test has; it lasts as long as what it returns.
type State = (&'static str, fn(&Server, &Private) -> Vec<Box<dyn std::any::Any>>);

const STATES: [State; 6] = [
    ("as it was", |_, _| Vec::new()),
    ("in use", |server, _| vec![Box::new(File::open(server.view().join("unified/cgroup.procs")).expect("a file"))]),
    ("lazily unmounted, in use", |server, _| {
        let file = File::open(server.view()).expect("the root");
        umount2(&server.view(), MntFlags::MNT_DETACH).expect("umount -l");
        vec![Box::new(file)]
    }),
    ("moved", |server, private| {
        mount(Some(&server.view()), &private.elsewhere(), NONE, MsFlags::MS_MOVE, NONE).expect("mount --move");
        Vec::new()
    }),
    ("covered", |server, _| {
        mount(Some("tmpfs"), &server.view(), Some("tmpfs"), MsFlags::empty(), NONE).expect("a tmpfs");
        Vec::new()
    }),
    ("its mount point gone, bound in another mount namespace", |server, private| {
        let copy = Copy::of(&server.view(), &private.elsewhere());
        umount2(&server.view(), MntFlags::MNT_DETACH).expect("umount -l");
        fs::remove_dir(server.view()).expect("rmdir");
        assert_eq!(errno_of(copy.sees(&private.elsewhere())), None);
        vec![Box::new(copy)]
    }),
];

#[test]
fn a_signal_ends_a_server_in_every_state() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for (what, make) in STATES {
        for signals in [&[Signal::SIGTERM][..], &[Signal::SIGINT], &[Signal::SIGTERM, Signal::SIGTERM]] {
            let private = Private::new();
            let mut server = Server::start_in(private.0.path(), &[], Stdio::null());
            let state = make(&server, &private);
            signals.iter().for_each(|signal| server.signal(*signal));
            let status = server.end().unwrap_or_else(|| panic!("{what}, {signals:?}: it doesn't end"));
            assert_eq!(status.code(), Some(0), "{what}, {signals:?}");
            // Nothing of its own is left, and nothing of others' taken away.
            assert_eq!(is_mounted(&server.view()), what == "covered", "{what}");
            assert!(!is_mounted(&private.elsewhere()), "{what}");
            for kept in state {
                if let Some(copy) = kept.downcast_ref::<Copy>() {
                    assert_eq!(errno_of(copy.sees(&private.elsewhere())), Some(Errno::ENOTCONN), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_signal_ends_a_mount_for_all_callers_that_containers_have_bound() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let private = Private::new();
    let directory = private.elsewhere();
    let mut command = Command::new(program());
    let mut server = command.args(["mount", "--per-caller", "-f"]).arg(&directory).spawn().expect("a server");
    wait_until("the view", || is_mounted(&directory) && fs::read_dir(&directory).is_ok());
    let bound = private.0.path().join("bound");
    fs::create_dir(&bound).expect("a directory");
    let copy = Copy::of(&directory, &bound);
    // As the unit does.
    let umount = run_to_end(Command::new(program()).arg("umount").arg(&directory), TIMEOUT);
    assert!(umount.status.success(), "{}", String::from_utf8_lossy(&umount.stderr));
    assert_eq!(errno_of(copy.sees(&bound)), None);
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    let status = end_of(&mut server);
    if status.is_none() {
        let _ = server.kill();
    }
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert_eq!(errno_of(copy.sees(&bound)), Some(Errno::ENOTCONN));
}

fn end_of(child: &mut Child) -> Option<ExitStatus> {
    testkit::end_of(child, HANG_TIMEOUT)
}

/// Whenever the signal comes: no dead mount is left.
#[test]
fn a_signal_ends_a_server_that_is_not_live_yet() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let (private, cgroup) = (Private::new(), TestCgroup::new(&["unified"]));
    let directory = private.elsewhere();
    for round in 0..60 {
        let mut command = Command::new(program());
        command.args(["mount", "-f", "--cgroup", &cgroup.path()]).arg(&directory);
        let mut server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server");
        if round % 3 == 0 {
            // The time is what the test varies: the signal comes at another moment of the start each time.
            thread::sleep(Duration::from_millis(round));
        } else {
            // It's mounted, and nobody serves it yet.
            while !is_mounted(&directory) {
                assert_eq!(server.try_wait().expect("its state"), None);
            }
        }
        kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).expect("a signal");
        let status = end_of(&mut server).expect("it doesn't end");
        // Before it has taken signals over, it dies of them.
        assert!(status.code() == Some(0) || status.signal() == Some(Signal::SIGTERM as i32), "{status:?}");
        assert!(!is_mounted(&directory), "round {round}: {status:?} left its mount");
    }
}

/// A command with a cgroup of its own in every hierarchy. Dropping it kills what is left.
struct Run {
    child: Child,
    name: String,
}

impl Run {
    fn start(name: &str, options: &[&str], script: &str) -> Self {
        let name = format!("vcgroupfs-{name}-{}", std::process::id());
        let mut command = Command::new(program());
        command.args(["run", "--policy", "delegate", "--delegate-controllers", "freezer", "--name", &name]);
        command.args(options).args(["--", "sh", "-c", script]).stdin(Stdio::null());
        Self { child: command.spawn().expect("run"), name }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Its cgroups and those below.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut left: Vec<PathBuf> = hierarchies().iter().flat_map(|one| found(&one.mountpoint, &self.name)).collect();
        left.sort();
        left
    }

    /// Checks with which status it ends, and that nothing is left of it.
    #[track_caller]
    fn ends(&mut self, code: i32) {
        let status = end_of(&mut self.child).expect("run doesn't end");
        assert_eq!(status.code(), Some(code), "{status:?}");
        assert_eq!(self.cgroups(), [] as [PathBuf; 0]);
    }

    fn has_frozen(&self, file: &str, state: &str) {
        wait_until("something is frozen", || {
            let mut all = self.cgroups().into_iter().flat_map(|directory| found(&directory, "frozen"));
            all.any(|cgroup| fs::read_to_string(cgroup.join(file)).is_ok_and(|text| text.contains(state)))
        });
    }
}

/// The directories of this name right in a directory, or in one of a scope's parents there.
fn found(directory: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = vec![directory.join(name)];
    found.extend([directory.join("system.slice").join(format!("{name}.scope"))]);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let paths = own.lines().filter_map(|line| line.rsplit(':').next()).filter(|path| *path != "/");
    found.extend(paths.map(|path| directory.join(path.trim_start_matches('/')).join(name)));
    found.retain(|path| path.is_dir());
    found
}

impl Drop for Run {
    fn drop(&mut self) {
        for cgroup in self.cgroups() {
            for frozen in found(&cgroup, "frozen") {
                let _ = fs::write(frozen.join("freezer.state"), "THAWED");
                let _ = fs::write(frozen.join("cgroup.freeze"), "0");
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the cgroup `frozen` below the command's own in a hierarchy that has this file.
fn frozen(file: &str) -> String {
    format!(
        "own=$(dirname $(find /sys/fs/cgroup -path '*-*/{file}' -not -path '*/frozen/*' | grep vcgroupfs- | head -n 1))
         mkdir $own/frozen && cd $own/frozen || exit 99
         "
    )
}

/// A state of the freezer: the file, what freezes, and how it reads when that's done.
const FREEZERS: [(&str, &str, &str, &str); 2] =
    [("freezer.state", "FROZEN", "freezer.state", "FROZEN"), ("cgroup.freeze", "1", "cgroup.events", "frozen 1")];

#[test]
fn run_ends_with_its_command_even_if_a_child_froze_itself() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("freezer"), Need::Hierarchy("unified"));
    for (file, value, _, _) in FREEZERS {
        for options in [&[][..], &["--as-pid1"]] {
            let child = format!("sh -c 'echo 0 > cgroup.procs; echo {value} > {file}; sleep 1000' &");
            // It ends when the child is frozen, which can't say so.
            let wait = match file {
                "freezer.state" => "until grep -q FROZEN freezer.state; do sleep 0.01; done",
                _ => "until grep -q 'frozen 1' cgroup.events; do sleep 0.01; done",
            };
            let mut run = Run::start("freeze", options, &format!("{}{child}\n{wait}; exit 7", frozen(file)));
            run.ends(7);
        }
    }
}

#[test]
fn run_ends_by_a_signal_even_if_its_command_froze_itself() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("freezer"), Need::Hierarchy("unified"));
    for (file, value, seen, state) in FREEZERS {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let script = format!(
                "{}echo 0 > cgroup.procs; trap 'exit 8' INT; echo {value} > {file}; while :; do :; done",
                frozen(file)
            );
            let mut run = Run::start("freeze-own", &[], &script);
            run.has_frozen(seen, state);
            kill(run.pid(), signal).expect("a signal");
            run.ends(if signal == Signal::SIGTERM { 128 + 15 } else { 8 });
        }
    }
}

/// Whenever the signal comes: nothing is left.
#[test]
fn a_signal_ends_a_run_that_has_not_started_its_command() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("freezer"), Need::Hierarchy("unified"));
    for round in 0..40 {
        let mut run = Run::start("early", &[], "sleep 1000");
        if round % 2 == 0 {
            // The time is what the test varies: the signal comes at another moment of the start each time.
            thread::sleep(Duration::from_millis(5 * round));
        } else {
            wait_until("its first cgroup", || !run.cgroups().is_empty());
        }
        kill(run.pid(), Signal::SIGTERM).expect("a signal");
        end_of(&mut run.child).expect("run doesn't end");
        wait_until("all cgroups are removed", || run.cgroups().is_empty());
    }
}

/// The kernel ends the command's processes then, but for those that are frozen; the server does the rest.
#[test]
fn nothing_is_left_of_a_run_that_is_killed_while_something_is_frozen() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("freezer"), Need::Hierarchy("unified"));
    for (file, value, seen, state) in FREEZERS {
        let child = format!("sh -c 'echo 0 > cgroup.procs; echo {value} > {file}; sleep 1000' &");
        let mut run = Run::start("freeze-kill", &[], &format!("{}{child}\nwait", frozen(file)));
        run.has_frozen(seen, state);
        kill(run.pid(), Signal::SIGKILL).expect("a signal");
        end_of(&mut run.child).expect("its end");
        wait_until("all cgroups are removed", || run.cgroups().is_empty());
    }
}

#[test]
fn a_signal_ends_the_server_of_a_run() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("freezer"), Need::Hierarchy("unified"));
    // What the kernel has at hand it still shows, but for what it has to ask for.
    let script = "list=$(find /sys/fs/cgroup -name cgroup.procs | head -n 1)
        while cat $list; do sleep 0.05; done >/dev/null 2>&1; exit 9";
    let mut run = Run::start("server", &[], script);
    let is_server = |pid: &i32| {
        // The command's process 1 is the other child; it has another pid namespace.
        namespace_depth(pid.cast_unsigned()) == namespace_depth(std::process::id())
    };
    wait_until("the command", || children_of(run.pid()).len() == 2);
    let server = children_of(run.pid()).into_iter().find(is_server).expect("a server");
    kill(Pid::from_raw(server), Signal::SIGTERM).expect("a signal");
    run.ends(9);
}

/// How many pid namespaces a process has a number in, those that this one can see.
fn namespace_depth(process: u32) -> usize {
    testkit::status_field(process, "NSpid").map_or(1, |numbers| numbers.split_whitespace().count())
}

#[test]
fn a_command_does_not_inherit_ignored_signals() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    for options in [&["run"][..], &["run", "--as-pid1"]] {
        let native = run_to_end(Command::new("sh").args(["-c", script]), TIMEOUT);
        let mut command = Command::new(program());
        let inside = run_to_end(command.args(options).args(["--", "sh", "-c", script]), TIMEOUT);
        let sets = |output: &std::process::Output| -> Vec<u64> {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().filter_map(|line| u64::from_str_radix(line.split_once('\t')?.1, 16).ok()).collect()
        };
        let (native, inside) = (sets(&native), sets(&inside));
        let ([own_blocked, own_ignored], [blocked, ignored]) = (&native[..], &inside[..]) else {
            panic!("{options:?}: {inside:?}");
        };
        assert_eq!((blocked & !own_blocked, ignored & !own_ignored), (0, 0), "{options:?}");
    }
}

/// In a mount namespace whose mounts are shared, as they are where systemd is the host's init.
fn shared(script: &str) -> std::process::Output {
    let all = format!("mount --make-rshared / && {script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-euc", &all]).env("VCGROUPFS", program());
    let output = in_time(move || run_to_end(&mut command, TIMEOUT)).expect("the script hangs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A command of `run` that is asked for its mounts, and ended by closing its input.
const COMMAND: &str =
    "coproc \"$VCGROUPFS\" run $options -- sh -c 'while read line; do cat /proc/self/mountinfo; echo end; done'
    exec 7>&\"${COPROC[1]}\" 8<&\"${COPROC[0]}\"
    mounts() { echo >&7; while read -r line <&8 && [ \"$line\" != end ]; do echo \"$line\"; done; }\n";

#[test]
fn run_pins_no_mount_of_the_host() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Program("bash"));
    for options in ["", "--stack"] {
        let script = format!(
            "options='{options}'; other=$(mktemp -d); mount -t tmpfs other $other
            points() {{ cut -d ' ' -f 5 /proc/self/mountinfo; }}
            before=$(points)
            {COMMAND}
            mounts | grep -q \" $other \" || {{ echo 'not there' >&2; exit 1; }}
            # Nothing of the command's shows on the host.
            new=$(comm -13 <(echo \"$before\" | sort) <(points | sort))
            [ -z \"$new\" ] || {{ echo \"$new\" >&2; exit 1; }}
            umount $other
            if mounts | grep \" $other \" >&2; then exit 1; fi
            # And whatever the host does in the place of the view, the command has its view.
            umount -R -l /sys/fs/cgroup; mount -t tmpfs hosts /sys/fs/cgroup
            mounts | grep ' /sys/fs/cgroup' | grep -q vcgroupfs || {{ echo 'the view is gone' >&2; exit 1; }}
            if mounts | grep ' hosts ' >&2; then exit 1; fi
            rmdir $other"
        );
        shared(&script);
    }
}

/// The server is gone, and so is what a later one could be asked by.
#[test]
fn mount_replaces_a_dead_view() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let (private, cgroup) = (Private::new(), TestCgroup::new(&["unified"]));
    let directory = private.elsewhere();
    let mounts = |arguments: &[&str]| {
        let mut command = Command::new(program());
        run_to_end(command.args(["mount", "--cgroup", &cgroup.path()]).args(arguments).arg(&directory), TIMEOUT)
    };
    let processes = || {
        let list = run_to_end(Command::new(program()).args(["list", "--json"]), TIMEOUT);
        let views: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
        let mut all = views.as_array().expect("a list").iter();
        let own = all.find(|view| view["directory"].as_str() == directory.to_str()).expect("the view");
        ViewProcesses::of_listed(own)
    };
    assert!(mounts(&[]).status.success());
    // A live one is left alone, be it stopped.
    let first = processes();
    kill(first.server, Signal::SIGSTOP).expect("a signal");
    let refused = mounts(&[]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("already a view"));
    first.kill();
    wait_until("the view is dead", || errno_of(directory.clone()) == Some(Errno::ENOTCONN));
    let mounted = mounts(&[]);
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    assert_eq!(errno_of(directory.clone()), None);
    let umount = run_to_end(Command::new(program()).arg("umount").arg(&directory), TIMEOUT);
    assert!(umount.status.success(), "{}", String::from_utf8_lossy(&umount.stderr));
    assert!(!is_mounted(&directory), "one is beneath");
}
