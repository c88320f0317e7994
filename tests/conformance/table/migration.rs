//! Membership: the numbers that are accepted, who is migrated, and what the lists show.

use serde_json::json;
use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{ALL, Case, IntoStep, Step, V1, Where, case};

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case("numbers", ALL, numbers()).by_owner_too(),
        case("numbers-of-threads", V1, number_errors("$CG/$TASKS")).by_owner_too(),
        case("numbers-of-processes", ALL, number_errors("$CG/cgroup.procs")).by_owner_too(),
    ];
    all.extend(processes());
    all.extend(threads());
    all.extend(lists());
    all
}

fn listed(names: &[&str]) -> serde_json::Value {
    json!({"lines": names, "sorted": true, "ends with a newline": true})
}

/// Spellings of numbers that are right: the process goes there, and home again.
fn numbers() -> Vec<Step> {
    let mut steps = vec![spawn("C").ok()];
    let spellings = [
        "0",
        "0\n",
        "0x0",
        "0X0",
        "00",
        " 0 ",
        "\t0\n",
        "\n0",
        "+0",
        "-0",
        "0\0",
        "0\0\u{31}",
        "$PID",
        " $PID ",
        "+$PID",
        "$PID\n\n",
    ];
    for spelling in spellings {
        steps.push(write_file("$CG/cgroup.procs", spelling).ok());
        steps.push(membership("$PID").gives("/numbers"));
        steps.push(write_file("$HOME/cgroup.procs", "0").ok());
        steps.push(membership("$PID").gives("/home"));
    }
    for spelling in ["$C", " $C ", "+$C", "$C\n"] {
        steps.push(write_file("$CG/cgroup.procs", spelling).ok());
        steps.push(membership("$C").gives("/numbers"));
        steps.push(membership("$PID").gives("/home"));
        steps.push(write_file("$HOME/cgroup.procs", "$C").ok());
    }
    // A process that is there already; and one that has ended.
    steps.push(write_file("$HOME/cgroup.procs", "$C").ok());
    steps.push(kill("C").ok());
    steps.push(write_file("$CG/cgroup.procs", "$C").errno("ESRCH"));
    steps
}

/// Spellings that are wrong, and numbers of nobody: nothing happens.
fn number_errors(file: &str) -> Vec<Step> {
    let wrong = [
        "-1",
        "-$PID",
        "1 2",
        "$PID $PID",
        "$PID\n$PID",
        "\n",
        " ",
        "abc",
        "0x",
        "0b1",
        "1.0",
        "1e1",
        "+",
        "-",
        "+-1",
        "--1",
        "$PID,",
        "2147483648",
        "-2147483649",
        "4294967296",
        "99999999999999999999999",
        "0x80000000",
        "self",
        "\0",
    ];
    let nobody = ["2147483647", "4194305", "0x7fffffff", "017777777777"];
    let mut steps: Vec<Step> = wrong.iter().map(|number| write_file(file, number).errno("EINVAL")).collect();
    steps.extend(nobody.iter().map(|number| write_file(file, number).errno("ESRCH")));
    steps.push(membership("$PID").gives("/home"));
    steps.push(read_file(file).text("").into_step());
    let last = steps.len() - 1;
    steps[last] = read_file(file).gives(listed(&[]));
    steps
}

