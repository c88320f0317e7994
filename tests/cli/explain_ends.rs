//! `explain` of a rename at both ends, of a process that isn't root, and of CLONE_INTO_CGROUP, each against what happens.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use serde_json::Value;
use testkit::{Need, View, ViewOptions, hierarchy, require};

use crate::doctor::Sleeper;
use crate::explain::Who;
use crate::support::{Sandbox, program, said};

const SELECTORS: [&str; 3] = ["unified", "name=systemd", "memory"];

/// The user that owns a part of the cgroups.
const USER: u32 = 1000;

/// A view of `box` in three hierarchies.
struct Scene {
    view: View,
    options: Vec<String>,
    sandbox: Sandbox,
}

impl Scene {
    fn new(policy: &str) -> Self {
        let sandbox = Sandbox::with_cgroup(&SELECTORS);
        for name in ["box", "box/a", "box/a/b", "box/z", "beside"] {
            sandbox.cgroup().children(name);
        }
        let mut options = vec!["--policy".to_owned(), policy.to_owned()];
        let mut mount = ViewOptions::new().policy(policy).shape("rooted");
        options.extend(["--shape".to_owned(), "rooted".to_owned()]);
        for selector in SELECTORS {
            let cgroup = format!("{selector}={}/box", sandbox.path());
            options.extend(["--cgroup".to_owned(), cgroup.clone()]);
            mount = mount.option("--cgroup", &cgroup);
        }
        let view = View::mount(program(), &mount);
        let above = view.dir().parent().expect("a directory").to_owned();
        fs::set_permissions(above, fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { view, options, sandbox }
    }

    fn explain(&self, options: &[&str], words: &[&str]) -> Value {
        let own: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.sandbox.vcgroupfs(&[&["explain", "--json"], own.as_slice(), options, words].concat()).json()
    }

    /// The place of a path of the view.
    fn place(&self, path: &str) -> PathBuf {
        self.view.dir().join(path.trim_start_matches('/'))
    }

    /// The path of a hierarchy's top.
    fn top(selector: &str) -> String {
        hierarchy(selector).expect("a hierarchy").in_view(Path::new("/")).display().to_string()
    }
}

fn errno(outcome: std::io::Result<()>) -> Option<String> {
    outcome.err().map(|error| format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))))
}

