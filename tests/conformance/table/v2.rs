//! Core files of cgroup v2.

use testkit::probe::Op;
use testkit::probe::names::*;

use crate::case::{Case, IntoStep, Step, Where, case};

const V2: &[Where] = &[Where::V2];

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "max-depth",
            V2,
            [
                write_file("$CG/cgroup.max.depth", "1").ok(),
                mkdir("$CG/a").ok(),
                mkdir("$CG/a/b").errno("EAGAIN"),
                write_file("$CG/cgroup.max.depth", "0").ok(),
                mkdir("$CG/b").errno("EAGAIN"),
                write_file("$CG/cgroup.max.depth", "-1").errno("ERANGE"),
                write_file("$CG/cgroup.max.depth", "abc").errno("EINVAL"),
                write_file("$CG/cgroup.max.depth", "99999999999").into_step(),
                write_file("$CG/cgroup.max.depth", " max\n").ok(),
                read_file("$CG/cgroup.max.depth").text("max\n"),
                mkdir("$CG/b").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "max-descendants",
            V2,
            [
                write_file("$CG/cgroup.max.descendants", "2").ok(),
                mkdir("$CG/a").ok(),
                mkdir("$CG/a/b").ok(),
                mkdir("$CG/a/c").errno("EAGAIN"),
                mkdir("$CG/c").errno("EAGAIN"),
                // The name that exists comes first.
                mkdir("$CG/a").errno("EEXIST"),
                rmdir("$CG/a/b").ok(),
                mkdir("$CG/c").ok(),
                write_file("$CG/cgroup.max.descendants", "-2").errno("ERANGE"),
                read_file("$CG/cgroup.stat").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "freeze",
            V2,
            [
                read_file("$CG/cgroup.events").text("populated 0\nfrozen 0\n"),
                spawn("C").ok(),
                write_file("$CG/cgroup.procs", "$C").ok(),
                read_file("$CG/cgroup.events").text("populated 1\nfrozen 0\n"),
                write_file("$CG/cgroup.freeze", "1").ok(),
                Op::Await { path: "$CG/cgroup.events".into(), text: "frozen 1".into() }.gives(true),
                read_file("$CG/cgroup.freeze").text("1\n"),
                write_file("$CG/cgroup.freeze", "2").errno("ERANGE"),
                write_file("$CG/cgroup.freeze", "-1").errno("ERANGE"),
                write_file("$CG/cgroup.freeze", "x").errno("EINVAL"),
                write_file("$CG/cgroup.freeze", "0\n").ok(),
                Op::Await { path: "$CG/cgroup.events".into(), text: "frozen 0".into() }.gives(true),
            ],
        )
        .by_owner_too(),
        case(
            "kill",
            V2,
            [
                mkdir("$CG/a").ok(),
                spawn("C").ok(),
                spawn("D").ok(),
                write_file("$CG/a/cgroup.procs", "$C").ok(),
                write_file("$CG/cgroup.kill", "2").errno("ERANGE"),
                write_file("$CG/cgroup.kill", "x").errno("EINVAL"),
                write_file("$CG/cgroup.kill", "1").ok(),
                Op::Wait { name: "C".into() }.ok(),
                membership("$D").gives("/home"),
                Op::Await { path: "$CG/cgroup.events".into(), text: "populated 0".into() }.gives(true),
                rmdir("$CG/a").ok(),
            ],
        )
        .by_owner_too(),
        case(
            "subtree-control",
            V2,
            [
                read_file("$CG/cgroup.controllers").ok(),
                read_file("$CG/cgroup.subtree_control").text(""),
                write_file("$CG/cgroup.subtree_control", "+nonsense").errno("EINVAL"),
                write_file("$CG/cgroup.subtree_control", "pids").errno("EINVAL"),
                write_file("$CG/cgroup.subtree_control", "+").errno("EINVAL"),
                write_file("$CG/cgroup.subtree_control", "+hugetlb").into_step(),
                write_file("$CG/cgroup.subtree_control", "+cpuset +hugetlb").into_step(),
                write_file("$CG/cgroup.subtree_control", "-hugetlb").ok(),
                write_file("$CG/cgroup.subtree_control", "+hugetlb -hugetlb").ok(),
                write_file("$CG/cgroup.subtree_control", " \n").ok(),
                write_file("$CG/cgroup.subtree_control", "+hugetlb,+cpuset").errno("EINVAL"),
                write_file("$CG/cgroup.controllers", "+hugetlb").errno("EINVAL"),
            ],
        )
        .by_owner_too(),
        case(
            "subtree-control-and-members",
            V2,
            [
                mkdir("$CG/a").ok(),
                write_file("$CG/cgroup.procs", "0").ok(),
                write_file("$CG/cgroup.subtree_control", "+hugetlb").into_step(),
                write_file("$HOME/cgroup.procs", "0").ok(),
                write_file("$CG/cgroup.subtree_control", "+hugetlb").into_step(),
                readdir("$CG/a").ok(),
                write_file("$CG/a/cgroup.subtree_control", "+hugetlb").into_step(),
                write_file("$CG/cgroup.subtree_control", "-hugetlb").into_step(),
                write_file("$CG/cgroup.procs", "0").into_step(),
            ],
        ),
        case("pressure", V2, pressure()),
        case("peak-is-for-each-open-file", V2, peak()),
        case(
            "all-files",
            V2,
            [
                readdir("$CG").ok(),
                stat("$CG/cgroup.type").ok(),
                stat("$CG/cgroup.kill").ok(),
                stat("$CG/cgroup.freeze").ok(),
                stat("$CG/cgroup.max.depth").ok(),
                stat("$CG/cgroup.stat").ok(),
                read_file("$CG/cgroup.stat").ok(),
                read_file("$CG/cpu.stat").ok(),
                read_file("$CG/cgroup.type").text("domain\n"),
            ],
        ),
        case(
            "populated-is-polled",
            V2,
            [
                open("f", "$CG/cgroup.events", &["O_RDONLY"]).ok(),
                Op::Poll { fd: "f".into() }.ok(),
                read("f", 100).ok(),
                Op::Poll { fd: "f".into() }.ok(),
                spawn("C").ok(),
                write_file("$CG/cgroup.procs", "$C").ok(),
                Op::AwaitPoll { fd: "f".into(), event: "PRI".into() }.gives(true),
                pread("f", 100, 0).text("populated 1\nfrozen 0\n"),
                Op::Poll { fd: "f".into() }.ok(),
            ],
        ),
        case(
            "poll-of-a-removed-cgroup",
            V2,
            [
                mkdir("$CG/a").ok(),
                open("f", "$CG/a/cgroup.events", &["O_RDONLY"]).ok(),
                read("f", 100).ok(),
                rmdir("$CG/a").ok(),
                Op::AwaitPoll { fd: "f".into(), event: "ERR".into() }.gives(true),
            ],
        ),
    ]
}