fn processes() -> Vec<Case> {
    vec![
        case(
            "migrate-a-child",
            ALL,
            [
                mkdir("$CG/a").ok(),
                mkdir("$CG/b").ok(),
                spawn("C").ok(),
                spawn("D").ok(),
                write_file("$CG/a/cgroup.procs", "$C").ok(),
                write_file("$CG/a/cgroup.procs", "$D").ok(),
                membership("$C").gives("/migrate-a-child/a"),
                read_file("$CG/a/cgroup.procs").gives(listed(&["C", "D"])),
                read_file("$CG/a/$TASKS").gives(listed(&["C", "D"])),
                write_file("$CG/b/cgroup.procs", "$C").ok(),
                read_file("$CG/a/cgroup.procs").gives(listed(&["D"])),
                read_file("$CG/b/cgroup.procs").gives(listed(&["C"])),
                rmdir("$CG/a").errno("EBUSY"),
                rmdir("$CG/b").errno("EBUSY"),
                kill("C").ok(),
                read_file("$CG/b/cgroup.procs").gives(listed(&[])),
                rmdir("$CG/b").ok(),
                kill("D").ok(),
                rmdir("$CG/a").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "migrate-to-the-boundary",
            V1,
            [
                spawn("C").ok(),
                write_file("$UP/cgroup.procs", "$C").ok(),
                membership("$C").gives(""),
                write_file("$UP/$TASKS", "0").ok(),
                membership("$PID").gives(""),
                write_file("$HOME/cgroup.procs", "0").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "one-handle-many-writes",
            ALL,
            [
                spawn("C").ok(),
                spawn("D").ok(),
                open("list", "$CG/cgroup.procs", &["O_RDWR"]).ok(),
                write("list", "$C").ok(),
                write("list", "nonsense").errno("EINVAL"),
                write("list", "$D\n").ok(),
                pread("list", 100, 0).gives(listed(&["C", "D"])),
                write("list", "0").ok(),
                membership("$PID").gives("/one-handle-many-writes"),
            ],
        )
        .by_owner_too(),
        case(
            "removed-before-the-write",
            ALL,
            [
                mkdir("$CG/a").ok(),
                open("f", "$CG/a/cgroup.procs", &["O_WRONLY"]).ok(),
                rmdir("$CG/a").ok(),
                mkdir("$CG/a").ok(),
                write("f", "0").errno("ENODEV"),
                membership("$PID").gives("/home"),
            ],
        ),
    ]
}

fn threads() -> Vec<Case> {
    vec![
        case(
            "threads-singly",
            V1,
            [
                thread("T").ok(),
                write_file("$CG/tasks", "$T").ok(),
                membership("$T").gives("/threads-singly"),
                membership("$PID").gives("/home"),
                read_file("$CG/tasks").gives(listed(&["T"])),
                on("T", Op::ThreadMembership).gives("/threads-singly"),
                on("T", write_file("$HOME/tasks", "0")).ok(),
                on("T", Op::ThreadMembership).gives("/home"),
                // "0" is the writing thread in `tasks`, and its whole process in `cgroup.procs`.
                on("T", write_file("$CG/tasks", "0")).ok(),
                membership("$T").gives("/threads-singly"),
                membership("$PID").gives("/home"),
                on("T", write_file("$CG/cgroup.procs", "0")).ok(),
                membership("$PID").gives("/threads-singly"),
                write_file("$HOME/cgroup.procs", "0").ok(),
                membership("$T").gives("/home"),
                // A thread's number in `cgroup.procs` is its process.
                write_file("$CG/cgroup.procs", "$T").ok(),
                membership("$PID").gives("/threads-singly"),
                write_file("$HOME/tasks", "$PID").ok(),
                membership("$PID").gives("/home"),
                membership("$T").gives("/threads-singly"),
                rmdir("$CG").errno("EBUSY"),
            ],
        )
        .by_owner_too(),
        case(
            "zero-from-a-thread",
            ALL,
            [
                thread("T").ok(),
                on("T", write_file("$CG/cgroup.procs", "0")).ok(),
                membership("$PID").gives("/zero-from-a-thread"),
                on("T", Op::ThreadMembership).gives("/zero-from-a-thread"),
                on("T", write_file("$HOME/cgroup.procs", "$T")).ok(),
                membership("$PID").gives("/home"),
                on("T", write_file("$CG/cgroup.procs", "$TID")).ok(),
                membership("$PID").gives("/zero-from-a-thread"),
            ],
        )
        .by_owner_too(),
        case(
            "opened-by-another-thread",
            ALL,
            [
                thread("T").ok(),
                open("f", "$CG/cgroup.procs", &["O_WRONLY"]).ok(),
                on("T", write("f", "0")).ok(),
                membership("$PID").gives("/opened-by-another-thread"),
            ],
        ),
        case(
            "threaded",
            &[Where::V2],
            [
                thread("T").ok(),
                mkdir("$CG/t").ok(),
                mkdir("$CG/d").ok(),
                read_file("$CG/t/cgroup.type").text("domain\n"),
                write_file("$CG/t/cgroup.type", "domain").errno("EINVAL"),
                write_file("$CG/t/cgroup.type", "nonsense").errno("EINVAL"),
                write_file("$CG/t/cgroup.type", "threaded").ok(),
                write_file("$CG/t/cgroup.type", "threaded\n").ok(),
                read_file("$CG/t/cgroup.type").text("threaded\n"),
                read_file("$CG/cgroup.type").text("domain threaded\n"),
                read_file("$CG/d/cgroup.type").text("domain invalid\n"),
                read_file("$CG/t/cgroup.procs").errno("EOPNOTSUPP"),
                write_file("$CG/d/cgroup.procs", "0").errno("EOPNOTSUPP"),
                // From another domain.
                write_file("$CG/t/cgroup.threads", "0").errno("EOPNOTSUPP"),
                write_file("$CG/cgroup.procs", "0").ok(),
                write_file("$CG/t/cgroup.threads", "$T").ok(),
                membership("$T").gives("/threaded/t"),
                membership("$PID").gives("/threaded"),
                on("T", write_file("$CG/cgroup.threads", "0")).ok(),
                on("T", Op::ThreadMembership).gives("/threaded"),
                on("T", write_file("$CG/t/cgroup.threads", "0")).ok(),
                on("T", Op::ThreadMembership).gives("/threaded/t"),
                read_file("$CG/t/cgroup.threads").gives(listed(&["T"])),
                read_file("$CG/cgroup.procs").ok(),
                write_file("$CG/t/cgroup.kill", "1").errno("EOPNOTSUPP"),
                write_file("$HOME/cgroup.threads", "$T").errno("EOPNOTSUPP"),
                write_file("$CG/t/cgroup.procs", "0").ok(),
                membership("$PID").gives("/threaded/t"),
                write_file("$HOME/cgroup.procs", "0").ok(),
                membership("$T").gives("/home"),
            ],
        )
        .by_owner_too(),
        case(
            "threads-file-of-a-domain",
            &[Where::V2],
            [
                thread("T").ok(),
                write_file("$CG/cgroup.threads", "$T").errno("EOPNOTSUPP"),
                write_file("$CG/cgroup.threads", "$PID").errno("EOPNOTSUPP"),
                write_file("$CG/cgroup.threads", "2147483647").errno("ESRCH"),
                write_file("$CG/cgroup.threads", "x").errno("EINVAL"),
                write_file("$HOME/cgroup.threads", "$T").ok(),
                membership("$PID").gives("/home"),
            ],
        ),
    ]
}

/// Lists that don't fit in a page.
fn lists() -> Vec<Case> {
    let slice = |fd: &str, file: &str, len, off| {
        Op::SliceMatches { fd: fd.into(), path: format!("$CG/{file}"), len, off }.gives(true)
    };
    vec![
        case(
            "many-processes",
            ALL,
            [
                write_file("$CG/cgroup.procs", "0").ok(),
                Op::SpawnMany { count: 1100 }.gives(1100),
                read_file("$CG/cgroup.procs").ok(),
                open("list", "$CG/cgroup.procs", &["O_RDONLY"]).ok(),
                read_all("list", 13).ok(),
                pread("list", 4096, 1_000_000).gives(listed(&[])),
                slice("list", "cgroup.procs", 1, 4095),
                slice("list", "cgroup.procs", 100, 4090),
                slice("list", "cgroup.procs", 4096, 1),
                slice("list", "cgroup.procs", 7, 0),
                slice("list", "cgroup.procs", 65536, 3),
                open("list2", "$CG/cgroup.procs", &["O_RDONLY"]).ok(),
                read_all("list2", 4096).ok(),
                Op::Lseek { fd: "list2".into(), off: 0, whence: "set".into() }.gives(0),
                read_all("list2", 65536).ok(),
                read_file("$CG/$TASKS").ok(),
            ],
        ),
        case(
            "many-threads",
            ALL,
            [
                write_file("$CG/cgroup.procs", "0").ok(),
                Op::ThreadMany { count: 1500 }.gives(1500),
                read_file("$CG/cgroup.procs").ok(),
                read_file("$CG/$TASKS").ok(),
                open("list", "$CG/$TASKS", &["O_RDONLY"]).ok(),
                read_all("list", 1000).ok(),
                slice("list", "$TASKS", 10, 5001),
                // All of them move, and only they.
                write_file("$HOME/cgroup.procs", "$PID").ok(),
                read_file("$CG/$TASKS").gives(listed(&[])),
            ],
        ),
    ]
}
