//! `explain` against what happens: every operation on every kind of place, in every shape under both policies, first asked about and then
//! done on the mounted view.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::Value;
use testkit::{Hierarchy, Need, View, ViewOptions, hierarchy, require};
use vcgroupfs::sys::credentials::{Rights, become_for_good};

use crate::support::{Sandbox, program};

/// The hierarchies with a delegated subtree; `devices` has none in these views.
const DELEGATED: [&str; 3] = ["unified", "name=systemd", "memory"];

const OPERATIONS: [&str; 17] = [
    "lookup", "read", "write", "truncate", "mkdir", "rmdir", "rename", "chmod", "chown", "utimens", "setxattr",
    "migrate", "create", "unlink", "link", "symlink", "mknod",
];

/// A process that can be migrated, which ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start(sandbox: &Sandbox, who: Who) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).env("VCGROUPFS_TEST_MARK", &sandbox.mark);
        if let Who::User(user) = who {
            command.uid(user).gid(user);
        }
        Self(command.spawn().expect("sleep"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does an operation on a path.
pub(crate) fn attempt(operation: &str, path: &Path, process: u32, linked: &Path) -> io::Result<()> {
    let metadata = || fs::symlink_metadata(path);
    let beside = path.with_file_name("renamed-by-explain");
    match operation {
        "lookup" => metadata().map(drop),
        "read" if metadata()?.is_dir() => fs::read_dir(path)?.try_for_each(|entry| entry.map(drop)),
        "read" => fs::File::open(path).map(drop),
        "write" => {
            let mut file = fs::File::options().write(true).open(path)?;
            let is_membership = ["cgroup.procs", "tasks"].iter().any(|name| path.ends_with(name));
            file.write_all(if is_membership { process.to_string() } else { "-x".to_owned() }.as_bytes())
        }
        "truncate" => Ok(nix::unistd::truncate(path, 0)?),
        "mkdir" => fs::create_dir(path),
        "rmdir" => fs::remove_dir(path),
        "rename" => {
            fs::rename(path, &beside)?;
            fs::rename(beside, path)
        }
        "chmod" => {
            fs::set_permissions(path, fs::Permissions::from_mode(if metadata()?.is_dir() { 0o755 } else { 0o644 }))
        }
        "chown" => chown(path, Some(0), Some(0)),
        "utimens" => {
            Ok(nix::sys::stat::utimes(path, &nix::sys::time::TimeVal::new(1, 0), &nix::sys::time::TimeVal::new(1, 0))?)
        }
        "setxattr" => {
            let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
            vcgroupfs::sys::xattr::set(&path, c"user.vcgroupfs", b"1", 0)
        }
        "migrate" => {
            let list = if metadata()?.is_dir() { path.join("cgroup.procs") } else { path.to_owned() };
            fs::File::options().write(true).open(list)?.write_all(process.to_string().as_bytes())
        }
        "create" => fs::File::create_new(path).map(drop),
        "unlink" => Ok(nix::unistd::unlink(path)?),
        // From a file of the same filesystem: with another one, it would be EXDEV before it's anybody's turn.
        "link" => fs::hard_link(linked, path),
        "symlink" => std::os::unix::fs::symlink("x", path),
        "mknod" => Ok(mknod(path, SFlag::S_IFIFO, Mode::S_IRUSR, 0)?),
        other => panic!("{other}"),
    }
}

/// What to ask about in one hierarchy, relative to the test's cgroup.
const PLACES: [&str; 12] = [
    "",
    "box",
    "box/inner",
    "box/inner/fresh",
    "box/fresh",
    "beside",
    "beside/fresh",
    "fresh",
    "box/cgroup.procs",
    "box/inner/cgroup.procs",
    "box/inner/notify_on_release",
    "beside/cgroup.procs",
];

/// More of them, where the mode and the owner decide.
const PLACES_OF_USERS: [&str; 4] =
    ["box/inner/cgroup.procs/below", "box/closed/child", "box/closed/cgroup.procs", "box/closed/fresh"];

/// The user that owns a part of the container's cgroups, but not their boundary's `cgroup.procs`.
const OWNER: u32 = 1000;

/// Who performs the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    User(u32),
}

impl Who {
    /// Calls `act` as this user.
    pub(crate) fn act(self, act: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
        let Self::User(uid) = self else { return act() };
        thread::scope(|scope| {
            let as_user = scope.spawn(|| {
                let rights = Rights { uid, gid: uid, groups: &[], capabilities: 0 };
                become_for_good(&rights, 0)?;
                act()
            });
            as_user.join().expect("no panic")
        })
    }
}

struct Scene<'a> {
    who: Who,
    sandbox: &'a Sandbox,
    view: &'a View,
    options: Vec<String>,
    process: u32,
    /// A file of the view.
    linked: PathBuf,
}

