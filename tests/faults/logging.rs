//! The log is closed, full, or gone: the view goes on, and what was lost is counted.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use testkit::{Need, TIMEOUT, TestCgroup, ViewProcesses, kill_view, require, run_to_end};

use crate::life::{HANG_TIMEOUT, Server, in_time, program, wait_until};

/// A rejection by a rule, as its caller gets it.
const REJECTED: Option<i32> = Some(Errno::EACCES as i32);

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("a pipe")
}

/// `vcgroupfs mount 2>&1 | tee log`, and tee ends.
#[test]
fn a_reader_that_goes_away_stops_nothing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let (read, write) = pipe();
    let mut server = Server::start(&["--log-level", "info"], write.into());
    drop(read);
    assert_eq!(server.reject(20), [REJECTED; 20]);
    server.answers();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().and_then(|status| status.code()), Some(0));
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let (read, write) = pipe();
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
    let mut server = Server::start(&["--log-level", "info"], write.into());
    // As many as are logged at once.
    assert_eq!(server.reject(50), [REJECTED; 50]);
    server.answers();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().and_then(|status| status.code()), Some(0));
    let mut log = String::new();
    File::from(read).read_to_string(&mut log).expect("the log");
    assert!(log.contains("rejected: "), "{log}");
}

/// A slow request logs in the thread that the next one needs.
#[test]
fn slow_requests_go_on_without_a_log() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let (read, write) = pipe();
    let server = Server::start(&["--log-level", "info"], write.into());
    drop(read);
    let procs = server.view().join("unified/cgroup.procs");
    // Process 1 of the new pid namespace isn't in the view's subtree. More than run at once.
    let script = "for i in $(seq 40); do echo 1 > \"$0\" || rejected=$i; done; cat \"$0\" && echo $rejected";
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", script]).arg(procs);
    let output = in_time(move || run_to_end(&mut command, TIMEOUT)).expect("slow requests hang");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "40\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// A mount that goes with this.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_stops_nothing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let folder = tempfile::Builder::new().prefix("vcgroupfs-disk-").tempdir().expect("a temporary directory");
    let options = Some("size=16k,mode=0700");
    nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), options)
        .expect("a small disk");
    let _mounted = Mounted(folder.path().to_owned());
    let (log, filler) = (folder.path().join("log"), folder.path().join("filler"));
    fs::write(&log, "x".repeat(4000) + "\n").expect("most of a page");
    while File::options().create(true).append(true).open(&filler).and_then(|mut file| file.write_all(&[0; 512])).is_ok()
    {
    }
    let name = log.to_str().expect("a name");
    let mut server = Server::start(&["--log-level", "info", "--log-file", name], Stdio::null());
    assert_eq!(server.reject(20), [REJECTED; 20]);
    server.answers();
    assert!(server.is_running());
    fs::remove_file(filler).expect("room");
    wait_until("the log goes on, and says what it lost", || {
        assert_eq!(server.reject(1), [REJECTED]);
        fs::read_to_string(&log).expect("the log").contains(" lost=")
    });
    let log = fs::read_to_string(&log).expect("the log");
    let said: u64 = log.lines().filter_map(|line| line.rsplit_once(" lost=")?.1.parse::<u64>().ok()).sum();
    assert!(said >= 15, "{said} of 20:\n{log}");
    // One may have been cut by the end of the disk.
    let ends = [" suppressed=0", "the view is live", &format!(" lost={said}")];
    let whole = |line: &&str| ends.iter().any(|end| line.ends_with(end));
    assert!(log.lines().skip(1).filter(|line| !whole(line)).count() <= 1, "{log}");
}

