//! `cgroup.event_control` of the v1 memory controller (`memcg_write_event_control`).

use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{Case, IntoStep, Step, Where, case};

const MEMORY: &[Where] = &[Where::Memory];

/// Somebody who isn't root.
const USER: u32 = 12345;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("events-and-their-errors", MEMORY, errors()).by_owner_too(),
        case("events-of-the-boundary", MEMORY, register("$UP")).by_owner_too(),
        case(
            "events-spellings",
            MEMORY,
            opened("$CG").into_iter().chain([
                write("ec", " $FDE $FDOOM\n").ok(),
                write("ec", "0000$FDE 000$FDOOM").ok(),
                // Numbers of 64 bits, of which the lower 32 count.
                write("ec", "18446744069414584320").errno("EINVAL"),
                write("ec", "4294967296 $FDOOM").into_step(),
                write("ec", "$FDE $FDOOM anything at all").ok(),
                write("ec", "$FDE $FDOOM\0x").ok(),
                write("ec", "$FDE\t$FDOOM").errno("EINVAL"),
                write("ec", "$FDE,$FDOOM").errno("EINVAL"),
                write("ec", "+$FDE $FDOOM").errno("EINVAL"),
                write("ec", "$FDE -$FDOOM").errno("EINVAL"),
                write("ec", "0x$FDE $FDOOM").errno("EINVAL"),
                write("ec", "$FDE").errno("EINVAL"),
                write("ec", "$FDE ").errno("EINVAL"),
                // Without a number between the spaces it's descriptor 0, which the probe's input is.
                write("ec", "$FDE  $FDOOM").errno("EINVAL"),
                write("ec", " ").errno("EINVAL"),
                write("ec", "\n").errno("EINVAL"),
                write("ec", "").gives(0),
                write("ec", &"x".repeat(4096)).errno("EINVAL"),
                write("ec", &"x".repeat(4097)).errno("E2BIG"),
                write("ec", "$FDE $FDUSAGE 1M").ok(),
                write("ec", "$FDE $FDUSAGE 0x1000").ok(),
                write("ec", "$FDE $FDUSAGE").ok(),
                write("ec", "$FDE $FDUSAGE -1").ok(),
                write("ec", "$FDE $FDUSAGE -2").into_step(),
                write("ec", "$FDE $FDUSAGE 1 2").errno("EINVAL"),
                write("ec", "$FDE $FDUSAGE x").errno("EINVAL"),
                write("ec", "$FDE $FDUSAGE 99999999999999999999999").into_step(),
            ]),
        ),
        case(
            "events-of-memory-pressure",
            MEMORY,
            opened("$CG").into_iter().chain([
                write("ec", "$FDE $FDPRESSURE low").ok(),
                write("ec", "$FDE $FDPRESSURE medium,hierarchy").ok(),
                write("ec", "$FDE $FDPRESSURE critical,local").ok(),
                write("ec", "$FDE $FDPRESSURE low,default").ok(),
                write("ec", "$FDE $FDPRESSURE").errno("EINVAL"),
                write("ec", "$FDE $FDPRESSURE none").errno("EINVAL"),
                write("ec", "$FDE $FDPRESSURE low,none").errno("EINVAL"),
                write("ec", "$FDE $FDPRESSURE low,local,x").into_step(),
                write("ec", "$FDE $FDPRESSURE low medium").errno("EINVAL"),
            ]),
        )
        .by_owner_too(),
        case(
            "events-end-with-the-cgroup",
            MEMORY,
            [mkdir("$CG/a").ok(), mkdir("$CG/a/b").ok()].into_iter().chain(opened("$CG/a")).chain([
                write("ec", "$FDE $FDOOM").ok(),
                eventfd("usage-e").ok(),
                write("ec", "$FDE $FDUSAGE 1G").ok(),
                read("e", 8).errno("EAGAIN"),
                rmdir("$CG/a").errno("EBUSY"),
                read("e", 8).errno("EAGAIN"),
                rmdir("$CG/a/b").ok(),
                rmdir("$CG/a").ok(),
                await_poll("e", "IN").gives(true),
                write("ec", "$FDE $FDOOM").errno("ENODEV"),
                write("ec", "nonsense").errno("ENODEV"),
                write("ec", "99999 99999").errno("ENODEV"),
            ]),
        )
        .by_owner_too(),
        // The control file has to be readable for the writer, however it was opened.
        case(
            "events-and-the-writers-rights",
            MEMORY,
            opened("$CG").into_iter().chain([
                chmod("$CG/memory.oom_control", 0o600).ok(),
                seteuid(USER).ok(),
                write("ec", "$FDE $FDOOM").errno("EACCES"),
                write("ec", "$FDE $FDUSAGE 1G").ok(),
                open("again", "$CG/cgroup.event_control", &["O_WRONLY"]).into_step(),
                seteuid(0).ok(),
                write("ec", "$FDE $FDOOM").ok(),
                chmod("$CG/memory.oom_control", 0o000).ok(),
                write("ec", "$FDE $FDOOM").ok(),
            ]),
        ),
        case(
            "events-by-threads",
            MEMORY,
            opened("$CG").into_iter().chain([
                thread("T").ok(),
                on("T", write("ec", "$FDE $FDOOM")).ok(),
                Op::WriteWithOwnDescriptors { to: "ec".into(), data: "$OWN $FDOOM".into() }.id("own descriptors").ok(),
                Op::WriteWithOwnDescriptors { to: "ec".into(), data: "$FDE $FDOOM".into() }.ok(),
                // That thread has ended, and its descriptors with it.
                write("ec", "$OWN $FDOOM").errno("EBADF"),
            ]),
        ),
        case(
            "events-again-and-again",
            MEMORY,
            opened("$CG").into_iter().chain((0..20).map(|_| write("ec", "$FDE $FDOOM").ok())).chain([
                Op::Dup { fd: "e".into(), to: "f".into() }.ok(),
                write("ec", "$FDF $FDOOM").ok(),
                close("e").ok(),
                write("ec", "$FDE $FDOOM").errno("EBADF"),
                write("ec", "$FDF $FDOOM").ok(),
            ]),
        ),
        case(
            "event-control-itself",
            MEMORY,
            [
                stat("$CG/cgroup.event_control").ok(),
                open("ec", "$CG/cgroup.event_control", &["O_RDWR"]).ok(),
                read("ec", 10).errno("EINVAL"),
                write("ec", "x").errno("EINVAL"),
                poll("ec").ok(),
                Op::Truncate { path: "$CG/cgroup.event_control".into(), len: 0 }.ok(),
            ],
        )
        .by_owner_too(),
    ]
}