impl Scene<'_> {
    fn explain(&self, operation: &str, path: &str) -> Value {
        let options = self.options.iter().map(String::as_str);
        let arguments: Vec<&str> = ["explain", "--json"].into_iter().chain(options).chain([operation, path]).collect();
        self.sandbox.vcgroupfs(&arguments).json()
    }

    /// Asks, does it, and compares. `host`: the same place on the kernel's own cgroupfs.
    fn check(&self, operation: &str, path: &str, host: &Path, checked: &mut [usize; 2]) -> Result<(), String> {
        let explained = self.explain(operation, path);
        let keys: Vec<&str> = explained.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "allowed",
                "commands",
                "errno",
                "host",
                "new_path",
                "operation",
                "path",
                "reason",
                "rule",
                "verdict",
                "whose"
            ]
        );
        assert_eq!((explained["operation"].as_str(), explained["path"].as_str()), (Some(operation), Some(path)));
        let in_view = self.view.dir().join(path.trim_start_matches('/'));
        let happened = self.who.act(|| attempt(operation, &in_view, self.process, &self.linked));
        let errno =
            |outcome: io::Result<()>| outcome.err().map(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)));
        let happened = errno(happened);
        let allowed = explained["allowed"].as_bool().expect("a verdict");
        assert_eq!(explained["verdict"].as_str(), Some(if allowed { "allowed" } else { "rejected" }));
        checked[usize::from(allowed)] += 1;
        let agrees = if allowed {
            assert!(explained["errno"].is_null());
            // What the kernel makes of it is the kernel's.
            let as_host = || happened == errno(self.who.act(|| attempt(operation, host, self.process, host)));
            let is_permission = matches!(happened, Some(Errno::EACCES | Errno::EPERM));
            happened.is_none() || as_host() && (self.who == Who::Root || !is_permission)
        } else {
            happened.map(|errno| format!("{errno:?}")).as_deref() == explained["errno"].as_str()
        };
        if agrees { Ok(()) } else { Err(format!("{operation} {path}: {happened:?}, but explained as {explained}")) }
    }
}

fn prepare(sandbox: &Sandbox, hierarchy: &Hierarchy) -> PathBuf {
    let top = hierarchy.mountpoint.join(&sandbox.mark);
    for name in ["box", "box/inner", "box/inner/child", "box/closed", "box/closed/child", "beside"] {
        // So that none of them can be removed while it's tried.
        fs::create_dir(top.join(name)).expect("a cgroup");
    }
    top
}

/// Gives a part of the cgroups to [`OWNER`].
fn give(top: &Path) {
    for name in ["box", "box/inner", "box/inner/cgroup.procs", "box/inner/child", "box/closed"] {
        chown(top.join(name), Some(OWNER), Some(OWNER)).expect("chown");
    }
    fs::set_permissions(top.join("box/closed"), fs::Permissions::from_mode(0o700)).expect("chmod");
}