/// Runs the program where this directory is the journal's, and this socket syslog's; in a mount namespace of its own, so that the host's log
/// services see nothing.
fn elsewhere(journal: Option<&Path>, syslog: Option<&Path>, arguments: &[&str]) -> Command {
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/dev /run/systemd/journal
        for device in null zero full random urandom fuse; do cp -a /dev/$device /run/dev/; done
        if [ -n \"$JOURNAL\" ]; then mount --bind \"$JOURNAL\" /run/systemd/journal; fi
        mount --bind /run/dev /dev
        if [ -n \"$SYSLOG\" ]; then touch /dev/log && mount --bind \"$SYSLOG\" /dev/log; fi
        \"$@\" && if [ -d /run/vcgroupfs ]; then cd /run/vcgroupfs && echo *.json; fi";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-e", "-c", script, "sh"]).arg(program());
    command.args(arguments);
    let path = |path: Option<&Path>| path.map(|path| path.as_os_str().to_owned()).unwrap_or_default();
    command.env("JOURNAL", path(journal)).env("SYSLOG", path(syslog));
    command
}

/// A server in the background, in a mount namespace of its own.
struct Background {
    /// Its server, or the keeper of that.
    pid: i32,
    directory: PathBuf,
    said: String,
    _cgroup: TestCgroup,
    _folder: tempfile::TempDir,
}

impl Background {
    fn start(journal: Option<&Path>, syslog: Option<&Path>, options: &[&str]) -> Self {
        let cgroup = TestCgroup::new(&["pids", "unified"]);
        let folder = tempfile::Builder::new().prefix("vcgroupfs-life-").tempdir().expect("a temporary directory");
        let path = cgroup.path();
        let mut arguments =
            vec!["mount", "--shape", "rooted", "--cgroup", &path, folder.path().to_str().expect("a name")];
        arguments.extend(options);
        let Output { status, stdout, stderr } = run_to_end(&mut elsewhere(journal, syslog, &arguments), TIMEOUT);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(status.success(), "{}", text(&stderr));
        let pid = text(&stdout).trim().strip_suffix(".json").and_then(|pid| pid.parse().ok()).expect("its record");
        let directory = PathBuf::from(format!("/proc/{pid}/root{}", folder.path().display()));
        Self { pid, directory, said: text(&stderr), _cgroup: cgroup, _folder: folder }
    }

    fn reject(&self, count: usize) {
        for number in 0..count {
            let directory = self.directory.join(format!("rejected-{number}"));
            let got = in_time(move || fs::create_dir(directory).err().and_then(|error| error.raw_os_error()));
            assert_eq!(got, Some(REJECTED));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        kill_view(program(), self.pid.cast_unsigned());
    }
}

/// The next message that a log service receives.
fn received(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(HANG_TIMEOUT)).expect("a timeout");
    let mut message = vec![0; 64 * 1024];
    let count = socket.recv(&mut message).expect("a record");
    String::from_utf8_lossy(&message[..count]).into_owned()
}

#[test]
fn servers_in_the_background_log_to_the_journal() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("socket");
    let journal = UnixDatagram::bind(&path).expect("a journal");
    let server = Background::start(Some(folder.path()), None, &["--log-level", "info"]);
    assert_eq!(server.said, "");
    server.reject(1);
    let entry = received(&journal);
    let lines: Vec<&str> = entry.lines().collect();
    assert_eq!(&lines[..2], ["PRIORITY=6", "SYSLOG_IDENTIFIER=vcgroupfs"], "{entry}");
    assert!(lines.len() == 3 && lines[2].starts_with("MESSAGE=rejected: ") && entry.contains("rejected-0"), "{entry}");
    // The journal is gone.
    drop(journal);
    server.reject(5);
    fs::remove_file(&path).expect("its socket");
    server.reject(5);
    // And comes again.
    let journal = UnixDatagram::bind(&path).expect("a journal");
    let mut entries = String::new();
    while !entries.contains(" lost=") {
        server.reject(1);
        entries.push_str(&received(&journal));
    }
    // It takes no more: nobody waits for it.
    server.reject(30);
    assert!(
        in_time({
            let directory = server.directory.clone();
            move || fs::read_dir(directory).map(Iterator::count)
        })
        .is_some_and(|names| names.is_ok_and(|names| names > 1))
    );
}

#[test]
fn servers_in_the_background_log_to_syslog_where_there_is_no_journal() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    let syslog = UnixDatagram::bind(&path).expect("a syslogd");
    let server = Background::start(None, Some(&path), &["--log-level", "info"]);
    let number = ViewProcesses::of_process(program(), server.pid.cast_unsigned()).server;
    server.reject(1);
    let message = received(&syslog);
    assert!(message.starts_with(&format!("<30>vcgroupfs[{number}]: rejected: ")), "{message}");
}

