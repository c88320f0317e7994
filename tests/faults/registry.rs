//! The records of live views in `/run/vcgroupfs`, and who tries to spoil them. Each case has a `/run` of its own, in a mount namespace.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{Need, TIMEOUT, TestCgroup, ViewProcesses, hierarchies, require, run_to_end};

pub(crate) const REGISTRY: &str = "/run/vcgroupfs";

/// A mount namespace with an empty `/run`, and a cgroup to show.
pub(crate) struct Host {
    keeper: Child,
    pub(crate) cgroup: TestCgroup,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
        let cgroup = TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>());
        let folder = tempfile::Builder::new().prefix("vcgroupfs-registry-").tempdir().expect("a directory");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        fs::create_dir(folder.path().join("view")).expect("a mount point");
        let script = "mount -t tmpfs -o mode=755 tmpfs /run && echo && exec cat";
        let mut keeper = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let output = keeper.stdout.as_mut().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("the namespace");
        Self { keeper, cgroup, folder }
    }

    /// The path outside of a path in that namespace.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let below = path.as_ref().strip_prefix("/").expect("an absolute path").to_owned();
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(below)
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--mount").arg("--target").arg(self.keeper.id().to_string()).arg(program);
        command
    }

    pub(crate) fn vcgroupfs<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Said {
        let mut command = self.command(env!("CARGO_BIN_EXE_vcgroupfs"));
        let output = run_to_end(command.args(arguments), TIMEOUT);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    pub(crate) fn mount(&self, directory: &Path) -> Said {
        let path = self.cgroup.path();
        let view = ["mount", "--cgroup", &path].map(OsStr::new);
        self.vcgroupfs(&[&view[..], &[directory.as_os_str()]].concat())
    }

    pub(crate) fn view(&self) -> PathBuf {
        self.folder.path().join("view")
    }

    pub(crate) fn list(&self) -> Vec<serde_json::Value> {
        let text = self.vcgroupfs(&["list", "--json"]).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The processes of its only view.
    #[track_caller]
    pub(crate) fn processes(&self) -> ViewProcesses {
        let views = self.list();
        assert_eq!(views.len(), 1, "{views:?}");
        ViewProcesses::of_listed(&views[0])
    }

    /// The record of its only view, and the process that has made it: the keeper, or the server where there's none.
    #[track_caller]
    pub(crate) fn record(&self) -> (Pid, PathBuf) {
        let ViewProcesses { keeper, server } = self.processes();
        let owner = keeper.unwrap_or(server);
        (owner, self.path(REGISTRY).join(format!("{owner}.json")))
    }

    /// The states of all views, the oldest first.
    pub(crate) fn states(&self) -> Vec<String> {
        self.list().iter().map(|view| view["state"].as_str().expect("a state").to_owned()).collect()
    }

    /// Kills its only view.
    #[track_caller]
    pub(crate) fn kill_view(&self) {
        self.processes().kill_to_the_end();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path(REGISTRY)).into_iter().flatten().flatten() {
            let server = entry.path().file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let is_ours = |pid: i32| {
                let link = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
                link(pid).is_some() && link(pid) == link(self.keeper.id() as i32)
            };
            if let Some(pid) = server.filter(|pid| is_ours(*pid)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                until(|| !is_ours(pid));
            }
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn until(is_so: impl FnMut() -> bool) -> bool {
    testkit::comes_true(TIMEOUT, is_so)
}

fn flock(whole: i16) -> libc::flock {
    libc::flock { l_type: whole, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// A user that may read a record may lock it, in each of the kernel's ways. That says nothing about its server.
#[test]
fn a_reader_of_a_record_cannot_make_a_dead_server_look_alive() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    host.mount(&host.view()).ok();
    let (_, record) = host.record();
    let read = || File::open(&record).expect("a record that all may read");
    assert_eq!(fs::metadata(&record).expect("a record").mode() & 0o7777, 0o644);
    let (whole, part) = (read(), read());
    fcntl(&part, FcntlArg::F_OFD_SETLK(&flock(libc::F_RDLCK as i16))).ok();
    assert_eq!(host.list().len(), 1, "it lives");
    host.kill_view();
    // One that waits for it has it now.
    let whole = Flock::lock(whole, FlockArg::LockExclusive).expect("a lock");
    // Its last threads may still be ending.
    fcntl(&part, FcntlArg::F_OFD_SETLKW(&flock(libc::F_RDLCK as i16))).expect("a lock");
    assert_eq!(host.states(), ["failed"], "a dead server looks alive");
    let started = Instant::now();
    host.vcgroupfs(&[OsStr::new("umount"), host.view().as_os_str()]).ok();
    assert!(started.elapsed() < Duration::from_secs(5), "umount waited for a dead server");
    drop(whole);
}

/// A user of the host gets the list, and the lock isn't to be had by him, whichever file of the registry he tries.
#[test]
fn a_user_of_the_host_can_neither_list_nor_lock_records() {
    require!(Need::Root, Need::Fuse, Need::Program("setpriv"));
    let host = Host::new();
    host.mount(&host.view()).ok();
    let user = |arguments: &[&OsStr]| {
        let mut command = host.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(arguments);
        run_to_end(&mut command, TIMEOUT)
    };
    // The program may be where a user doesn't come.
    let program = host.folder.path().join("vcgroupfs");
    testkit::copy_program(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &program);
    let listed = user(&[program.as_os_str(), OsStr::new("list"), OsStr::new("--json")]);
    assert!(listed.status.success(), "{listed:?}");
    assert_eq!(String::from_utf8_lossy(&listed.stdout).matches("\"pid\"").count(), 1, "{listed:?}");
    host.kill_view();
    for entry in fs::read_dir(host.path(REGISTRY)).expect("the registry").flatten() {
        let path = Path::new(REGISTRY).join(entry.file_name());
        let script = "import fcntl, sys\nfor mode in 'r', 'r+':\n try: f = open(sys.argv[1], mode); fcntl.lockf(f, fcntl.LOCK_EX); print('locked')\n except OSError: pass";
        let tried = user(&[OsStr::new("python3"), OsStr::new("-c"), OsStr::new(script), path.as_os_str()]);
        assert_eq!(String::from_utf8_lossy(&tried.stdout), "", "{}", path.display());
    }
    let listed = user(&[program.as_os_str(), OsStr::new("list"), OsStr::new("--json")]);
    let views: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!((&views[0]["state"], &views[0]["pid"], &views[1]), (&"failed".into(), &Value::Null, &Value::Null));
}

/// Its name is known before it's made: a process id.
#[test]
fn a_record_cannot_be_redirected() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    let victim = host.folder.path().join("victim");
    fs::write(&victim, "precious").expect("a file");
    for (name, plant) in [("new", "ln -s"), ("new", "ln"), ("new", "cp"), ("json", "ln -s")] {
        let script = format!(
            "mkdir -p {REGISTRY}; {plant} {} {REGISTRY}/$$.{name}; exec {} mount --cgroup {} -f {}",
            victim.display(),
            env!("CARGO_BIN_EXE_vcgroupfs"),
            host.cgroup.path(),
            host.view().display(),
        );
        if plant == "ln" {
            // Hard links are for one filesystem.
            fs::copy(&victim, host.path("/run/victim")).expect("a file");
        }
        let script = if plant == "ln" { script.replace(&victim.display().to_string(), "/run/victim") } else { script };
        let mut server = host.command("sh").args(["-c", &script]).spawn().expect("a server");
        assert!(until(|| host.list().len() == 1), "{plant} {name}");
        let (pid, record) = host.record();
        let found = fs::symlink_metadata(&record).expect("a record");
        assert!(found.is_file() && found.uid() == 0 && found.nlink() == 1, "{plant} {name}: {found:?}");
        assert_eq!(fs::read_to_string(&victim).expect("the victim"), "precious", "{plant} {name}");
        if plant == "ln" {
            assert_eq!(fs::read_to_string(host.path("/run/victim")).expect("the victim"), "precious");
        }
        kill(pid, Signal::SIGTERM).expect("kill");
        server.wait().expect("its end");
        assert_eq!(fs::read_dir(host.path(REGISTRY)).expect("the registry").flatten().filter(is_record).count(), 0);
    }
}

fn is_record(entry: &fs::DirEntry) -> bool {
    let path = entry.path();
    path.extension().is_some_and(|extension| extension == "json" || extension == "new")
}

/// Where users other than root may write, nothing is trusted or kept, and the message has the remedy.
#[test]
fn a_directory_that_does_not_belong_to_root_alone_is_refused() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    let registry = host.path(REGISTRY);
    let spoil: [(&str, &dyn Fn()); 4] = [
        ("another's", &|| chown(&registry, Some(65534), None).expect("chown")),
        ("writable", &|| fs::set_permissions(&registry, PermissionsExt::from_mode(0o777)).expect("chmod")),
        ("the group's", &|| fs::set_permissions(&registry, PermissionsExt::from_mode(0o775)).expect("chmod")),
        ("a symlink", &|| {
            fs::remove_dir(&registry).expect("rmdir");
            symlink(host.folder.path(), &registry).expect("a symlink");
        }),
    ];
    for (what, spoil) in spoil {
        fs::create_dir(&registry).expect("mkdir");
        fs::set_permissions(&registry, PermissionsExt::from_mode(0o755)).expect("chmod");
        spoil();
        let before = fs::read_dir(host.folder.path()).expect("a directory").count();
        for said in [host.vcgroupfs(&["list"]), host.mount(&host.view())] {
            let refused = said.fails(1);
            assert!(refused.contains(REGISTRY) && refused.contains("chown root:root"), "{what}: {refused}");
        }
        let init = host.keeper.id().to_string();
        let refused = host.vcgroupfs(&["detach", &init]);
        assert_eq!(refused.code, Some(1), "{what}: {}", refused.stderr);
        assert_eq!(fs::read_dir(host.folder.path()).expect("a directory").count(), before, "{what}");
        fs::remove_dir_all(&registry).or_else(|_| fs::remove_file(&registry)).expect("removed");
    }
}

/// The lock by which one `attach` waits for another one is made in the same place.
#[test]
fn the_lock_of_attach_cannot_be_redirected() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    fs::create_dir(host.path(REGISTRY)).expect("mkdir");
    let victim = host.folder.path().join("victim");
    symlink(&victim, host.path(REGISTRY).join("attach.lock")).expect("a symlink");
    let container = Command::new("unshare").args(["--mount", "sleep", "1000"]).spawn();
    let mut container = container.expect("a container");
    let is_apart = || {
        let link = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        link(container.id()) != link(std::process::id())
    };
    assert!(until(is_apart));
    let said = host.vcgroupfs(&["detach", &container.id().to_string()]);
    container.kill().expect("kill");
    container.wait().expect("its end");
    assert!(!victim.exists(), "{}{}", said.stdout, said.stderr);
}

/// Any path can be a mount point.
#[test]
fn a_mount_point_that_is_not_text_survives() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    for name in [&b"a\xff\\b \"\n\xfe"[..], "ä\u{7f}\\040".as_bytes()] {
        let directory = host.folder.path().join(OsStr::from_bytes(name));
        fs::create_dir(&directory).expect("a mount point");
        let said = host.mount(&directory);
        assert!(said.stderr.is_empty() && said.code == Some(0), "{}", said.stderr);
        let views = host.list();
        assert_eq!(views.len(), 1, "{views:?}");
        let escaped = views[0]["directory_escaped"].as_str().expect("its escaped form");
        assert!(!escaped.chars().any(char::is_control), "{escaped:?}");
        assert_eq!(vcgroupfs::cgroup::mountinfo::unescape(escaped.as_bytes()), directory.as_os_str());
        assert_eq!(views[0]["directory"], *directory.to_string_lossy());
        let table = host.vcgroupfs(&["list"]).ok();
        assert_eq!(table.lines().count(), 2, "{table}");
        host.vcgroupfs(&[OsStr::new("umount"), directory.as_os_str()]).ok();
        assert_eq!(host.list().len(), 0);
    }
}

