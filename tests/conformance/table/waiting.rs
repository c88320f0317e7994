//! poll, epoll, and triggers of pressure.

use serde_json::json;
use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{Case, IntoStep, Step, Where, case};

const V2: &[Where] = &[Where::V2];

/// Waits long enough for what happens at once, or soon.
const LONG_WAIT_MS: u32 = 10_000;

/// Nothing happens; were it to happen, then at once.
const SHORT_WAIT_MS: u32 = 50;

fn epoll(name: &str, file: &str, edge: bool) -> [Step; 2] {
    [Op::Epoll { fd: name.into() }.ok(), Op::EpollAdd { epoll: name.into(), fd: file.into(), edge }.ok()]
}

fn epoll_add(name: &str, file: &str, edge: bool) -> Op {
    Op::EpollAdd { epoll: name.into(), fd: file.into(), edge }
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = notified();
    all.extend(removed());
    all.extend(pressure());
    all
}

/// `kernfs_generic_poll`: what was never read, or changed since, is urgent, until that very open file is read.
fn notified() -> Vec<Case> {
    let populate = |process: &str| [spawn(process).ok(), write_file("$CG/cgroup.procs", &format!("${process}")).ok()];
    vec![
        case(
            "poll-is-for-each-open-file",
            V2,
            [
                open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                open("g", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                Op::Dup { fd: "f".into(), to: "h".into() }.ok(),
                poll("f").gives(json!(["IN", "OUT", "PRI", "ERR", "RDNORM", "WRNORM"])),
                poll("f").gives(json!(["IN", "OUT", "PRI", "ERR", "RDNORM", "WRNORM"])),
                // A read of another open file changes nothing, one by another number of this one does.
                read("g", 100).ok(),
                poll("f").gives(json!(["IN", "OUT", "PRI", "ERR", "RDNORM", "WRNORM"])),
                poll("g").gives(json!(["IN", "OUT", "RDNORM", "WRNORM"])),
                read("h", 100).ok(),
                poll("f").gives(json!(["IN", "OUT", "RDNORM", "WRNORM"])),
                poll_pri("f", SHORT_WAIT_MS).gives(json!([])),
                // The end of the file is no read.
                read("h", 100).text(""),
                poll("f").gives(json!(["IN", "OUT", "RDNORM", "WRNORM"])),
            ],
        )
        .by_owner_too(),
        case(
            "poll-and-partial-reads",
            V2,
            [
                open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                pread("f", 100, 500).text(""),
                poll("f").into_step(),
                pread("f", 1, 0).ok(),
                poll("f").into_step(),
                open("g", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                read("g", 0).into_step(),
                poll("g").into_step(),
                read("g", 1).ok(),
                poll("g").into_step(),
                read("g", 100).ok(),
                poll("g").into_step(),
                open("w", "$CG/cgroup.events", &["O_RDWR"]).ok(),
                write("w", "1").errno("EINVAL"),
                poll("w").into_step(),
                read("w", 100).ok(),
                poll("w").into_step(),
            ],
        ),
        case(
            "poll-waits-for-a-change",
            V2,
            [
                open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                open("g", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                read("f", 100).ok(),
                poll_pri("f", SHORT_WAIT_MS).gives(json!([])),
                poll_pri("g", SHORT_WAIT_MS).gives(json!(["PRI", "ERR"])),
            ]
            .into_iter()
            .chain(populate("C"))
            .chain([
                poll_pri("f", LONG_WAIT_MS).gives(json!(["PRI", "ERR"])),
                poll_pri("f", SHORT_WAIT_MS).gives(json!(["PRI", "ERR"])),
                read("g", 100).text("populated 1\nfrozen 0\n"),
                poll_pri("f", SHORT_WAIT_MS).gives(json!(["PRI", "ERR"])),
                pread("f", 100, 0).text("populated 1\nfrozen 0\n"),
                poll_pri("f", SHORT_WAIT_MS).gives(json!([])),
                kill("C").ok(),
                poll_pri("f", LONG_WAIT_MS).gives(json!(["PRI", "ERR"])),
                pread("f", 100, 0).text("populated 0\nfrozen 0\n"),
                poll_pri("f", SHORT_WAIT_MS).gives(json!([])),
            ]),
        )
        .by_owner_too(),
        case(
            "epoll-level",
            V2,
            [open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok()]
                .into_iter()
                .chain(epoll("e", "f", false))
                .chain([
                    epoll_add("e", "f", false).errno("EEXIST"),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    read("f", 100).ok(),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT"])),
                ])
                .chain(populate("C"))
                .chain([
                    poll_pri("f", LONG_WAIT_MS).gives(json!(["PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    pread("f", 100, 0).ok(),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT"])),
                ]),
        )
        .by_owner_too(),
        case(
            "epoll-edge-never-read",
            V2,
            [open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok()]
                .into_iter()
                .chain(epoll("e", "f", true))
                .chain([
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!([])),
                ])
                .chain(populate("C"))
                .chain([
                    epoll_wait("e", LONG_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!([])),
                ]),
        )
        .by_owner_too(),
        case(
            "epoll-edge",
            V2,
            [open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok(), read("f", 100).ok()]
                .into_iter()
                .chain(epoll("e", "f", true))
                .chain([
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!([])),
                ])
                .chain(populate("C"))
                .chain([
                    epoll_wait("e", LONG_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!([])),
                    pread("f", 100, 0).text("populated 1\nfrozen 0\n"),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!([])),
                    kill("C").ok(),
                    epoll_wait("e", LONG_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!([])),
                    pread("f", 100, 0).text("populated 0\nfrozen 0\n"),
                ])
                // Also without a read in between.
                .chain(populate("D"))
                .chain([
                    epoll_wait("e", LONG_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    kill("D").ok(),
                    epoll_wait("e", LONG_WAIT_MS).gives(json!(["IN", "OUT", "PRI", "ERR"])),
                    epoll_wait("e", SHORT_WAIT_MS).gives(json!([])),
                ]),
        )
        .by_owner_too(),
    ]
}

fn removed() -> Vec<Case> {
    vec![
        case(
            "poll-and-removal",
            V2,
            [
                mkdir("$CG/a").ok(),
                open("f", "$CG/a/cgroup.events", &["O_RDONLY"]).ok(),
                open("g", "$CG/a/cgroup.events", &["O_RDONLY"]).ok(),
                read("f", 100).ok(),
            ]
            .into_iter()
            .chain(epoll("e", "f", true))
            .chain([
                epoll_wait("e", SHORT_WAIT_MS).gives(json!(["IN", "OUT"])),
                rmdir("$CG/a").ok(),
                epoll_wait("e", SHORT_WAIT_MS).into_step(),
                epoll_wait("e", SHORT_WAIT_MS).into_step(),
                Op::AwaitPoll { fd: "f".into(), event: "ERR".into() }.gives(true),
                poll("f").into_step(),
                poll("g").into_step(),
                read("f", 100).errno("ENODEV"),
                pread("f", 100, 0).errno("ENODEV"),
                poll("f").into_step(),
            ]),
        )
        .by_owner_too(),
        case(
            "triggers-and-removal",
            V2,
            [
                mkdir("$CG/a").ok(),
                open("f", "$CG/a/cpu.pressure", &["O_RDWR"]).into_step(),
                open("g", "$CG/a/cpu.pressure", &["O_RDWR"]).into_step(),
                write("f", "some 100000 2000000").into_step(),
                rmdir("$CG/a").ok(),
                poll_pri("f", LONG_WAIT_MS).into_step(),
                poll("f").into_step(),
                poll("g").into_step(),
                write("g", "some 100000 2000000").into_step(),
                write("f", "some 100000 2000000").into_step(),
            ],
        ),
    ]
}

/// `pressure_write`, `psi_trigger_create`, `psi_trigger_poll`. Whether there is pressure information at all depends on the kernel and how it
/// was started.
fn pressure() -> Vec<Case> {
    let formats = [
        "some 150000 2000000",
        "full 150000 2000000",
        "some 150000 2000000\n",
        "some 150000 2000000 x",
        " some 150000 2000000",
        "some  150000  2000000",
        "some 150000 4000000",
        "some 150000 10000000",
        "some 150000 12000000",
        "some 150000 3000000",
        "some 150000 1000000",
        "some 150000 500000",
        "some 150000 499999",
        "some 2000001 2000000",
        "some 2000000 2000000",
        "some 0 2000000",
        "some 150000 0",
        "some 150000",
        "some",
        "avg 150000 2000000",
        "some -1 2000000",
        "some 99999999999999999999 2000000",
        "",
        "\n",
    ];
    let mut spellings = Vec::new();
    for file in ["cpu.pressure", "memory.pressure", "io.pressure"] {
        for format in formats {
            spellings.push(open("f", &format!("$CG/{file}"), &["O_RDWR"]).into_step());
            spellings.push(write("f", format).into_step());
            spellings.push(poll("f").into_step());
        }
    }
    let busy = |name: &str| {
        [Op::Busy { name: name.into() }.into_step(), write_file("$CG/cgroup.procs", &format!("${name}")).into_step()]
    };
    vec![
        case("triggers", V2, spellings).by_owner_too(),
        case(
            "one-trigger-for-each-open-file",
            V2,
            [
                open("f", "$CG/memory.pressure", &["O_RDWR"]).into_step(),
                poll("f").into_step(),
                read("f", 1000).into_step(),
                poll("f").into_step(),
                write("f", "nonsense").into_step(),
                poll("f").into_step(),
                write("f", "some 150000 2000000").into_step(),
                poll("f").into_step(),
                write("f", "some 150000 2000000").into_step(),
                write("f", "nonsense").into_step(),
                open("g", "$CG/memory.pressure", &["O_RDWR"]).into_step(),
                poll("g").into_step(),
                write("g", "full 150000 4000000").into_step(),
                poll("g").into_step(),
                Op::Dup { fd: "g".into(), to: "h".into() }.into_step(),
                write("h", "full 150000 4000000").into_step(),
                close("g").into_step(),
                write("h", "full 150000 4000000").into_step(),
                close("h").into_step(),
                close("f").into_step(),
                open("f", "$CG/memory.pressure", &["O_WRONLY"]).into_step(),
                write("f", "some 150000 2000000").into_step(),
                poll("f").into_step(),
                open("r", "$CG/memory.pressure", &["O_RDONLY"]).into_step(),
                poll("r").into_step(),
                write("r", "some 150000 2000000").errno("EBADF"),
            ],
        )
        .by_owner_too(),
        case(
            "triggers-tell-each-event-once",
            V2,
            [
                open("f", "$CG/cpu.pressure", &["O_RDWR"]).into_step(),
                open("g", "$CG/cpu.pressure", &["O_RDWR"]).into_step(),
                open("n", "$CG/cpu.pressure", &["O_RDWR"]).into_step(),
                write("f", "some 100000 2000000").into_step(),
                write("g", "some 100000 2000000").into_step(),
                // One of the busy ones runs nearly always, and at times on a machine that does much else.
                write("n", "full 10000000 10000000").into_step(),
                poll_pri("f", SHORT_WAIT_MS).into_step(),
            ]
            .into_iter()
            .chain(["A", "B"].iter().flat_map(|name| busy(name)))
            .chain([
                poll_pri("f", LONG_WAIT_MS).into_step(),
                poll_pri("f", 0).into_step(),
                poll("f").into_step(),
                // The other open file's event is its own.
                poll_pri("g", LONG_WAIT_MS).into_step(),
                poll_pri("g", 0).into_step(),
                // All who wait for a cgroup's file are woken by any of its triggers (kernfs_notify), which an edge shows. Let there be one.
                Op::Close { fd: "g".into() }.into_step(),
            ])
            .chain(epoll("e", "f", true).map(|step| step.op.into_step()))
            .chain([
                epoll_wait("e", 0).into_step(),
                epoll_wait("e", LONG_WAIT_MS).into_step(),
                epoll_wait("e", 0).into_step(),
                poll_pri("n", 0).into_step(),
            ]),
        ),
    ]
}
