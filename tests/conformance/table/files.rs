//! Interface files: kernel behaviour that is kernfs's, not a controller's.

use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{ALL, Case, IntoStep, Step, WITH_READ_ONLY, Where, case};

pub(super) fn cases() -> Vec<Case> {
    let mut all = writes();
    all.extend(reads());
    all.extend(other_calls());
    all
}

fn writes() -> Vec<Case> {
    vec![
        case(
            "write-nothing",
            ALL,
            [
                open("f", "$CG/cgroup.procs", &["O_WRONLY"]).ok(),
                write("f", "").gives(0),
                write_file("$CG/$FILE", "").gives(0),
            ],
        )
        .by_owner_too(),
        case(
            "write-too-long",
            ALL,
            [
                write_file("$CG/cgroup.procs", &"0".repeat(4097)).errno("E2BIG"),
                write_file("$CG/cgroup.procs", &" ".repeat(4096)).errno("EINVAL"),
                write_file("$CG/$FILE", &" ".repeat(4097)).errno("E2BIG"),
                write_file("$CG/cgroup.procs", &"0".repeat(200_000)).errno("E2BIG"),
                write_file("$CG/cgroup.procs", &(" ".repeat(4095) + "0")).gives(4096),
                membership("$PID").gives("/write-too-long"),
            ],
        ),
        case(
            "write-read-only",
            WITH_READ_ONLY,
            [
                read_file("$CG/$RO").ok(),
                open("f", "$CG/$RO", &["O_RDWR"]).ok(),
                write("f", "1").errno("EINVAL"),
                write("f", "").gives(0),
                write("f", &"1".repeat(4097)).errno("E2BIG"),
                read("f", 100).ok(),
                write_file("$CG/$RO", "1").errno("EINVAL"),
            ],
        )
        .by_owner_too(),
        case(
            "read-write-only",
            &[Where::V2],
            [
                open("f", "$CG/cgroup.kill", &["O_RDONLY"]).ok(),
                read("f", 100).errno("EINVAL"),
                read_file("$CG/cgroup.kill").errno("EINVAL"),
                open("g", "$CG/cgroup.kill", &["O_WRONLY"]).ok(),
                read("g", 1).errno("EBADF"),
            ],
        )
        .by_owner_too(),
        case(
            "write-then-read",
            ALL,
            [
                read_file("$CG/$FILE").text("$INITIAL"),
                write_file("$CG/$FILE", "$OTHER").ok(),
                read_file("$CG/$FILE").text("$CONTENT"),
                write_file("$CG/$FILE", "$INITIAL").ok(),
                read_file("$CG/$FILE").text("$INITIAL"),
                write_file("$CG/$FILE", "no such value").errno("EINVAL"),
                read_file("$CG/$FILE").text("$INITIAL"),
            ],
        )
        .by_owner_too(),
        case(
            "write-at-an-offset",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_RDWR"]).ok(),
                Op::Pwrite { fd: "f".into(), data: "$OTHER".into(), off: 3 }.ok(),
                read_all("f", 100).text("$CONTENT"),
                write("f", "$INITIAL").ok(),
                pread("f", 100, 0).text("$INITIAL"),
            ],
        ),
        case(
            "write-appending",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_WRONLY", "O_APPEND"]).ok(),
                write("f", "$OTHER").ok(),
                write("f", "$INITIAL").ok(),
                read_file("$CG/$FILE").text("$INITIAL"),
            ],
        ),
        case(
            "truncate",
            ALL,
            [
                Op::Truncate { path: "$CG/$FILE".into(), len: 0 }.ok(),
                Op::Truncate { path: "$CG/$FILE".into(), len: 12345 }.ok(),
                open("f", "$CG/$FILE", &["O_RDWR", "O_TRUNC"]).ok(),
                Op::Ftruncate { fd: "f".into(), len: 0 }.ok(),
                Op::Ftruncate { fd: "f".into(), len: 7 }.ok(),
                read_all("f", 100).text("$INITIAL"),
                Op::WriteFile { path: "$CG/$FILE".into(), data: "$OTHER".into(), flags: vec!["O_TRUNC".into()] }.ok(),
                read_file("$CG/$FILE").text("$CONTENT"),
                stat("$CG/$FILE").ok(),
                Op::Truncate { path: "$CG".into(), len: 0 }.errno("EISDIR"),
            ],
        )
        .by_owner_too(),
        case(
            "removed-cgroup",
            ALL,
            [
                mkdir("$CG/a").ok(),
                open("f", "$CG/a/cgroup.procs", &["O_RDWR"]).ok(),
                open("g", "$CG/a/$FILE", &["O_RDWR"]).ok(),
                read("g", 100).text("$INITIAL"),
                open("d", "$CG/a", &["O_RDONLY", "O_DIRECTORY"]).ok(),
                rmdir("$CG/a").ok(),
                read("f", 100).errno("ENODEV"),
                pread("g", 100, 0).errno("ENODEV"),
                write("f", "0").errno("ENODEV"),
                write("f", "").errno("ENODEV").id("write of nothing"),
                write("f", &"0".repeat(4097)).errno("E2BIG"),
                write("g", "$OTHER").errno("ENODEV"),
                mkdir("/proc/self/fd/$FDD/b").errno("ENOENT"),
                open("h", "/proc/self/fd/$FDD/cgroup.procs", &["O_RDONLY"]).errno("ENOENT"),
                stat("$CG/a").errno("ENOENT"),
                Op::Fstat { fd: "f".into() }.id("fstat"),
                close("f").ok(),
            ],
        )
        .by_owner_too(),
    ]
}

