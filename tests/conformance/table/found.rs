//! What sequences of random operations have found (`fuzz`).

use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{ALL, Case, IntoStep, Where, case};

pub(super) fn cases() -> Vec<Case> {
    let seek = |whence: &str| Op::Lseek { fd: "f".into(), off: 0, whence: whence.into() };
    let map = |fd: &str, shared| Op::Mmap { fd: fd.into(), shared };
    vec![
        case(
            "pwrite-to-a-read-only-handle",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_RDONLY"]).ok(),
                write("f", "x").errno("EBADF"),
                Op::Pwrite { fd: "f".into(), data: "x".into(), off: 0 }.errno("ESPIPE").id("pwrite"),
            ],
        ),
        case(
            "splice-of-a-writable-handle",
            ALL,
            [open("f", "$CG/$FILE", &["O_RDWR"]).ok(), Op::Splice { fd: "f".into() }.text("$INITIAL").id("splice")],
        ),
        case(
            "splice-of-a-file-without-read-bits",
            ALL,
            [
                Op::Chmod { path: "$CG/$FILE".into(), mode: 0o222 }.ok(),
                open("f", "$CG/$FILE", &["O_RDONLY"]).ok(),
                Op::Splice { fd: "f".into() }.text("$INITIAL"),
            ],
        ),
        case(
            "seek-in-a-removed-cgroup",
            ALL,
            [
                mkdir("$CG/a").ok(),
                open("f", "$CG/a/$FILE", &["O_RDONLY"]).ok(),
                seek("set").gives(0),
                seek("end").gives(0).id("size"),
                rmdir("$CG/a").ok(),
                // On older kernels it succeeds.
                seek("end").id("lseek"),
            ],
        ),
        case(
            "opened-again-after-removal",
            ALL,
            [
                mkdir("$CG/a").ok(),
                open("f", "$CG/a/$FILE", &["O_RDWR"]).ok(),
                rmdir("$CG/a").ok(),
                open("g", "/proc/self/fd/$FDF", &["O_RDONLY"]).errno("ENODEV"),
                open("g", "/proc/self/fd/$FDF", &["O_RDWR"]).errno("ENODEV"),
                open("g", "/proc/self/fd/$FDF", &["O_WRONLY", "O_TRUNC"]).into_step(),
            ],
        )
        .by_owner_too(),
        case(
            "set-user-bit-of-a-truncated-file",
            ALL,
            [
                chown("$CG/$FILE", 12345).ok(),
                seteuid(12345).ok(),
                chmod("$CG/$FILE", 0o4755).ok(),
                Op::Truncate { path: "$CG/$FILE".into(), len: 0 }.ok(),
                stat("$CG/$FILE").ok(),
                chmod("$CG/$FILE", 0o4755).ok(),
                open("f", "$CG/$FILE", &["O_RDONLY", "O_TRUNC"]).ok(),
                stat("$CG/$FILE").ok(),
            ],
        ),
        case(
            "acl-of-another",
            ALL,
            [
                seteuid(12345).ok(),
                Op::Removexattr { path: "$CG".into(), name: "system.posix_acl_access".into() }
                    .errno("EOPNOTSUPP")
                    .id("set"),
                Op::Getxattr { path: "$CG".into(), name: "system.posix_acl_access".into() }.errno("EOPNOTSUPP"),
            ],
        ),
        case(
            "attributes-of-a-removed-cgroup",
            ALL,
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/a/b").ok(),
                stat("$CG/a").ok(),
                rmdir("$CG/a/b").ok(),
                open("f", "$CG/a/$FILE", &["O_RDONLY"]).ok(),
                open("d", "$CG/a", &["O_RDONLY", "O_DIRECTORY"]).ok(),
                rmdir("$CG/a").ok(),
                Op::Fchmod { fd: "f".into(), mode: 0o600 }.ok(),
                Op::Fstat { fd: "f".into() }.ok(),
                Op::Fchmod { fd: "d".into(), mode: 0o700 }.ok(),
                Op::Fstat { fd: "d".into() }.ok(),
            ],
        )
        .by_owner_too(),
        case(
            "map-of-a-notified-file",
            &[Where::V2],
            [
                open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                map("f", true).errno("ENODEV"),
                map("f", false).errno("ENODEV").id("private"),
            ],
        ),
        case(
            "map",
            ALL,
            [
                open("f", "$CG/$FILE", &["O_RDONLY"]).ok(),
                open("g", "$CG/$FILE", &["O_RDWR"]).ok(),
                map("f", true).errno("ENODEV"),
                map("g", true).errno("ENODEV"),
                map("f", false).errno("ENODEV").id("private"),
            ],
        ),
    ]
}