#[test]
fn a_rename_is_judged_at_both_ends() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("unified"),
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("memory")
    );
    for (policy, who) in [("strict", Who::Root), ("delegate", Who::Root), ("strict", Who::User(USER))] {
        let scene = Scene::new(policy);
        // A part is the user's.
        let own = scene.sandbox.cgroup().dir("name=systemd").join("box");
        chown(own.join("a"), Some(USER), Some(USER)).expect("chown");
        chown(own.join("a/b"), Some(USER), Some(USER)).expect("chown");
        let tops = SELECTORS.map(Scene::top);
        let names = ["", "/a", "/a/b", "/z", "/a/new", "/new", "/nosuch/new", "/cgroup.procs", "/a/cgroup.procs"];
        let mut paths: Vec<String> = tops.iter().flat_map(|top| names.map(|name| format!("{top}{name}"))).collect();
        paths.extend(["/".to_owned(), "/nosuch".to_owned()]);
        let id = USER.to_string();
        let options: &[&str] = if who == Who::Root { &["--as", "0"] } else { &["--as", &id] };
        let (mut allowed, mut wrong) = (0, Vec::new());
        let pairs = paths.iter().flat_map(|old| paths.iter().map(move |new| (old, new)));
        // All in one hierarchy, and a few across.
        let is_asked = |(old, new): &(&String, &String)| {
            old.starts_with(&tops[1]) && new.starts_with(&tops[1]) || old.ends_with("/a") || new.ends_with("/z")
        };
        for (old, new) in pairs.filter(is_asked).filter(|(old, new)| *old != "/" && *new != "/") {
            let told = scene.explain(options, &["rename", old, new]);
            let happened = errno(who.act(|| fs::rename(scene.place(old), scene.place(new))));
            if told["errno"].as_str() != happened.as_deref() {
                wrong.push(format!("{policy} {who:?} {old} {new}: {happened:?}, but {told}"));
            }
            assert_eq!((told["path"].as_str(), told["new_path"].as_str()), (Some(&**old), Some(&**new)));
            if happened.is_none() && old != new {
                allowed += 1;
                fs::rename(scene.place(new), scene.place(old)).expect("the way back");
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
        assert!(allowed > 0, "{policy} {who:?}");
    }
}

#[test]
fn the_words_of_a_rename() {
    require!(Need::Root, Need::Hierarchy("name=systemd"));
    let sandbox = Sandbox::new();
    for (words, says) in [
        (&["--pid", "1", "mkdir", "/a", "/b"][..], "an operation and a path"),
        (&["1", "mkdir", "/a", "/b"], "or 'rename' and two paths"),
        (&["--pid", "1", "rename", "/a", "/b", "/c"], "an operation and a path"),
    ] {
        let line = sandbox.vcgroupfs(&[&["explain"], words].concat()).fails(2);
        assert!(line.contains(says), "{words:?}: {line}");
    }
    let sandbox = Sandbox::with_cgroup(&["name=systemd"]);
    let cgroup = sandbox.path();
    let one = sandbox.vcgroupfs(&["explain", "--json", "--cgroup", &cgroup, "rename", "/systemd/nosuch"]).json();
    assert!(one["new_path"].is_null(), "{one}");
}

/// Who may migrate whose processes: the kernel's own rules about users, beside the modes.
#[test]
fn a_process_of_another_user_is_not_migrated() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("unified"),
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("memory")
    );
    let scene = Scene::new("strict");
    let sleeper = Sleeper::start(Command::new("env"));
    let pid = sleeper.pid.to_string();
    let id = USER.to_string();
    for (selector, rule) in [("name=systemd", "anothers-process"), ("unified", "common-ancestor")] {
        let own = scene.sandbox.cgroup().dir(selector).join("box");
        fs::write(own.join("z/cgroup.procs"), &pid).expect("a migration");
        // The user may write the list of the destination, and that isn't enough.
        chown(own.join("a/cgroup.procs"), Some(USER), Some(USER)).expect("chown");
        let list = format!("{}/a/cgroup.procs", Scene::top(selector));
        let told = scene.explain(&["--as", &id, "--process", &pid], &["migrate", &list]);
        assert_eq!((told["errno"].as_str(), told["rule"].as_str()), (Some("EACCES"), Some(rule)), "{told}");
        let write = || fs::write(scene.place(&list), &pid);
        assert_eq!(errno(Who::User(USER).act(write)).as_deref(), Some("EACCES"), "{selector}");
        // Root may.
        let told = scene.explain(&["--as", "0", "--process", &pid], &["migrate", &list]);
        assert_eq!(told["verdict"], "allowed", "{told}");
        assert_eq!(errno(Who::Root.act(write)), None, "{selector}");
    }
    // On v2 a user may who may write the list of the ancestor, too.
    let own = scene.sandbox.cgroup().dir("unified").join("box");
    fs::write(own.join("z/cgroup.procs"), &pid).expect("a migration");
    chown(own.join("cgroup.procs"), Some(USER), Some(USER)).expect("chown");
    let list = format!("{}/a/cgroup.procs", Scene::top("unified"));
    let told = scene.explain(&["--as", &id, "--process", &pid], &["migrate", &list]);
    assert_eq!(told["verdict"], "allowed", "{told}");
    testkit::wait_until("the view's knowledge of the owner", || {
        errno(Who::User(USER).act(|| fs::write(scene.place(&list), &pid))).is_none()
    });
}

/// Calls clone3(2) with CLONE_INTO_CGROUP and a directory of the kernel's, or of the view.
const CLONE_INTO: &str = "
import ctypes, os, struct, sys
fd = os.open(sys.argv[1], os.O_PATH)
arguments = struct.pack('11Q', 1 << 33, 0, 0, 0, 17, 0, 0, 0, 0, 0, fd)
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(arguments, len(arguments))
child = libc.syscall(435, buffer, len(arguments))
if child == 0:
    os._exit(0)
if child < 0:
    print(os.strerror(ctypes.get_errno()) and __import__('errno').errorcode[ctypes.get_errno()])
else:
    os.waitpid(child, 0)
    print('started')
";

#[test]
fn no_process_is_started_in_a_view() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Program("python3"),
        Need::Hierarchy("unified"),
        Need::Hierarchy("name=systemd"),
        Need::Hierarchy("memory")
    );
    let scene = Scene::new("strict");
    let start = |path: &Path| said(Command::new("python3").args(["-c", CLONE_INTO]).arg(path)).ok();
    // The kernel's own takes it, so the program is right.
    let own = scene.sandbox.cgroup().dir("unified").join("box/a");
    assert_eq!(start(&own).trim(), "started");
    for selector in SELECTORS {
        let path = format!("{}/a", Scene::top(selector));
        assert_eq!(start(&scene.place(&path)).trim(), "EBADF", "{path}");
        let told = scene.explain(&[], &["clone-into", &path]);
        assert_eq!((told["errno"].as_str(), told["rule"].as_str()), (Some("EBADF"), Some("kernel")), "{told}");
        let instead = if selector == "memory" { "is rejected as well" } else { "have it write 0 to" };
        assert!(told["reason"].as_str().is_some_and(|reason| reason.contains(instead)), "{told}");
    }
    let told = scene.explain(&[], &["clone-into", "/unified/nosuch"]);
    assert_eq!(told["errno"], "ENOENT", "{told}");
}