/// A server is killed before its record has its name, and after.
#[test]
fn records_of_killed_servers_are_removed() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    host.mount(&host.view()).ok();
    let (owner, record) = host.record();
    for name in ["999999.new", "1.new", "999998.json"] {
        fs::copy(&record, host.path(REGISTRY).join(name)).expect("a file");
    }
    fs::write(host.path(REGISTRY).join("mine"), "an administrator's").expect("a file");
    assert_eq!(host.list().len(), 1);
    let names = || {
        let entries = fs::read_dir(host.path(REGISTRY)).expect("the registry").flatten();
        let mut names: Vec<_> = entries.filter(|entry| is_record(entry) || entry.file_name() == "mine").collect();
        names.sort_by_key(fs::DirEntry::file_name);
        names.iter().map(|entry| entry.file_name().into_string().expect("a name")).collect::<Vec<_>>()
    };
    assert_eq!(names(), [format!("{owner}.json"), "mine".to_owned()]);
    host.kill_view();
    assert_eq!(host.states(), ["failed"]);
    assert_eq!(names(), [format!("{owner}.json"), "mine".to_owned()]);
    let unmounted = run_to_end(host.command("umount").arg(host.view()), TIMEOUT);
    assert!(unmounted.status.success(), "{unmounted:?}");
    assert_eq!(host.list().len(), 0);
    assert_eq!(names(), ["mine"]);
}