fn reads() -> Vec<Case> {
    vec![
        case(
            "read-in-parts",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_RDONLY"]).ok(),
                read("f", 1).ok(),
                read("f", 1).into_step(),
                read("f", 100).into_step(),
                read("f", 100).text(""),
                Op::Lseek { fd: "f".into(), off: 1, whence: "set".into() }.gives(1),
                read("f", 1).into_step(),
                Op::Lseek { fd: "f".into(), off: 0, whence: "cur".into() }.into_step(),
                pread("f", 100, 1).ok(),
                pread("f", 1, 0).ok(),
                pread("f", 100, 5000).text(""),
                Op::Lseek { fd: "f".into(), off: 0, whence: "set".into() }.gives(0),
                read_all("f", 1).text("$INITIAL"),
            ],
        )
        .by_owner_too(),
        case(
            "read-again",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_RDONLY"]).ok(),
                read("f", 100).text("$INITIAL"),
                write_file("$CG/$FILE", "$OTHER").ok(),
                read("f", 100).text(""),
                pread("f", 100, 0).text("$CONTENT"),
                Op::Lseek { fd: "f".into(), off: 0, whence: "set".into() }.gives(0),
                read("f", 100).text("$CONTENT"),
                write_file("$CG/$FILE", "$INITIAL").ok(),
                Op::Lseek { fd: "f".into(), off: 0, whence: "set".into() }.gives(0),
                read("f", 1).ok(),
                write_file("$CG/$FILE", "$OTHER").ok(),
                read("f", 100).id("the rest, after a change").ok(),
            ],
        ),
        case(
            "seek",
            ALL,
            [
                open("f", "$CG/cgroup.procs", &["O_RDONLY"]).ok(),
                Op::Lseek { fd: "f".into(), off: 0, whence: "end".into() }.gives(0).id("size"),
                Op::Lseek { fd: "f".into(), off: 5, whence: "end".into() }.gives(5).id("size"),
                Op::Lseek { fd: "f".into(), off: 3, whence: "cur".into() }.gives(8).id("size"),
                Op::Lseek { fd: "f".into(), off: -20, whence: "cur".into() }.errno("EINVAL").id("size"),
            ],
        ),
        case(
            "two-handles",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_RDONLY"]).ok(),
                open("g", "$CG/$FILE", &["O_RDONLY"]).ok(),
                Op::Dup { fd: "f".into(), to: "h".into() }.ok(),
                read("f", 2).ok(),
                read("h", 100).ok(),
                read("g", 100).text("$INITIAL"),
                close("f").ok(),
                Op::Lseek { fd: "h".into(), off: 0, whence: "set".into() }.gives(0),
                read("h", 100).text("$INITIAL"),
            ],
        ),
    ]
}