#[test]
fn a_requested_log_without_a_destination_is_warned_of() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let server = Background::start(None, None, &["--log-level", "info"]);
    assert!(server.said.contains("logs nowhere") && server.said.contains("--log-file"), "{}", server.said);
    let quiet = Background::start(None, None, &[]);
    assert_eq!(quiet.said, "");
    for server in [server, quiet] {
        server.reject(1);
    }
}

/// Runs the program, by this name, with a pipe that nobody reads as one of its outputs.
fn status_with_closed(arguments: &[&str], name: Option<&str>, stdout: bool, stderr: bool) -> Option<i32> {
    let closed = |is_closed| if is_closed { Stdio::from(pipe().1) } else { Stdio::null() };
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null()).stdout(closed(stdout)).stderr(closed(stderr));
    if let Some(name) = name {
        command.arg0(name);
    }
    command.status().expect("the program").code()
}

#[test]
fn closed_outputs_are_no_panic() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let helper = Some("vcgroupfs-mount-helper");
    let cases: &[(&[&str], Option<&str>, i32)] = &[
        (&["list"], None, 0),
        (&["--help"], None, 0),
        (&["doctor"], None, 0),
        (&["--version"], None, 0),
        (&["umount", "/nonexistent"], None, 1),
        (&["no-such-verb"], None, 2),
        (&["run", "--", "/nonexistent"], None, 127),
        (&["anything"], helper, 2),
    ];
    for (arguments, name, code) in cases {
        for (stdout, stderr) in [(true, false), (false, true), (true, true)] {
            let got = status_with_closed(arguments, *name, stdout, stderr);
            assert_eq!(got, Some(*code), "{arguments:?}, closed: stdout {stdout}, stderr {stderr}");
        }
    }
}

/// The shell's `>&-`: the number is free, and would be given to the next file.
#[test]
fn missing_outputs_are_no_failure() {
    require!(Need::Root, Need::Fuse);
    for closed in [">&-", "2>&-", ">&- 2>&- <&-"] {
        for (verb, code) in [("list", 0), ("umount /nonexistent", 1)] {
            let script = format!("\"$0\" {verb} {closed}");
            let output = run_to_end(Command::new("sh").args(["-c", &script]).arg(program()), TIMEOUT);
            assert_eq!(output.status.code(), Some(code), "{closed}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// `logrotate` renames the file and sends SIGHUP.
#[test]
fn sighup_reopens_the_file() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (log, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let name = log.to_str().expect("a name");
    let mut server = Server::start(&["--log-level", "info", "--log-file", name], Stdio::null());
    assert_eq!(server.reject(1), [REJECTED]);
    wait_until("a record", || fs::read_to_string(&log).is_ok_and(|text| text.contains("rejected-0")));
    for _ in 0..2 {
        fs::rename(&log, &old).expect("the old log");
        server.signal(Signal::SIGHUP);
        wait_until("a new file", || log.exists());
        assert_eq!(server.reject(1), [REJECTED]);
        wait_until("a record in the new file", || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("rejected-0"))
        });
    }
    let mode = |path: &Path| io::Result::Ok(std::os::unix::fs::MetadataExt::mode(&fs::metadata(path)?));
    assert_eq!(mode(&log).expect("its mode"), mode(&old).expect("its mode"));
    server.answers();
    assert!(server.is_running());
}