/// Records that aren't root's, or aren't files, or are too large, are nobody's.
#[test]
fn only_records_of_root_are_read() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    host.mount(&host.view()).ok();
    let (_, record) = host.record();
    let other = std::process::id();
    let forged = host.path(REGISTRY).join(format!("{other}.json"));
    let text = fs::read_to_string(&record).expect("a record");
    let forge = |owner: u32, mode: u32, text: &str| {
        fs::write(&forged, text).expect("a file");
        fs::set_permissions(&forged, PermissionsExt::from_mode(mode)).expect("chmod");
        chown(&forged, Some(owner), None).expect("chown");
        // With the lock, which its owner can have.
        let file = File::options().read(true).write(true).open(&forged).expect("a file");
        fcntl(&file, FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK as i16))).expect("a lock");
        file
    };
    for (owner, mode, text) in
        [(65534, 0o644, text.clone()), (0, 0o666, text.clone()), (0, 0o644, " ".repeat(1 << 20) + &text)]
    {
        let held = forge(owner, mode, &text);
        assert_eq!(host.list().len(), 1, "owner {owner}, mode {mode:o}");
        drop(held);
        let _ = fs::remove_file(&forged);
    }
    // It says it's another process than the one whose name it has.
    let held = forge(0, 0o644, &text);
    assert_eq!(host.list().len(), 1);
    drop(held);
    let _ = fs::remove_file(&forged);
    nix::unistd::mkfifo(&forged, nix::sys::stat::Mode::from_bits_truncate(0o644)).expect("a fifo");
    assert_eq!(host.list().len(), 1, "a fifo");
    fs::remove_file(&forged).expect("unlink");
}