fn other_calls() -> Vec<Case> {
    let ioctls: Vec<Step> = vec![
        open("f", "$CG/cgroup.procs", &["O_RDWR"]).ok(),
        Op::Ioctl { fd: "f".into() }.errno("ENOTTY"),
        Op::Fallocate { fd: "f".into(), len: 4096 }.errno("EOPNOTSUPP"),
        Op::Fsync { fd: "f".into() }.into_step(),
        open("g", "$CG/$FILE", &["O_RDONLY"]).ok(),
        Op::Splice { fd: "g".into() }.text("$INITIAL").id("splice"),
        open("d", "$CG", &["O_RDONLY", "O_DIRECTORY"]).ok(),
        Op::Fsync { fd: "d".into() }.id("fsync of a directory"),
        Op::Ioctl { fd: "d".into() }.errno("ENOTTY"),
        read("d", 10).errno("EISDIR"),
    ];
    vec![
        case(
            "open-flags",
            ALL,
            [
                open("f", "$CG/cgroup.procs", &["O_RDONLY", "O_DIRECT"]).errno("EINVAL").id("O_DIRECT"),
                open("f", "$CG/cgroup.procs", &["O_RDONLY", "O_DIRECTORY"]).errno("ENOTDIR"),
                open("f", "$CG/cgroup.procs", &["O_RDONLY", "O_CREAT"]).ok(),
                open("f", "$CG/cgroup.procs", &["O_RDONLY", "O_CREAT", "O_EXCL"]).errno("EEXIST"),
                open("f", "$CG/cgroup.procs", &["O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK"]).ok(),
                open("f", "$CG/cgroup.procs", &["O_PATH"]).ok(),
                open("f", "$CG", &["O_RDWR"]).errno("EISDIR"),
                open("f", "$CG/none", &["O_RDONLY"]).errno("ENOENT"),
                open("f", "$CG/cgroup.procs/x", &["O_RDONLY"]).errno("ENOTDIR"),
            ],
        )
        .by_owner_too(),
        case("odd-calls", ALL, ioctls),
        case(
            "no-other-nodes",
            ALL,
            [
                Op::Creat { path: "$CG/x".into(), mode: 0o644 }.errno("EACCES"),
                open("f", "$CG/x", &["O_WRONLY", "O_CREAT"]).errno("EACCES"),
                Op::Creat { path: "$CG/cgroup.procs".into(), mode: 0o644 }.errno("EEXIST"),
                Op::Mknod { path: "$CG/x".into(), kind: "fifo".into() }.errno("EPERM"),
                Op::Mknod {
                    path: "$CG/x".into(),
                    kind: "file".into(),
                }
                // The VFS makes regular files by `create`.
                .errno("EACCES"),
                Op::Mknod { path: "$CG/cgroup.procs".into(), kind: "fifo".into() }.errno("EEXIST"),
                Op::Link { from: "$CG/cgroup.procs".into(), to: "$CG/x".into() }.errno("EPERM"),
                Op::Symlink { target: "cgroup.procs".into(), path: "$CG/x".into() }.errno("EPERM"),
                Op::Symlink { target: "x".into(), path: "$CG/cgroup.procs".into() }.errno("EEXIST"),
                Op::Unlink { path: "$CG/cgroup.procs".into() }.errno("EPERM"),
                Op::Unlink { path: "$CG/none".into() }.errno("ENOENT"),
                Op::Unlink { path: "$CG".into() }.errno("EISDIR"),
                rmdir("$CG/cgroup.procs").errno("ENOTDIR"),
                mkdir("$CG/cgroup.procs/x").errno("ENOTDIR"),
                Op::Sees { dir: "$CG".into(), name: "x".into() }.gives(false),
            ],
        )
        .by_owner_too(),
        case(
            "poll",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_RDONLY"]).ok(),
                Op::Poll { fd: "f".into() }.id("fresh").ok(),
                read("f", 100).ok(),
                Op::Poll { fd: "f".into() }.id("read").ok(),
            ],
        ),
        case("statfs", ALL, [Op::Statfs { path: "$CG".into() }.id("type").ok()]),
    ]
}
