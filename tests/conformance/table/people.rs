//! Users: who opened and who writes, and who may do what.

use serde_json::json;
use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{ALL, Case, IntoStep, V1, Where, case};

/// Somebody who isn't root.
const USER: u32 = 12345;

/// Somebody else.
const OTHER: u32 = 23456;

pub(super) fn cases() -> Vec<Case> {
    let as_user = |name: &str, uid| Op::Spawn { name: name.into(), uid: Some(uid) };
    vec![
        // CVE-2021-4197: the credentials are the opener's.
        case(
            "opened-by-a-user-written-by-root",
            ALL,
            [
                chown("$CG/cgroup.procs", USER).ok(),
                seteuid(USER).ok(),
                open("f", "$CG/cgroup.procs", &["O_RDWR"]).ok(),
                seteuid(0).ok(),
                write("f", "0").errno("EACCES"),
                write("f", "$PID").errno("EACCES"),
                write("f", "").gives(0),
                write("f", "nonsense").errno("EINVAL"),
                write("f", "2147483647").errno("ESRCH"),
                membership("$PID").gives("/home"),
                write_file("$CG/cgroup.procs", "0").ok(),
            ],
        ),
        case(
            "opened-by-root-written-by-a-user",
            ALL,
            [
                open("f", "$CG/cgroup.procs", &["O_RDWR"]).ok(),
                spawn("C").ok(),
                seteuid(USER).ok(),
                write("f", "0").ok(),
                membership("$PID").gives("/opened-by-root-written-by-a-user"),
                write("f", "$C").ok(),
                read_file("$CG/cgroup.procs").ok(),
                open("g", "$CG/cgroup.procs", &["O_WRONLY"]).errno("EACCES"),
            ],
        ),
        // The rule of v1: the opener is root, or the effective user of the opener is the target's user or saved user.
        case(
            "users-v1",
            V1,
            [
                as_user("MINE", USER).ok(),
                as_user("THEIRS", OTHER).ok(),
                spawn("ROOTS").ok(),
                chown("$CG/cgroup.procs", USER).ok(),
                chown("$CG/tasks", USER).ok(),
                seteuid(USER).ok(),
                write_file("$CG/cgroup.procs", "$MINE").ok(),
                write_file("$CG/cgroup.procs", "$THEIRS").errno("EACCES"),
                write_file("$CG/cgroup.procs", "$ROOTS").errno("EACCES"),
                write_file("$CG/tasks", "$THEIRS").errno("EACCES"),
                write_file("$CG/tasks", "$MINE").ok(),
                write_file("$HOME/cgroup.procs", "$MINE").errno("EACCES"),
                membership("$MINE").gives("/users-v1"),
                membership("$THEIRS").gives("/home"),
                membership("$ROOTS").gives("/home"),
                seteuid(0).ok(),
                write_file("$CG/cgroup.procs", "$THEIRS").ok(),
                membership("$THEIRS").gives("/users-v1"),
            ],
        ),
        // The rule of v2: `cgroup.procs` of the common ancestor is writable for the opener.
        case(
            "users-v2",
            &[Where::V2],
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/b").ok(),
                as_user("THEIRS", OTHER).ok(),
                write_file("$CG/a/cgroup.procs", "$THEIRS").ok(),
                chown("$CG/a/cgroup.procs", USER).ok(),
                chown("$CG/b/cgroup.procs", USER).ok(),
                seteuid(USER).ok(),
                write_file("$CG/b/cgroup.procs", "$THEIRS").errno("EACCES"),
                seteuid(0).ok(),
                chown("$CG/cgroup.procs", USER).ok(),
                seteuid(USER).ok(),
                write_file("$CG/b/cgroup.procs", "$THEIRS").ok(),
                membership("$THEIRS").gives("/users-v2/b"),
                write_file("$CG/b/cgroup.procs", "0").errno("EACCES"),
                membership("$PID").gives("/home"),
            ],
        ),
        case(
            "ancestor-is-checked-with-the-openers-mode",
            &[Where::V2],
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/b").ok(),
                spawn("C").ok(),
                write_file("$CG/a/cgroup.procs", "$C").ok(),
                chmod("$CG/cgroup.procs", 0o444).ok(),
                write_file("$CG/b/cgroup.procs", "$C").ok(),
                chown("$CG/cgroup.procs", USER).ok(),
                chown("$CG/a/cgroup.procs", USER).ok(),
                seteuid(USER).ok(),
                write_file("$CG/a/cgroup.procs", "$C").errno("EACCES"),
                seteuid(0).ok(),
                chmod("$CG/cgroup.procs", 0o666).ok(),
                chmod("$CG/a/cgroup.procs", 0o666).ok(),
                seteuid(OTHER).ok(),
                write_file("$CG/a/cgroup.procs", "$C").ok(),
            ],
        ),
        case(
            "a-stranger",
            ALL,
            [
                mkdir("$CG/a").ok(),
                seteuid(OTHER).ok(),
                read_file("$CG/cgroup.procs").ok(),
                read_file("$CG/$FILE").text("$INITIAL"),
                write_file("$CG/cgroup.procs", "0").errno("EACCES"),
                write_file("$CG/$FILE", "$OTHER").errno("EACCES"),
                open("f", "$CG/cgroup.procs", &["O_RDWR"]).errno("EACCES"),
                mkdir("$CG/b").errno("EACCES"),
                rmdir("$CG/a").errno("EACCES"),
                Op::Creat { path: "$CG/x".into(), mode: 0o644 }.errno("EACCES"),
                Op::Unlink { path: "$CG/cgroup.procs".into() }.errno("EACCES"),
                Op::Mknod { path: "$CG/x".into(), kind: "fifo".into() }.errno("EACCES"),
                Op::Symlink { target: "x".into(), path: "$CG/x".into() }.errno("EACCES"),
                rename("$CG/a", "$CG/b").errno("EACCES"),
                chmod("$CG/cgroup.procs", 0o666).errno("EPERM"),
                chmod("$CG", 0o777).errno("EPERM"),
                chown("$CG/cgroup.procs", OTHER).errno("EPERM"),
                Op::Truncate { path: "$CG/$FILE".into(), len: 0 }.errno("EACCES"),
                Op::Utimens { path: "$CG/$FILE".into(), sec: Some(1) }.errno("EPERM"),
                Op::Setxattr { path: "$CG".into(), name: "user.a".into(), value: "x".into() }.errno("EACCES"),
                Op::Setxattr { path: "$CG".into(), name: "trusted.a".into(), value: "x".into() }.errno("EPERM"),
                Op::Getxattr { path: "$CG".into(), name: "user.a".into() }.errno("ENODATA"),
                Op::Access { path: "$CG/cgroup.procs".into(), mode: "w".into() }.errno("EACCES"),
                Op::Access { path: "$CG/cgroup.procs".into(), mode: "r".into() }.ok(),
                Op::Access { path: "$CG".into(), mode: "w".into() }.errno("EACCES"),
                stat("$CG/cgroup.procs").ok(),
                readdir("$CG").ok(),
            ],
        ),
        case(
            "a-locked-directory",
            ALL,
            [
                mkdir("$CG/a").ok(),
                chmod("$CG/a", 0o700).ok(),
                seteuid(USER).ok(),
                readdir("$CG/a").errno("EACCES"),
                stat("$CG/a").ok(),
                stat("$CG/a/cgroup.procs").errno("EACCES"),
                read_file("$CG/a/cgroup.procs").errno("EACCES"),
                seteuid(0).ok(),
                chmod("$CG/a", 0o711).ok(),
                seteuid(USER).ok(),
                readdir("$CG/a").errno("EACCES"),
                read_file("$CG/a/cgroup.procs").ok(),
            ],
        ),
        case(
            "gifts",
            ALL,
            [
                chown("$CG", USER).ok(),
                Op::Setegid { gid: USER }.ok(),
                seteuid(USER).ok(),
                mkdir("$CG/a").ok(),
                stat("$CG/a").ok(),
                stat("$CG/a/$FILE")
                    .gives(json!({"type": "file", "mode": "0644", "uid": USER, "gid": USER, "size": 0, "nlink": 1})),
                write_file("$CG/a/$FILE", "$OTHER").ok(),
                write_file("$CG/$FILE", "$OTHER").errno("EACCES"),
                chmod("$CG/a/$FILE", 0o600).ok(),
                chown("$CG/a/$FILE", OTHER).errno("EPERM"),
                Op::Chown { path: "$CG/a/$FILE".into(), uid: None, gid: Some(USER) }.ok(),
                Op::Setxattr { path: "$CG/a".into(), name: "user.a".into(), value: "x".into() }.ok(),
                Op::Setxattr { path: "$CG/a".into(), name: "trusted.a".into(), value: "x".into() }.errno("EPERM"),
                rmdir("$CG/a").ok(),
            ],
        ),
    ]
}
