//! Controllers and files of cgroup v1.

use serde_json::json;
use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{Case, IntoStep, Where, case};

pub(super) fn cases() -> Vec<Case> {
    let mut all = pids();
    all.extend(freezer());
    all.extend(cpuset());
    all.extend(named());
    all
}

fn pids() -> Vec<Case> {
    vec![
        case(
            "pids-max",
            &[Where::Pids],
            [
                write_file("$CG/pids.max", "5\n").ok(),
                read_file("$CG/pids.max").text("5\n"),
                write_file("$CG/pids.max", "0").ok(),
                write_file("$CG/pids.max", "-1").errno("EINVAL"),
                write_file("$CG/pids.max", "4194305").into_step(),
                write_file("$CG/pids.max", "99999999999999999999").into_step(),
                write_file("$CG/pids.max", "1 2").errno("EINVAL"),
                write_file("$CG/pids.max", " max \n").ok(),
                read_file("$CG/pids.max").text("max\n"),
                read_file("$CG/pids.current").text("0\n"),
                write_file("$CG/pids.current", "0").errno("EINVAL"),
            ],
        )
        .by_owner_too(),
        case(
            "pids-limit-is-hit",
            &[Where::Pids],
            [
                mkdir("$CG/a").ok(),
                write_file("$CG/a/pids.max", "2").ok(),
                write_file("$CG/a/cgroup.procs", "0").ok(),
                read_file("$CG/a/pids.current").ok(),
                thread("T").ok(),
                spawn("C").errno("EAGAIN"),
                read_file("$CG/a/pids.events").ok(),
                write_file("$HOME/cgroup.procs", "0").ok(),
                spawn("D").ok(),
                // A migration isn't refused.
                write_file("$CG/a/cgroup.procs", "$D").ok(),
                write_file("$CG/a/cgroup.procs", "0").ok(),
                read_file("$CG/a/pids.current").text("3\n"),
            ],
        ),
    ]
}

fn freezer() -> Vec<Case> {
    vec![
        case(
            "freezer-states",
            &[Where::Freezer],
            [
                spawn("C").ok(),
                write_file("$CG/cgroup.procs", "$C").ok(),
                write_file("$CG/freezer.state", "FROZEN\n").ok(),
                Op::Await { path: "$CG/freezer.state".into(), text: "FROZEN".into() }.gives(true),
                read_file("$CG/freezer.state").text("FROZEN\n"),
                read_file("$CG/freezer.self_freezing").text("1\n"),
                read_file("$CG/freezer.parent_freezing").text("0\n"),
                mkdir("$CG/a").ok(),
                read_file("$CG/a/freezer.state").text("FROZEN\n"),
                read_file("$CG/a/freezer.parent_freezing").text("1\n"),
                write_file("$CG/a/freezer.state", "THAWED").ok(),
                read_file("$CG/a/freezer.state").text("FROZEN\n"),
                write_file("$CG/freezer.state", "FREEZING").errno("EINVAL"),
                write_file("$CG/freezer.state", "frozen").errno("EINVAL"),
                write_file("$CG/freezer.state", "").gives(0),
                write_file("$CG/freezer.state", " THAWED ").ok(),
                read_file("$CG/freezer.state").text("THAWED\n"),
                read_file("$CG/a/freezer.state").text("THAWED\n"),
            ],
        )
        .by_owner_too(),
        case(
            "freezer-migration",
            &[Where::Freezer],
            [
                write_file("$CG/freezer.state", "FROZEN").ok(),
                spawn("C").ok(),
                write_file("$CG/cgroup.procs", "$C").ok(),
                Op::Await { path: "$CG/freezer.state".into(), text: "FROZEN".into() }.gives(true),
                write_file("$HOME/cgroup.procs", "$C").into_step(),
                membership("$C").into_step(),
                write_file("$CG/freezer.state", "THAWED").ok(),
                kill("C").ok(),
            ],
        ),
    ]
}

