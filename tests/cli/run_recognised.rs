//! A program that `run --stack` starts recognises its cgroups as in a container that has its view by `attach`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use testkit::{Need, Programs, hierarchies, hierarchy, require};

use crate::run::command;
use crate::run_ends::processes_of;
use crate::support::{Running, Sandbox, said, wait_until};

/// Each has to find its limits.
const READERS: [&str; 4] = ["JVM (hotspot) 8u372 to 21", "Go automaxprocs", "Go >= 1.25", ".NET 8"];

/// The same command, with the system calls of kernels before Linux 5.2.
fn on_an_old_kernel(sandbox: &Sandbox, command: &Command) -> Command {
    let mut old = sandbox.command_of(&Programs::find().legacy);
    old.arg(command.get_program()).args(command.get_args());
    old
}

/// The same command where cgroup2 lies on `/sys/fs/cgroup`, and no other hierarchy is to be found.
fn on_a_unified_host(sandbox: &Sandbox, command: &Command) -> Command {
    let mut unified = sandbox.command_of("unshare");
    let script = r#"mount --bind "$0" /sys/fs/cgroup && exec "$@""#;
    unified.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    unified.arg(hierarchy("unified").expect("cgroup2").mountpoint).arg(command.get_program()).args(command.get_args());
    unified
}

/// What clients do: a mount of the hierarchy, whose root is a part of what `/proc/self/cgroup` says; the rest of that is below the mount
/// point, and there's the process.
const AS_CLIENTS_DO: &str = r#"
    for line in $(cat /proc/self/cgroup); do
        path=${line#*:}; list=${path%%:*}; path=${path#*:}
        case "$list" in "") type=cgroup2; option=rw ;; *) type=cgroup; option=$list ;; esac
        mount=$(grep " - $type .*[ ,]$option\$" /proc/self/mountinfo | cut -d ' ' -f 4,5,6)
        set -- $mount
        [ $# = 3 ] || { echo "$list: mounts: $mount"; continue; }
        case "$3" in ro,*) ;; *) echo "$list: writable: $mount" ;; esac
        case "$path/" in "${1%/}"/*) below=${path#"${1%/}"} ;; *) echo "$list: no $path in $mount"; continue ;; esac
        grep -qx $$ "$2$below/cgroup.procs" && echo "$list: found"
    done
"#;

#[test]
fn mountinfo_and_proc_self_cgroup_lead_to_the_own_cgroup() {
    require!(Need::Root, Need::Fuse, Need::LegacySyscalls, Need::Hierarchy("name=systemd"));
    let sandbox = Sandbox::everywhere();
    let names = hierarchies().into_iter().map(|hierarchy| hierarchy.selector());
    let found = names.map(|name| format!("{}: found", if name == "unified" { "" } else { &name }));
    let mut found: Vec<String> = found.collect();
    found.sort_unstable();
    for shape in ["host-path", "rooted", "full"] {
        let mut new = command(&sandbox, "child", &["--stack", "--shape", shape], &["sh", "-c", AS_CLIENTS_DO]);
        let old = on_an_old_kernel(&sandbox, &new);
        for command in [&mut new, &mut { old }] {
            let told = said(command).ok();
            let mut lines: Vec<&str> = told.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, found, "{shape}, {command:?}");
        }
    }
    sandbox.is_clean();
}

fn doctor(command: &mut Command) -> BTreeMap<String, String> {
    let answer = said(command).json();
    let clients = answer["clients"].as_array().expect("clients").iter();
    let word = |value: &serde_json::Value| value.as_str().expect("a word").to_owned();
    clients.map(|client| (word(&client["client"]), word(&client["recognised"]))).collect()
}

#[test]
fn doctor_recognises_the_stack_of_run() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::LegacySyscalls,
        Need::Hierarchy("memory"),
        Need::Hierarchy("cpu"),
        Need::Hierarchy("cpuset"),
        Need::Hierarchy("cpuacct")
    );
    let sandbox = Sandbox::everywhere();
    let program = crate::support::program().display().to_string();
    for options in [&["--stack"][..], &["--stack", "--shape", "rooted"], &["--stack", "--policy", "delegate"]] {
        let mut new = command(&sandbox, "child", options, &[&program, "doctor", "--json"]);
        let old = on_an_old_kernel(&sandbox, &new);
        for command in [&mut new, &mut { old }] {
            let clients = doctor(command);
            for reader in READERS {
                assert_eq!(clients[reader], "yes", "{reader}, {command:?}");
            }
        }
    }
    sandbox.is_clean();
}

/// As with `attach`: by a real cgroup2, read-only and empty.
#[test]
fn run_stack_works_on_unified_hosts() {
    require!(Need::Root, Need::Fuse, Need::LegacySyscalls, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let program = crate::support::program().display().to_string();
    let script = format!(
        r#"readlink /proc/self/ns/mnt; stat -f -c %T /sys/fs/cgroup; own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); stat -f -c %T $own
           mkdir $own/x && rmdir $own/x && ls -d /sys/fs/cgroup/*/ && mkdir /sys/fs/cgroup/y 2>/dev/null || echo refused
           {program} doctor --json"#
    );
    let new = command(&sandbox, "child", &["--stack"], &["sh", "-c", &script]);
    for old in [false, true] {
        let unified = on_a_unified_host(&sandbox, &new);
        let mut unified = if old { on_an_old_kernel(&sandbox, &unified) } else { unified };
        let told = said(&mut unified).ok();
        let (namespace, told) = told.split_once('\n').unwrap_or_else(|| panic!("{told}"));
        let (seen, answer) = told.rsplit_once("refused\n").unwrap_or_else(|| panic!("{told}"));
        assert_eq!(seen, format!("cgroup2fs\nfuseblk\n/sys/fs/cgroup{}/\n", sandbox.path()));
        let answer: serde_json::Value = serde_json::from_str(answer).expect("JSON");
        for client in answer["clients"].as_array().expect("clients") {
            if ["systemd 236-255", "containerd", "shell scripts"].map(Some).contains(&client["client"].as_str()) {
                assert_eq!(client["recognised"], "yes", "{client}");
            }
        }
        assert!(!sentinel(namespace).exists());
    }
    let mut rooted =
        on_a_unified_host(&sandbox, &command(&sandbox, "child", &["--stack", "--shape", "rooted"], &["true"]));
    assert!(said(&mut rooted).fails(3).contains("--stack can't be used with another shape"));
    sandbox.is_clean();
}