/// An eventfd, `cgroup.event_control` and control files of a cgroup.
fn opened(cgroup: &str) -> Vec<Step> {
    let file = |name: &str| format!("{cgroup}/{name}");
    vec![
        eventfd("e").ok(),
        open("ec", &file("cgroup.event_control"), &["O_WRONLY"]).ok(),
        open("usage", &file("memory.usage_in_bytes"), &["O_RDONLY"]).ok(),
        open("oom", &file("memory.oom_control"), &["O_RDONLY"]).ok(),
        open("pressure", &file("memory.pressure_level"), &["O_RDONLY"]).ok(),
    ]
}

fn register(cgroup: &str) -> Vec<Step> {
    let mut steps = opened(cgroup);
    steps.extend([
        write("ec", "$FDE $FDUSAGE 1000000000").ok(),
        write("ec", "$FDE $FDOOM").ok(),
        write("ec", "$FDE $FDPRESSURE low").ok(),
        read("e", 8).errno("EAGAIN"),
    ]);
    steps
}

fn errors() -> Vec<Step> {
    let mut steps = register("$CG");
    let open_home = |fd, file: &str| open(fd, &format!("$HOME/{file}"), &["O_RDONLY"]).ok();
    steps.extend([
        // Opened for writing alone: it's the right to read that counts.
        open("oomw", "$CG/memory.oom_control", &["O_WRONLY"]).ok(),
        write("ec", "$FDE $FDOOMW").ok(),
        open("memsw", "$CG/memory.memsw.usage_in_bytes", &["O_RDONLY"]).into_step(),
        // Files without events.
        open("limit", "$CG/memory.limit_in_bytes", &["O_RDONLY"]).ok(),
        write("ec", "$FDE $FDLIMIT 5").errno("EINVAL"),
        open("procs", "$CG/cgroup.procs", &["O_RDONLY"]).ok(),
        write("ec", "$FDE $FDPROCS 5").errno("EINVAL"),
        write("ec", "$FDE $FDEC 5").errno("EINVAL"),
        // Another cgroup's, one above and one below among them.
        open_home("other", "memory.oom_control"),
        write("ec", "$FDE $FDOTHER").errno("EINVAL"),
        open("above", "$UP/memory.oom_control", &["O_RDONLY"]).ok(),
        write("ec", "$FDE $FDABOVE").errno("EINVAL"),
        mkdir("$CG/a").ok(),
        open("below", "$CG/a/memory.oom_control", &["O_RDONLY"]).ok(),
        write("ec", "$FDE $FDBELOW").errno("EINVAL"),
        // What is no file of a cgroup.
        open("dir", "$CG", &["O_RDONLY", "O_DIRECTORY"]).ok(),
        write("ec", "$FDE $FDDIR").errno("EINVAL"),
        open("null", "/dev/null", &["O_RDWR"]).ok(),
        write("ec", "$FDE $FDNULL").errno("EINVAL"),
        open("proc", "/proc/self/status", &["O_RDONLY"]).ok(),
        write("ec", "$FDE $FDPROC").errno("EINVAL"),
        write("ec", "$FDE 1").errno("EINVAL"),
        write("ec", "$FDE $FDE").errno("EINVAL"),
        // What is no eventfd.
        write("ec", "$FDNULL $FDOOM").errno("EINVAL"),
        write("ec", "1 $FDOOM").errno("EINVAL"),
        write("ec", "$FDOOM $FDOOM").errno("EINVAL"),
        write("ec", "$FDEC $FDOOM").errno("EINVAL"),
        write("ec", "$FDDIR $FDOOM").errno("EINVAL"),
        write("ec", "$FDOOM $FDE").errno("EINVAL"),
        // What isn't open, or is only a place.
        write("ec", "99999 $FDOOM").errno("EBADF"),
        write("ec", "$FDE 99999").errno("EBADF"),
        write("ec", "99999 99999").errno("EBADF"),
        write("ec", "$FDNULL 99999").errno("EINVAL"),
        write("ec", "4294967295 $FDOOM").errno("EBADF"),
        write("ec", "2147483648 $FDOOM").errno("EBADF"),
        write("ec", "$FDE 4294967295").errno("EBADF"),
        open("path", "$CG/memory.oom_control", &["O_PATH"]).ok(),
        write("ec", "$FDE $FDPATH").errno("EBADF"),
        open("pathe", "/proc/self/fd/$FDE", &["O_PATH"]).ok(),
        write("ec", "$FDPATHE $FDOOM").errno("EBADF"),
        read("e", 8).errno("EAGAIN"),
        write("ec", "$FDE $FDOOM").ok(),
        close("e").ok(),
        write("ec", "$FDE $FDOOM").errno("EBADF"),
    ]);
    steps
}
