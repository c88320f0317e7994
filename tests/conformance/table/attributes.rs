//! Modes, owners, times and extended attributes.

use serde_json::json;
use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{ALL, Case, IntoStep, NAMED, Step, WITH_READ_ONLY, case};

pub(super) fn cases() -> Vec<Case> {
    let owner_modes = json!({"type": "file", "mode": "0600", "uid": 0, "gid": 0, "size": 0, "nlink": 1});
    vec![
        case(
            "stat",
            ALL,
            [
                stat("$CG").ok(),
                stat("$CG/cgroup.procs")
                    .gives(json!({"type": "file", "mode": "0644", "uid": 0, "gid": 0, "size": 0, "nlink": 1})),
                stat("$CG/$TASKS").ok(),
                stat("$CG/$FILE").ok(),
                stat("$CG/none").errno("ENOENT"),
                stat("$CG/cgroup.procs/none").errno("ENOTDIR"),
                stat("$CG/..").ok(),
                stat("$CG/.").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "stat-read-only",
            WITH_READ_ONLY,
            [stat("$CG/$RO").gives(json!({"type": "file", "mode": "0444", "uid": 0, "gid": 0, "size": 0, "nlink": 1}))],
        ),
        case(
            "access",
            ALL,
            [
                Op::Access { path: "$CG".into(), mode: "rwx".into() }.ok(),
                Op::Access { path: "$CG/cgroup.procs".into(), mode: "rw".into() }.ok(),
                Op::Access { path: "$CG/cgroup.procs".into(), mode: "x".into() }.errno("EACCES"),
                Op::Access { path: "$CG/$FILE".into(), mode: "w".into() }.ok(),
                Op::Access { path: "$CG/$TASKS".into(), mode: "r".into() }.ok(),
                Op::Access { path: "$CG/none".into(), mode: String::new() }.errno("ENOENT"),
            ],
        )
        .by_owner_too(),
        case(
            "chmod",
            ALL,
            [
                chmod("$CG/cgroup.procs", 0o600).ok(),
                stat("$CG/cgroup.procs").gives(owner_modes),
                chmod("$CG/cgroup.procs", 0o444).ok(),
                write_file("$CG/cgroup.procs", "nonsense").errno("EINVAL"),
                chmod("$CG", 0o700).ok(),
                stat("$CG").ok(),
                chmod("$CG", 0o1777).ok(),
                stat("$CG").ok(),
                chmod("$CG/none", 0o700).errno("ENOENT"),
            ],
        ),
        // For an owner too: a mode without write bits keeps the owner out, but not root.
        case(
            "chmod-locks-out",
            ALL,
            [
                chmod("$CG/cgroup.procs", 0o444).ok(),
                write_file("$CG/cgroup.procs", "nonsense").errno("EINVAL"),
                chmod("$CG/cgroup.procs", 0o644).ok(),
                chmod("$CG", 0o555).ok(),
                mkdir("$CG/a").ok(),
                rmdir("$CG/a").into_step(),
            ],
        )
        .by_owner_too(),
        case(
            "chown",
            ALL,
            [
                chown("$CG/cgroup.procs", 12345).ok(),
                stat("$CG/cgroup.procs")
                    .gives(json!({"type": "file", "mode": "0644", "uid": 12345, "gid": 12345, "size": 0, "nlink": 1})),
                Op::Chown { path: "$CG/cgroup.procs".into(), uid: None, gid: Some(7) }.ok(),
                stat("$CG/cgroup.procs").ok(),
                chown("$CG", 12345).ok(),
                stat("$CG").ok(),
                mkdir("$CG/a").ok(),
                stat("$CG/a").ok(),
                stat("$CG/a/cgroup.procs")
                    .gives(json!({"type": "file", "mode": "0644", "uid": 0, "gid": 0, "size": 0, "nlink": 1})),
            ],
        )
        .by_owner_too(),
        case(
            "times",
            ALL,
            [
                Op::Utimens { path: "$CG/cgroup.procs".into(), sec: Some(1_000_000_000) }.ok(),
                Op::Utimens { path: "$CG".into(), sec: None }.ok(),
                Op::Utimens { path: "$CG/none".into(), sec: None }.errno("ENOENT"),
            ],
        )
        .by_owner_too(),
        case("xattr", ALL, xattrs()).by_owner_too(),
        case(
            "xattr-of-a-file",
            ALL,
            [
                Op::Getxattr { path: "$CG/cgroup.procs".into(), name: "user.a".into() }.errno("ENODATA"),
                Op::Listxattr { path: "$CG/cgroup.procs".into() }.gives(json!([])),
                Op::Removexattr { path: "$CG/cgroup.procs".into(), name: "user.a".into() }.id("remove"),
                Op::Setxattr { path: "$CG/cgroup.procs".into(), name: "user.a".into(), value: "1".into() }.id("set"),
            ],
        )
        .by_owner_too(),
        case(
            "xattr-survives-rename",
            NAMED,
            [
                mkdir("$CG/a").ok(),
                Op::Setxattr { path: "$CG/a".into(), name: "user.a".into(), value: "1".into() }.ok(),
                rename("$CG/a", "$CG/b").ok(),
                Op::Getxattr { path: "$CG/b".into(), name: "user.a".into() }.text("1"),
            ],
        ),
    ]
}

fn xattrs() -> Vec<Step> {
    let path = "$CG";
    let set = |name: &str, value: &str| Op::Setxattr { path: path.into(), name: name.into(), value: value.into() };
    let get = |name: &str| Op::Getxattr { path: path.into(), name: name.into() };
    let remove = |name: &str| Op::Removexattr { path: path.into(), name: name.into() };
    vec![
        get("user.a").errno("ENODATA"),
        set("user.a", "one").ok(),
        set("user.a", "two").ok(),
        get("user.a").text("two"),
        set("user.empty", "").ok(),
        get("user.empty").text(""),
        set("trusted.t", "x").ok(),
        get("trusted.t").text("x"),
        Op::Listxattr { path: path.into() }.gives(json!(["trusted.t", "user.a", "user.empty"])),
        remove("user.a").ok(),
        remove("user.a").errno("ENODATA"),
        remove("trusted.t").ok(),
        set("nonsense.a", "x").errno("EOPNOTSUPP"),
        get("nonsense.a").errno("EOPNOTSUPP"),
        set("system.posix_acl_access", "x").into_step(),
        get("system.posix_acl_access").id("acl"),
    ]
}