fn cpuset() -> Vec<Case> {
    let many = vec!["0"; 2500].join(",");
    vec![
        case(
            "cpuset-empty",
            &[Where::Cpuset],
            [
                write_file("$CG/cgroup.clone_children", "0").ok(),
                mkdir("$CG/a").ok(),
                read_file("$CG/a/cpuset.cpus").text("\n"),
                read_file("$CG/a/cpuset.mems").text("\n"),
                write_file("$CG/a/cgroup.procs", "0").errno("ENOSPC"),
                write_file("$CG/a/tasks", "0").errno("ENOSPC"),
                write_file("$CG/a/cpuset.cpus", "0").ok(),
                write_file("$CG/a/cgroup.procs", "0").errno("ENOSPC"),
                write_file("$CG/a/cpuset.mems", "0").ok(),
                write_file("$CG/a/cgroup.procs", "0").ok(),
                write_file("$CG/a/cpuset.cpus", "\n").errno("ENOSPC"),
                write_file("$HOME/cgroup.procs", "0").ok(),
                write_file("$CG/a/cpuset.cpus", "\n").ok(),
                read_file("$CG/a/cpuset.cpus").text("\n"),
            ],
        ),
        case(
            "cpuset-values",
            &[Where::Cpuset],
            [
                read_file("$CG/cpuset.cpus").ok(),
                read_file("$CG/cpuset.effective_cpus").ok(),
                write_file("$CG/cpuset.cpus", "nonsense").errno("EINVAL"),
                write_file("$CG/cpuset.cpus", "0-").errno("EINVAL"),
                write_file("$CG/cpuset.cpus", "1048576").into_step(),
                write_file("$CG/cpuset.mems", "1023").into_step(),
                write_file("$CG/cpuset.mems", "nonsense").errno("EINVAL"),
                write_file("$CG/cpuset.cpu_exclusive", "2").into_step(),
                write_file("$CG/cpuset.cpu_exclusive", "x").errno("EINVAL"),
                write_file("$CG/cpuset.sched_load_balance", "0").ok(),
                read_file("$CG/cpuset.sched_load_balance").text("0\n"),
                write_file("$CG/cpuset.sched_relax_domain_level", "-1").ok(),
                write_file("$CG/cpuset.sched_relax_domain_level", "99").errno("EINVAL"),
                write_file("$CG/cpuset.memory_pressure", "0").into_step(),
                mkdir("$CG/a").ok(),
                read_file("$CG/a/cgroup.clone_children").text("1\n"),
                write_file("$CG/a/cpuset.cpus", "0").ok(),
                write_file("$CG/a/cpuset.mem_exclusive", "1").into_step(),
                write_file("$CG/a/cpuset.cpu_exclusive", "1").into_step(),
            ],
        )
        .by_owner_too(),
        // The file has a limit of its own, which depends on the greatest number of CPUs.
        case(
            "cpuset-long-lists",
            &[Where::Cpuset],
            [
                write_file("$CG/cpuset.cpus", &many).into_step(),
                write_file("$CG/cpuset.mems", &many).into_step(),
                write_file("$CG/cpuset.cpus", &"0,".repeat(1000)).into_step(),
                write_file("$CG/cpuset.cpus", &"0,".repeat(300_000)).errno("E2BIG"),
                write_file("$CG/cpuset.memory_migrate", &" ".repeat(4097)).errno("E2BIG"),
                read_file("$CG/cpuset.cpus").ok(),
            ],
        ),
    ]
}

fn named() -> Vec<Case> {
    vec![
        case(
            "notify-on-release",
            &[Where::Systemd],
            [
                write_file("$CG/notify_on_release", "1").ok(),
                mkdir("$CG/a").ok(),
                read_file("$CG/a/notify_on_release").text("1\n"),
                write_file("$CG/a/notify_on_release", "0\n").ok(),
                read_file("$CG/a/notify_on_release").text("0\n"),
                write_file("$CG/a/notify_on_release", "2").ok(),
                read_file("$CG/a/notify_on_release").text("1\n"),
                write_file("$CG/a/notify_on_release", "-1").errno("EINVAL"),
                write_file("$CG/a/notify_on_release", "x").errno("EINVAL"),
                write_file("$CG/a/notify_on_release", "0").ok(),
                write_file("$CG/notify_on_release", "0").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "clone-children",
            &[Where::Systemd, Where::Cpuset],
            [
                write_file("$CG/cgroup.clone_children", "1").ok(),
                mkdir("$CG/a").ok(),
                read_file("$CG/a/cgroup.clone_children").text("1\n"),
                write_file("$CG/a/cgroup.clone_children", "0").ok(),
                mkdir("$CG/a/b").ok(),
                read_file("$CG/a/b/cgroup.clone_children").text("0\n"),
                write_file("$CG/cgroup.clone_children", "x").errno("EINVAL"),
            ],
        )
        .by_owner_too(),
        case(
            "all-files-of-a-named-hierarchy",
            &[Where::Systemd],
            [
                readdir("$CG").gives(json!([
                    "cgroup.clone_children file",
                    "cgroup.procs file",
                    "notify_on_release file",
                    "tasks file"
                ])),
                stat("$CG/notify_on_release").ok(),
                stat("$CG/cgroup.clone_children").ok(),
                stat("$CG/tasks").ok(),
            ],
        ),
    ]
}
