//! Clients read the same numbers after `attach` as before, and `doctor` says which.
//!
//! Real containers ([`containers`]), with limits on themselves or on a cgroup above, and real programs in them that read their limits
//! ([`programs`]). Each is asked before the view is attached, while it's there, and after it was detached; beside these stands what `doctor`
//! says that it reads. Everything is printed as one table for each kind of container.
//!
//! What isn't installed is left out, loudly, and missing where `VCGROUPFS_REQUIRE` says so. More kinds and more programs are in a virtual
//! machine: `tests/vm/run --suite readers`.

mod containers;
mod limits;
mod programs;
mod table;

use std::path::PathBuf;
use std::process::Command;

use testkit::{Need, TIMEOUT, require, run_to_end};

use containers::{Kind, Scene};
use limits::{Limits, Where};
use table::{Row, Table};

/// The program under test.
fn program() -> PathBuf {
    std::env::var_os("VCGROUPFS_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_vcgroupfs").into(), PathBuf::from)
}

/// Runs a verb on a container; what it printed.
fn vcgroupfs(arguments: &[&str], pid: i32) -> String {
    let mut command = Command::new(program());
    command.args(arguments).arg(pid.to_string());
    let output = run_to_end(&mut command, TIMEOUT);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What each client reads, by `doctor`.
fn doctor(pid: i32) -> serde_json::Value {
    serde_json::from_str(&vcgroupfs(&["doctor", "--json"], pid)).expect("JSON")
}

/// Whether the kernel shows this container its own cgroups, on a host with cgroup v2 alone. There a view has no place, since clients only
/// recognise a real cgroup2, and none is needed.
fn has_its_own_cgroups(init: i32) -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/cgroup")).ok();
    containers::is_unified() && namespace(&init.to_string()) != namespace("self")
}

/// Checks that `attach` refuses, as what isn't supported, and says why.
fn is_refused(init: i32) {
    let output = run_to_end(Command::new(program()).arg("attach").arg(init.to_string()), TIMEOUT);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{complaint}");
    assert!(complaint.contains("has a cgroup namespace of its own"), "{complaint}");
}

fn matrix(kind: Kind) {
    let (programs, mut table) = (programs::here(), Table::default());
    for place in [Where::Container, Where::Ancestor, Where::Nowhere] {
        let scene = Scene::start(kind);
        Limits::usual().set(&scene, place);
        let ask = || programs.iter().map(|program| program.ask(&scene)).collect::<Vec<_>>();
        let (before, natively) = (ask(), doctor(scene.init()));
        let needs_none = has_its_own_cgroups(scene.init());
        if needs_none {
            is_refused(scene.init());
        } else {
            vcgroupfs(&["attach"], scene.init());
        }
        let (after, attached) = (ask(), doctor(scene.init()));
        if !needs_none {
            vcgroupfs(&["detach"], scene.init());
        }
        for (program, (before, after)) in programs.iter().zip(before.into_iter().zip(after)) {
            let doctor = [program.expected(&before, &natively), program.expected(&after, &attached)];
            let finds = program.finds(kind, place);
            let (container, limits, program) = (kind.name(), place.name(), program.name);
            let (before, after) = (before.to_string(), after.to_string());
            table.push(Row { container, limits, program, before, after, doctor, finds });
        }
    }
    table.print();
    table.check();
}

/// A container of one's own making, without a manager.
#[test]
fn unshare() {
    require!(Need::Root, Need::Fuse, Need::Program("unshare"), Need::Program("nsenter"));
    matrix(Kind::Unshare);
}

#[test]
fn runc() {
    require!(Need::Root, Need::Fuse, Need::Program("runc"), Need::Program("nsenter"));
    matrix(Kind::Oci { runtime: "runc", cgroup_namespace: false });
}

#[test]
fn runc_with_a_cgroup_namespace() {
    require!(Need::Root, Need::Fuse, Need::Program("runc"), Need::Program("nsenter"));
    matrix(Kind::Oci { runtime: "runc", cgroup_namespace: true });
}

#[test]
#[ignore = "crun wants a host that isn't hybrid: tests/vm/run --suite readers"]
fn crun() {
    require!(Need::Root, Need::Fuse, Need::Program("crun"), Need::Program("nsenter"));
    matrix(Kind::Oci { runtime: "crun", cgroup_namespace: false });
}

#[test]
fn lxc() {
    require!(Need::Root, Need::Fuse, Need::Program("lxc-start"), Need::Program("nsenter"));
    matrix(Kind::Lxc);
}

#[test]
#[ignore = "wants a host with systemd: tests/vm/run --suite readers"]
fn nspawn() {
    require!(Need::Root, Need::Fuse, Need::Program("systemd-nspawn"), Need::Program("nsenter"));
    matrix(Kind::Nspawn);
}

#[test]
#[ignore = "tests/vm/run --suite readers"]
fn podman() {
    require!(Need::Root, Need::Fuse, Need::Program("podman"), Need::Program("nsenter"));
    matrix(Kind::Podman);
}