/// The sentinel of a run in this mount namespace, as a link of procfs names that. Other tests have theirs.
fn sentinel(namespace: &str) -> PathBuf {
    let number =
        namespace.strip_prefix("mnt:[").and_then(|number| number.strip_suffix(']')).expect("a mount namespace");
    hierarchy("unified").expect("cgroup2").mountpoint.join(format!("vcgroupfs-sentinel-{number}"))
}

#[test]
fn a_killed_server_leaves_no_sentinel() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let inside = command(&sandbox, "child", &["--stack"], &["sh", "-c", "echo ready; exec sleep 1000"]);
    let mut child = Running::start(&mut on_a_unified_host(&sandbox, &inside));
    assert_eq!(child.line(), "ready");
    let server = processes_of(&sandbox, "child");
    // The supervisor waits in the command's mount namespace.
    let namespace = std::fs::read_link(format!("/proc/{}/ns/mnt", child.child.id())).expect("a namespace");
    let sentinel = sentinel(&namespace.display().to_string());
    assert!(sentinel.exists(), "{}", sentinel.display());
    server.kill();
    child.signal(Signal::SIGTERM);
    child.wait();
    wait_until("the sentinel's removal", || !sentinel.exists());
    sandbox.vcgroupfs(&["list", "--json"]).json();
    sandbox.is_clean();
}

/// What is made on the way changes the process that becomes the command.
#[test]
fn directory_and_umask_are_the_callers() {
    require!(Need::Root, Need::Fuse, Need::LegacySyscalls, Need::Hierarchy("name=systemd"));
    let sandbox = Sandbox::everywhere();
    let directory = sandbox.directory("here");
    for old in [false, true] {
        let inside = command(&sandbox, "child", &["--stack"], &["sh", "-c", "pwd -P; umask"]);
        let mut shell = sandbox.command_of("sh");
        shell.current_dir(&directory).args(["-c", "umask 0037; exec \"$@\"", "sh"]);
        let inside = if old { on_an_old_kernel(&sandbox, &inside) } else { inside };
        shell.arg(inside.get_program()).args(inside.get_args());
        assert_eq!(said(&mut shell).ok(), format!("{}\n0037\n", directory.display()));
    }
    sandbox.is_clean();
}

#[test]
fn cgroups_are_prepared_as_by_attach() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("cpuset"), Need::Hierarchy("name=systemd"));
    let sandbox = Sandbox::everywhere();
    let options = ["--stack", "--policy", "delegate", "--delegate-controllers", "cpuset", "--alias", "docker"];
    let script = r#"
        cd /sys/fs/cgroup/cpuset/docker && mkdir c1 && test -n "$(cat c1/cpuset.cpus)" && echo usable
        test -d /sys/fs/cgroup/systemd/docker && echo there"#;
    assert_eq!(said(&mut command(&sandbox, "child", &options, &["sh", "-c", script])).ok(), "usable\nthere\n");
    sandbox.is_clean();
}
