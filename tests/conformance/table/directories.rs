//! Cgroups as directories.

use serde_json::json;
use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{ALL, Case, IntoStep, NAMED, Where, case};

pub(super) fn cases() -> Vec<Case> {
    let long = |length: usize| format!("$CG/{}", "n".repeat(length));
    let flagged =
        |from: &str, to: &str, flag: &str| Op::Rename { from: from.into(), to: to.into(), flags: vec![flag.into()] };
    vec![
        case(
            "mkdir-names",
            ALL,
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/a").errno("EEXIST"),
                mkdir("$CG/cgroup.procs").errno("EEXIST"),
                mkdir("$CG/a\nb").errno("EINVAL"),
                mkdir("$CG/\n").errno("EINVAL"),
                mkdir(&long(255)).ok(),
                // kernfs has no limit of its own.
                mkdir(&long(256)).ok(),
                mkdir(&long(1000)).ok(),
                mkdir(&long(5000)).errno("ENAMETOOLONG"),
                mkdir("$CG/none/a").errno("ENOENT"),
                mkdir("$CG/.").errno("EEXIST"),
                mkdir("$CG/..").errno("EEXIST"),
                mkdir("$CG/a b\t:=,é").ok(),
                mkdir("$CG/.hidden").ok(),
                mkdir("$CG/cgroup.nonsense").ok(),
                mkdir("$CG/a/").errno("EEXIST"),
                mkdir("$CG/b/").ok(),
                readdir("$CG").ok(),
                readdir("$CG/a b\t:=,é").ok(),
                readdir("$CG/none").errno("ENOENT"),
            ],
        )
        .by_owner_too(),
        case(
            "mkdir-mode",
            ALL,
            [
                Op::Mkdir { path: "$CG/a".into(), mode: 0o777 }.ok(),
                stat("$CG/a").ok(),
                Op::Umask { mask: 0o077 }.ok(),
                Op::Mkdir { path: "$CG/b".into(), mode: 0o777 }.ok(),
                stat("$CG/b").ok(),
                stat("$CG/b/cgroup.procs").ok(),
                Op::Umask { mask: 0 }.ok(),
                Op::Mkdir { path: "$CG/c".into(), mode: 0o1711 }.ok(),
                stat("$CG/c").ok(),
                Op::Mkdir { path: "$CG/d".into(), mode: 0 }.ok(),
                stat("$CG/d").ok(),
                readdir("$CG/d").ok(),
                stat("$CG").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "rmdir",
            ALL,
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/a/b").ok(),
                rmdir("$CG/a").errno("EBUSY"),
                rmdir("$CG/a/b").ok(),
                rmdir("$CG/a/b").errno("ENOENT"),
                rmdir("$CG/a/.").errno("EINVAL"),
                rmdir("$CG/a/..").errno("ENOTEMPTY"),
                rmdir("$CG/a").ok(),
                rmdir("$CG/a").errno("ENOENT"),
                mkdir("$CG/a").ok(),
                readdir("$CG/a").ok(),
                Op::Sees { dir: "$CG".into(), name: "a".into() }.gives(true),
                rmdir("$CG/a").ok(),
                Op::Sees { dir: "$CG".into(), name: "a".into() }.gives(false),
            ],
        )
        .by_owner_too(),
        case(
            "rmdir-populated",
            ALL,
            [
                mkdir("$CG/a").ok(),
                spawn("C").ok(),
                write_file("$CG/a/cgroup.procs", "$C").ok(),
                rmdir("$CG/a").errno("EBUSY"),
                read_file("$CG/a/cgroup.procs")
                    .gives(json!({"lines": ["C"], "sorted": true, "ends with a newline": true})),
                kill("C").ok(),
                rmdir("$CG/a").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "rename-v1",
            NAMED,
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/a/below").ok(),
                rename("$CG/a", "$CG/b").ok(),
                stat("$CG/a").errno("ENOENT"),
                readdir("$CG/b").ok(),
                rename("$CG/a", "$CG/c").errno("ENOENT"),
                rename("$CG/b", "$CG/b").ok(),
                mkdir("$CG/c").ok(),
                rename("$CG/b", "$CG/c").into_step(),
                rename("$CG/b", "$CG/c/b").errno("EIO"),
                rename("$CG/b", "$CG/x\ny").errno("EINVAL"),
                rename("$CG/b", "$CG/b/below/c").errno("EINVAL"),
                rename("$CG/b", "$CG/cgroup.procs").errno("ENOTDIR"),
                rename("$CG/cgroup.procs", "$CG/x").errno("ENOTDIR"),
                rename("$CG/cgroup.procs", "$CG/b").errno("EISDIR"),
                flagged("$CG/b", "$CG/x", "noreplace").errno("EINVAL"),
                flagged("$CG/b", "$CG/c", "noreplace").errno("EEXIST"),
                flagged("$CG/b", "$CG/c", "exchange").errno("EINVAL"),
                flagged("$CG/b", "$CG/x", "exchange").errno("ENOENT"),
                flagged("$CG/b", "$CG/x", "whiteout").errno("EINVAL"),
                rename("$CG/b", &long(255)).ok(),
                rename(&long(255), &long(256)).ok(),
                readdir("$CG").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "rename-keeps-members",
            NAMED,
            [
                mkdir("$CG/a").ok(),
                spawn("C").ok(),
                write_file("$CG/a/cgroup.procs", "$C").ok(),
                open("list", "$CG/a/cgroup.procs", &["O_RDONLY"]).ok(),
                rename("$CG/a", "$CG/b").ok(),
                membership("$C").gives("/rename-keeps-members/b"),
                read_file("$CG/b/cgroup.procs").ok(),
                read_file("$CG/a/cgroup.procs").errno("ENOENT"),
                pread("list", 100, 0).id("handle of a renamed cgroup").ok(),
                rmdir("$CG/b").errno("EBUSY"),
            ],
        ),
        case(
            "rename-v2",
            &[Where::V2],
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/c").ok(),
                rename("$CG/a", "$CG/b").errno("EPERM"),
                rename("$CG/a", "$CG/c/b").errno("EPERM"),
                rename("$CG/a", "$CG/a").ok(),
                rename("$CG/none", "$CG/b").errno("ENOENT"),
                rename("$CG/cgroup.procs", "$CG/x").errno("EPERM"),
                rename("$CG/a", "$CG/c").into_step(),
                flagged("$CG/a", "$CG/x", "noreplace").errno("EINVAL"),
            ],
        )
        .by_owner_too(),
        case(
            "names-of-directories",
            ALL,
            [readdir("$CG").ok(), mkdir("$CG/a").ok(), readdir("$CG").ok(), readdir("$CG/a").ok()],
        ),
        case(
            "removed-and-made-again",
            ALL,
            [
                mkdir("$CG/a").ok(),
                write_file("$CG/a/$FILE", "$OTHER").ok(),
                read_file("$CG/a/$FILE").text("$CONTENT"),
                write_file("$CG/a/$FILE", "$INITIAL").ok(),
                write_file("$CG/a/$FILE", "$OTHER").ok(),
                rmdir("$CG/a").ok(),
                read_file("$CG/a/$FILE").errno("ENOENT"),
                mkdir("$CG/a").ok(),
                read_file("$CG/a/$FILE").text("$INITIAL"),
            ],
        ),
        case(
            "mkdir-by-another-user",
            ALL,
            [
                Op::Chmod { path: "$CG".into(), mode: 0o777 }.ok(),
                Op::Setegid { gid: 12346 }.ok(),
                seteuid(12345).ok(),
                mkdir("$CG/a").ok(),
                stat("$CG/a").ok(),
                stat("$CG/a/cgroup.procs")
                    .gives(json!({"type": "file", "mode": "0644", "uid": 12345, "gid": 12346, "size": 0, "nlink": 1})),
                mkdir("$UP/other").errno("EACCES"),
                rmdir("$HOME").errno("EACCES"),
                seteuid(0).ok(),
                rmdir("$CG/a").ok(),
            ],
        ),
    ]
}