/// Reading a record doesn't take hundreds of system calls.
#[test]
fn records_are_read_in_one_go() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    host.mount(&host.view()).ok();
    let (_, record) = host.record();
    let length = fs::metadata(&record).expect("a record").len();
    let mut command = host.command(env!("CARGO_BIN_EXE_vcgroupfs"));
    let mut list = command.arg("list").stdout(Stdio::null()).spawn().expect("list");
    let own = Id::Pid(Pid::from_raw(list.id() as i32));
    waitid(own, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("its end");
    let text = fs::read_to_string(format!("/proc/{}/io", list.id())).expect("its accounts");
    assert!(list.wait().expect("its end").success());
    let reads = text.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse::<u64>().ok()).expect("syscr");
    assert!(length > 200 && reads < length / 2, "{reads} reads for a record of {length} bytes");
}

/// An update while views live: what the former version has written, and holds by flock(2), is known to `list` as before. A lock of somebody
/// else's on it doesn't count.
#[test]
fn records_of_the_former_version_are_read() {
    require!(Need::Root, Need::Fuse, Need::Program("flock"));
    let host = Host::new();
    fs::create_dir(host.path(REGISTRY)).expect("mkdir");
    let record = |name: &str| host.path(REGISTRY).join(format!("{name}.json"));
    let draft = host.path(REGISTRY).join("draft");
    let write = |pid: u32| {
        let text = format!(
            "{{\"pid\":{pid},\"directory\":\"/srv/a\\\\040b\",\"target\":\"pid 7\",\"shape\":\"rooted\",\"policy\":\"strict\",\
             \"delegated\":[[\"unified\",\"/a\\\\x2db\"]],\"since\":1}}"
        );
        fs::write(&draft, text).expect("a record");
        fs::set_permissions(&draft, PermissionsExt::from_mode(0o644)).expect("chmod");
    };
    fs::write(&draft, "").expect("a file");
    let mut server = Command::new("flock").arg(&draft).args(["sleep", "60"]).spawn().expect("flock");
    let is_locked = || fs::read_to_string("/proc/locks").expect("locks").contains(&format!(" {} ", server.id()));
    assert!(until(is_locked));
    write(server.id());
    fs::rename(&draft, record(&server.id().to_string())).expect("rename");
    let views = host.list();
    assert_eq!(views.len(), 1, "{views:?}");
    assert_eq!(views[0]["directory"], "/srv/a\\040b");
    assert_eq!(views[0]["delegated"]["unified"], "/a\\x2db");
    // Held, but not by whom it names.
    write(1);
    fs::rename(&draft, record("1")).expect("rename");
    let held = Flock::lock(File::open(record("1")).expect("a record"), FlockArg::LockExclusiveNonblock);
    assert_eq!(host.list().len(), 1);
    drop(held);
    // flock(1)'s child, which holds it as well, ends by itself.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.id())).expect("children");
    server.kill().expect("kill");
    server.wait().expect("its end");
    for child in children.split_ascii_whitespace() {
        kill(Pid::from_raw(child.parse().expect("a number")), Signal::SIGKILL).expect("kill");
    }
    assert!(until(|| host.list().is_empty()));
    // What a later version writes isn't understood, nor taken away.
    let text = format!("{{\"format\":4711,\"pid\":{},\"directory\":\"/x\"}}", std::process::id());
    let later = record(&std::process::id().to_string());
    fs::write(&later, text).expect("a record");
    let file = File::options().write(true).open(&later).expect("a record");
    fcntl(&file, FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK as i16))).expect("a lock");
    let said = host.vcgroupfs(&["list"]);
    assert!(said.code == Some(0) && said.stderr.contains("newer version"), "{}", said.stderr);
    assert!(later.exists());
}