/// A reset of `memory.peak` (Linux 6.12) is the open file's (`peak_write`). Where memory is a controller of v1, there's no such file.
fn peak() -> Vec<Step> {
    let compare = |a: &str, b: &str| Op::CompareNumbers { a: a.into(), b: b.into() }.into_step();
    let mut steps = Vec::new();
    for file in ["memory.peak", "memory.swap.peak"] {
        let path = format!("$CG/{file}");
        steps.extend([
            // Memory comes and goes, so that the peak is above what is used.
            write_file("$CG/cgroup.procs", "0").into_step(),
            spawn("C").ok(),
            kill("C").ok(),
            write_file("$HOME/cgroup.procs", "0").ok(),
            open("a", &path, &["O_RDWR"]).into_step(),
            open("b", &path, &["O_RDWR"]).into_step(),
            open("r", &path, &["O_RDONLY"]).into_step(),
            compare("a", "b"),
            write("a", "reset").into_step(),
            compare("a", "b"),
            compare("r", "b"),
            open("c", &path, &["O_RDONLY"]).into_step(),
            compare("c", "b"),
            write("a", "").into_step(),
            write("b", "anything").into_step(),
            compare("a", "c"),
            compare("r", "c"),
            close("a").into_step(),
            compare("b", "c"),
            open("a", &path, &["O_RDONLY"]).into_step(),
            compare("a", "r"),
        ]);
    }
    steps
}

/// Whether there is pressure information at all depends on the kernel and how it was started.
fn pressure() -> Vec<Step> {
    vec![
        read_file("$CG/cgroup.pressure").into_step(),
        read_file("$CG/memory.pressure").into_step(),
        open("f", "$CG/memory.pressure", &["O_RDWR"]).into_step(),
        write("f", "some 150000 1000000").into_step(),
        write("f", "some 150000 1000000").into_step(),
        write_file("$CG/memory.pressure", "nonsense").into_step(),
        write_file("$CG/memory.pressure", "some 150000 20000000").into_step(),
        // Without CAP_SYS_RESOURCE the window is a multiple of two seconds.
        chmod("$CG/memory.pressure", 0o666).ok(),
        seteuid(12345).ok(),
        write_file("$CG/memory.pressure", "some 150000 1000000").into_step(),
        write_file("$CG/memory.pressure", "some 150000 2000000").into_step(),
        seteuid(0).ok(),
        write_file("$CG/cgroup.pressure", "0").into_step(),
        readdir("$CG").ok(),
        write_file("$CG/cgroup.pressure", "2").into_step(),
        write_file("$CG/cgroup.pressure", "1").into_step(),
    ]
}
