//! Questions about live views: of processes in the roots, of all callers, without privilege, of another user, and on a read-only mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::mount::{MsFlags, mount};
use testkit::{Need, hierarchies, require};

use crate::explain::attempt;
use crate::privilege::unprivileged;
use crate::support::{Sandbox, said, wait_until};

/// A process that ends with the test.
struct Process(Child);

impl Process {
    /// Starts `sleep` by way of other programs, and waits until it runs.
    fn start(sandbox: &Sandbox, words: &[&str]) -> Self {
        let (program, rest) = words.split_first().expect("a program");
        let child = sandbox.command_of(program).args(rest).args(["sleep", "1000"]).stdin(Stdio::null()).spawn();
        let process = Self(child.expect("a process"));
        wait_until("the sleep", || {
            fs::read(format!("/proc/{}/comm", process.pid())).is_ok_and(|name| name == b"sleep\n")
        });
        process
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Migrates it into the root of every hierarchy.
    fn into_roots(self) -> Self {
        for hierarchy in hierarchies() {
            fs::write(hierarchy.mountpoint.join("cgroup.procs"), self.pid()).expect("a migration");
        }
        self
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// Asks every question about a TARGET whose view has no delegated subtree.
fn answers(sandbox: &Sandbox, target: &str) {
    let explained = sandbox.vcgroupfs(&["explain", "--json", target, "lookup", "/"]).json();
    assert_eq!(explained["verdict"].as_str(), Some("allowed"), "{explained}");
    let told = explained["whose"].as_str().expect("whose");
    assert!(told.starts_with("live, "), "{told}");
    let tree = sandbox.vcgroupfs(&["tree", "--json", target]).json();
    assert_eq!(tree["writable"].as_bool(), Some(false), "{tree}");
    sandbox.vcgroupfs(&["map", "--json", target, "/"]).json();
}

#[test]
fn a_view_without_a_delegated_subtree_has_answers() {
    require!(Need::Root, Need::Fuse);
    let sandbox = Sandbox::new();
    let process = Process::start(&sandbox, &["unshare", "--mount", "--propagation", "private"]).into_roots();
    let directory = sandbox.directory("view");
    sandbox.vcgroupfs(&["mount", "--pid", &process.pid(), text(&directory)]).ok();
    answers(&sandbox, text(&directory));
    sandbox.vcgroupfs(&["umount", text(&directory)]).ok();
    let attached = sandbox.vcgroupfs(&["attach", &process.pid()]);
    assert_eq!(attached.code, 0, "{attached:?}");
    answers(&sandbox, &process.pid());
    sandbox.vcgroupfs(&["detach", &process.pid()]).ok();
    drop(process);
    sandbox.is_clean();
}

#[test]
fn a_mount_for_all_callers_needs_a_process() {
    require!(Need::Root, Need::Fuse);
    let sandbox = Sandbox::new();
    let directory = sandbox.directory("view");
    let name = text(&directory);
    let mounted = sandbox.vcgroupfs(&["mount", "--per-caller", name]);
    if mounted.code == 3 {
        return;
    }
    mounted.ok();
    for words in [vec!["explain", name, "lookup", "/"], vec!["tree", name], vec!["map", name, "/"]] {
        let line = sandbox.vcgroupfs(&words).fails(2);
        assert!(line.contains("each process sees its own view there; name a process"), "{words:?}: {line}");
    }
    sandbox.vcgroupfs(&["umount", name]).ok();
    sandbox.is_clean();
}

/// Without root it's unknown in which mount namespace a process is. A container's own process is known by its number.
#[test]
fn a_live_view_is_not_denied_without_root() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::everywhere();
    let process = Process::start(&sandbox, &["unshare", "--mount", "--propagation", "private"]);
    for path in sandbox.cgroup().hierarchies().iter().map(|hierarchy| hierarchy.mountpoint.join(&sandbox.mark)) {
        fs::write(path.join("cgroup.procs"), process.pid()).expect("a migration");
    }
    sandbox.vcgroupfs(&["attach", &process.pid()]).ok();
    let found = said(&mut unprivileged(&sandbox, &["explain", "--json", &process.pid(), "lookup", "/"])).json();
    assert!(found["whose"].as_str().is_some_and(|whose| whose.starts_with("live, ")), "{found}");
    // Of another user's process it can't be known.
    let other = Process::start(&sandbox, &["unshare", "--mount", "--propagation", "private"]);
    let words = ["explain", &other.pid(), "lookup", "/"];
    let line = said(&mut unprivileged(&sandbox, &words)).fails(4);
    assert!(line.contains("has a live view: Permission denied (EACCES); run it as root"), "{line}");
    sandbox.vcgroupfs(&["detach", &process.pid()]).ok();
    drop((process, other));
    sandbox.is_clean();
}

#[test]
fn as_needs_a_user_of_the_container() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::new();
    let process = Process::start(&sandbox, &["unshare", "--user", "--map-root-user"]);
    let pid = process.pid();
    let told = sandbox.vcgroupfs(&["explain", &pid, "--as", "0", "lookup", "/"]);
    assert_eq!(told.code, 0, "{told:?}");
    for (who, kind) in [("1000", "user 1000"), ("0:7", "group 7")] {
        for path in ["/", "/nosuch"] {
            let line = sandbox.vcgroupfs(&["explain", &pid, "--as", who, "read", path]);
            let line = line.stderr.lines().next_back().unwrap_or_default().to_owned();
            let says = format!("{kind} isn't mapped in the user namespace of process {pid}");
            assert!(line.contains(&says) && line.contains("uid_map"), "{who}: {line}");
        }
    }
    for who in ["4294967295", "0:4294967295", "+1"] {
        let line = sandbox.vcgroupfs(&["explain", &pid, "--as", who, "lookup", "/"]).fails(2);
        assert!(line.contains("isn't the number of a user or group"), "{who}: {line}");
    }
    drop(process);
    sandbox.is_clean();
}

/// unlink(2) and rmdir(2) ask for the mount before they look for the last name, mkdir(2) after.
#[test]
fn a_read_only_mount_is_told_of_as_it_happens() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let directory = sandbox.directory("view");
    let cgroup = format!("unified={}", sandbox.path());
    sandbox.vcgroupfs(&["mount", "--shape", "rooted", "--cgroup", &cgroup, text(&directory)]).ok();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, &directory, None::<&str>, flags, None::<&str>).expect("a remount");
    let tree = sandbox.vcgroupfs(&["tree", "--json", "--files", text(&directory)]).json();
    let children = tree["children"].as_array().expect("children");
    let unified = children.iter().find(|child| child["name"].as_str() == Some("unified"));
    let base = if unified.is_some() { "/unified" } else { "" };
    for operation in ["unlink", "rmdir", "rename", "mkdir", "write", "chmod", "create"] {
        for name in ["", "/nosuch", "/cgroup.procs", "/nosuch/below", "/cgroup.procs/below"] {
            let path = format!("{base}{name}");
            // The root of the mount is a name of the mount above.
            if path.is_empty() {
                continue;
            }
            let explained = sandbox.vcgroupfs(&["explain", "--json", text(&directory), operation, &path]).json();
            let there = PathBuf::from(format!("{}{path}", directory.display()));
            let happened = attempt(operation, &there, std::process::id(), &there).expect_err("a refusal");
            let errno = nix::errno::Errno::from_raw(happened.raw_os_error().unwrap_or(0));
            assert_eq!(explained["errno"].as_str(), Some(&*format!("{errno:?}")), "{operation} {path}: {explained}");
        }
    }
    sandbox.vcgroupfs(&["umount", text(&directory)]).ok();
    sandbox.is_clean();
}