fn compare(shape: &str, policy: &str, who: Who) {
    let selectors: Vec<&str> = DELEGATED.into_iter().chain(["devices"]).collect();
    let sandbox = Sandbox::with_cgroup(&selectors);
    let hierarchies: Vec<Hierarchy> = selectors.iter().map(|name| hierarchy(name).expect("a hierarchy")).collect();
    let tops: Vec<PathBuf> = hierarchies.iter().map(|hierarchy| prepare(&sandbox, hierarchy)).collect();
    let sleeper = Sleeper::start(&sandbox, who);
    for top in &tops[..DELEGATED.len()] {
        fs::write(top.join("box/inner/child/cgroup.procs"), sleeper.0.id().to_string()).expect("a migration");
    }
    if let Who::User(_) = who {
        tops.iter().for_each(|top| give(top));
    }
    let boundary = format!("{}/box", sandbox.path());
    let mut options: Vec<String> =
        [["--shape", shape], ["--policy", policy]].concat().into_iter().map(str::to_owned).collect();
    let mut mount = ViewOptions::new().shape(shape).policy(policy);
    if policy == "delegate" {
        options.extend(["--delegate-controllers".to_owned(), "memory".to_owned()]);
        mount = mount.delegate_controllers(&["memory"]);
    }
    for name in DELEGATED {
        options.extend(["--cgroup".to_owned(), format!("{name}={boundary}")]);
        mount = mount.option("--cgroup", &format!("{name}={boundary}"));
    }
    let mut operations = OPERATIONS.to_vec();
    if let Who::User(user) = who {
        options.extend(["--as".to_owned(), user.to_string()]);
        // The kernel has a rule about users for links (`fs.protected_hardlinks`).
        operations.retain(|operation| *operation != "link");
    }
    let view = View::mount(program(), &mount);
    let above = view.dir().parent().expect("a directory").to_owned();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).expect("chmod");
    let top = hierarchies[0].in_view(&view.dir());
    let boundary = if shape == "rooted" { top } else { top.join(boundary.trim_start_matches('/')) };
    let linked = boundary.join("cgroup.procs");
    assert!(linked.is_file(), "{}", linked.display());
    let scene = Scene { who, sandbox: &sandbox, view: &view, options, process: sleeper.0.id(), linked };
    let mut checked = [0; 2];
    let mut wrong = Vec::new();
    for (hierarchy, top) in hierarchies.iter().zip(&tops) {
        let directory = hierarchy.in_view(Path::new("/")).display().to_string();
        let mut places: Vec<&str> = PLACES.to_vec();
        if who != Who::Root {
            places.extend(PLACES_OF_USERS);
        }
        if hierarchy.selector() == "devices" {
            places = vec!["", "box", "box/cgroup.procs", "fresh"];
        }
        if hierarchy.selector() == "memory" {
            places.extend(["memory.limit_in_bytes", "box/memory.limit_in_bytes", "box/inner/memory.limit_in_bytes"]);
        }
        if hierarchy.is_unified() {
            places.extend(["box/cgroup.max.depth", "box/cgroup.subtree_control", "box/inner/cgroup.max.depth"]);
        }
        for name in places {
            let below = match (shape, name.strip_prefix("box")) {
                ("rooted", Some(rest)) if hierarchy.selector() != "devices" => rest.to_owned(),
                _ => format!("{}/{name}", sandbox.path()),
            };
            let path = format!("{directory}{below}").trim_end_matches('/').to_owned();
            // What else can't be migrated into, nobody would ask.
            let lists = !name.contains('.') && !name.contains("notify") || name.ends_with("cgroup.procs");
            for operation in operations.iter().copied().filter(|operation| lists || *operation != "migrate") {
                let outcome = scene.check(operation, &path, &top.join(name), &mut checked);
                wrong.extend(outcome.err());
                // What was made is removed again, and who was migrated goes back.
                let (own, shown) = (top.join(name), view.dir().join(path.trim_start_matches('/')));
                let was_shown = inode(&shown).is_some();
                if fs::remove_dir(&own).is_ok() {
                    if !name.ends_with("fresh") {
                        fs::create_dir(&own).expect("mkdir");
                    }
                    // The view learns of it a little later.
                    testkit::comes_true(testkit::TIMEOUT, || !was_shown || inode(&shown) == inode(&own));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{shape} {policy} {who:?}: {} differ:\n{}", wrong.len(), wrong.join("\n"));
    // A stranger may do little.
    let least = if who == Who::Root { 50 } else { 30 };
    assert!(checked[0] > 200 && checked[1] > least, "{shape} {policy} {who:?}: {checked:?}");
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.ino())
}

/// One after the other: each starts a thousand processes.
static BUSY: Mutex<()> = Mutex::new(());

fn alone(what: impl FnOnce()) {
    let _busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
    what();
}

macro_rules! modes {
    ($($name:ident: $shape:literal, $policy:literal, $who:expr;)+) => {
        $(#[test]
        fn $name() {
            require!(
                Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Hierarchy("name=systemd"), Need::Hierarchy("memory"),
                Need::Hierarchy("devices"),
            );
            alone(|| compare($shape, $policy, $who));
        })+
    };
}

modes! {
    host_path_strict: "host-path", "strict", Who::Root;
    host_path_delegate: "host-path", "delegate", Who::Root;
    rooted_strict: "rooted", "strict", Who::Root;
    rooted_delegate: "rooted", "delegate", Who::Root;
    full_strict: "full", "strict", Who::Root;
    full_delegate: "full", "delegate", Who::Root;
    as_an_owner: "host-path", "delegate", Who::User(OWNER);
    as_a_stranger: "rooted", "delegate", Who::User(2000);
}
