//! Limits: of xattrs, of threaded cgroups, and of cgroups that distribute resources.

use testkit::hierarchy;
use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{ALL, Case, IntoStep, Step, Where, case};

const V2: &[Where] = &[Where::V2];

/// Controllers that don't let a cgroup have both processes and children that they control (cgroup-v2.rst, "No Internal Process
/// Constraint").
const DOMAIN_CONTROLLERS: [&str; 5] = ["memory", "io", "hugetlb", "rdma", "misc"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("xattr-limits", ALL, xattr_limits()).by_owner_too(),
        case(
            "domain-invalid",
            V2,
            [
                thread("T").ok(),
                mkdir("$CG/t").ok(),
                mkdir("$CG/d").ok(),
                write_file("$CG/t/cgroup.type", "threaded").ok(),
                mkdir("$CG/t/x").ok(),
                read_file("$CG/t/x/cgroup.type").text("domain invalid\n"),
                write_file("$CG/t/x/cgroup.threads", "$T").errno("EOPNOTSUPP"),
                write_file("$CG/t/x/cgroup.procs", "0").errno("EOPNOTSUPP"),
                write_file("$CG/d/cgroup.threads", "0").errno("EOPNOTSUPP"),
                read_file("$CG/d/cgroup.procs").into_step(),
                write_file("$CG/d/cgroup.kill", "1").into_step(),
                write_file("$CG/t/cgroup.type", "domain").errno("EINVAL"),
                write_file("$CG/t/x/cgroup.type", "threaded").ok(),
                write_file("$CG/cgroup.procs", "0").ok(),
                write_file("$CG/t/x/cgroup.threads", "$T").ok(),
                membership("$T").gives("/domain-invalid/t/x"),
                rmdir("$CG/t/x").errno("EBUSY"),
                write_file("$CG/cgroup.threads", "$T").ok(),
                rmdir("$CG/t/x").ok(),
                rmdir("$CG/t").ok(),
                // The last threaded cgroup is gone.
                read_file("$CG/cgroup.type").text("domain\n"),
                read_file("$CG/d/cgroup.type").text("domain\n"),
            ],
        )
        .by_owner_too(),
        case("no-internal-processes", V2, no_internal_processes()).by_owner_too(),
    ]
}

fn xattr_limits() -> Vec<Step> {
    let path = "$CG";
    let set = |name: &str, value: &str| Op::Setxattr { path: path.into(), name: name.into(), value: value.into() };
    let remove = |name: &str| Op::Removexattr { path: path.into(), name: name.into() };
    let (long, longer) = (format!("user.{}", "n".repeat(250)), format!("user.{}", "n".repeat(251)));
    let half = "v".repeat(65536);
    let mut steps = vec![
        set("user.", "x").errno("EINVAL"),
        set("user", "x").errno("EOPNOTSUPP"),
        set(&long, "x").ok(),
        set(&longer, "x").errno("ERANGE"),
        remove(&long).ok(),
        set("user.a", &(half.clone() + "v")).errno("E2BIG"),
        set("user.a", &half).ok(),
        Op::Getxattr { path: path.into(), name: "user.a".into() }.ok(),
        // All values of a node have 128 KiB.
        set("user.b", &half).ok(),
        set("user.c", "x").errno("ENOSPC"),
        remove("user.a").ok(),
        set("user.c", "x").ok(),
        remove("user.b").ok(),
        remove("user.c").ok(),
    ];
    // And a node has at most 128.
    steps.extend((0..128).map(|number| set(&format!("user.n{number}"), "").ok()));
    steps.push(set("user.n128", "").errno("ENOSPC"));
    // Not even for one that would be replaced.
    steps.push(set("user.n0", "another").errno("ENOSPC"));
    steps.push(Op::Listxattr { path: path.into() }.ok());
    steps.push(remove("user.n0").ok());
    steps.push(set("user.n128", "").ok());
    steps
}

/// Whether there is such a controller to distribute depends on the machine; where there's none, the kernel says ENOENT.
fn no_internal_processes() -> Vec<Step> {
    let root = hierarchy("unified").map(|unified| unified.mountpoint).unwrap_or_default();
    // A test cgroup is a child of the root.
    let available = std::fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
    let found = DOMAIN_CONTROLLERS.into_iter().find(|name| available.split_whitespace().any(|word| word == *name));
    let (on, off) = (format!("+{}", found.unwrap_or("hugetlb")), format!("-{}", found.unwrap_or("hugetlb")));
    let control = |cgroup: &str, value: &str| write_file(&format!("{cgroup}/cgroup.subtree_control"), value);
    let or = |op: Op, errno: &'static str| if found.is_some() { op.errno(errno) } else { op.into_step() };
    let works = |op: Op| if found.is_some() { op.ok() } else { op.errno("ENOENT") };
    vec![
        mkdir("$CG/a").ok(),
        mkdir("$CG/b").ok(),
        write_file("$CG/cgroup.procs", "0").ok(),
        if found.is_some() { control("$CG", &on).errno("EBUSY") } else { control("$CG", &on).errno("ENOENT") },
        write_file("$CG/a/cgroup.procs", "0").ok(),
        works(control("$CG", &on)),
        readdir("$CG/a").ok(),
        or(write_file("$CG/cgroup.procs", "0"), "EBUSY"),
        or(write_file("$CG/cgroup.procs", "$PID"), "EBUSY"),
        or(write_file("$CG/b/cgroup.type", "threaded"), "EOPNOTSUPP"),
        or(control("$CG/a", &on), "EBUSY"),
        write_file("$HOME/cgroup.procs", "0").ok(),
        control("$CG/a", &on).into_step(),
        or(control("$CG", &off), "EBUSY"),
        control("$CG/a", &off).into_step(),
        control("$CG", &off).into_step(),
        write_file("$CG/cgroup.procs", "0").ok(),
        membership("$PID").gives("/no-internal-processes"),
    ]
}
