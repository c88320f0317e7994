//! A server is killed before each system call that it makes for an operation: the operation is done once, and answered rightly.
//!
//! strace(1) kills it. Since it counts the calls of each thread, which the requests are shared out among, the same number isn't always the same
//! call; over all numbers every call has its turn.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::Pid;
use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{Need, Random, ViewOptions, comes_true, end_of, is_over, require, wait_until};

use crate::single::Single;

/// How many points of each operation are tried, unless `VCGROUPFS_POINTS` says otherwise.
const POINTS: usize = 4;

/// Later calls aren't made for a single operation.
const LAST_POINT: usize = 24;

/// How long strace may take to notice what it has done.
const TRACER_TIMEOUT: Duration = Duration::from_secs(1);

/// After this time an operation counts as hung.
const HANG_TIMEOUT: Duration = Duration::from_secs(40);

/// strace on a server, that kills it.
struct Tracer(Child);

impl Tracer {
    /// Kills the server before the call of this number of a thread.
    fn start(server: Pid, call: usize) -> Self {
        let threads: Vec<_> =
            std::fs::read_dir(format!("/proc/{server}/task")).expect("its threads").flatten().collect();
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/dev/null", "-e"]);
        command.arg(format!("inject=all:signal=SIGKILL:when={call}"));
        // Not what it starts: that an agent ends is another matter.
        threads.iter().for_each(|thread| {
            command.arg("-p").arg(thread.file_name());
        });
        let tracer = Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace"));
        let is_traced = |thread: &std::fs::DirEntry| {
            let status = std::fs::read_to_string(thread.path().join("status"));
            status.is_err() || status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        };
        wait_until("the server is traced", || is_over(server) || threads.iter().all(is_traced));
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It ends with the server. If that lives on, it's let go. Sometimes strace waits for a thread that it has stopped and that was killed; when
        // strace is killed, that ends.
        if end_of(&mut self.0, Duration::ZERO).is_none() {
            let _ = nix::sys::signal::kill(Pid::from_raw(self.0.id().cast_signed()), nix::sys::signal::Signal::SIGTERM);
        }
        if end_of(&mut self.0, TRACER_TIMEOUT).is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// What is prepared, what is done while the server is killed, and what is compared and undone afterwards.
struct Case {
    before: Vec<Op>,
    op: Op,
    after: Vec<Op>,
}

fn cases(selector: &str) -> Vec<Case> {
    let value = if selector == "unified" { "cgroup.max.depth" } else { "notify_on_release" };
    let file = format!("$CG/a/{value}");
    let xattr = |value: &str| Op::Setxattr { path: "$CG/a".into(), name: "user.a".into(), value: value.into() };
    let case = |before: &[Op], op: Op, after: &[Op]| Case {
        before: [&[mkdir("$CG/a"), spawn("C0")], before].concat(),
        op,
        after: [
            after,
            &[
                readdir("$CG"),
                Op::Tree { path: "$CG/a".into() },
                stat("$CG/a"),
                kill("C0"),
                rmdir("$CG/a"),
                stat("$CG/a"),
            ],
        ]
        .concat(),
    };
    let mut all = vec![
        case(&[], mkdir("$CG/b"), &[stat("$CG/b"), rmdir("$CG/b")]),
        case(&[mkdir("$CG/b")], rmdir("$CG/b"), &[stat("$CG/b"), mkdir("$CG/b"), rmdir("$CG/b")]),
        case(&[], mkdir("$CG/a"), &[]),
        case(&[], rmdir("$CG/b"), &[]),
        case(&[], write_file("$CG/a/cgroup.procs", "$C0"), &[membership("$C0"), read_file("$CG/a/cgroup.procs")]),
        case(&[], write_file(&file, "1"), &[read_file(&file)]),
        case(&[open("f", &file, &["O_RDWR"])], write("f", "1"), &[pread("f", 99, 0), read("f", 9), close("f")]),
        case(&[], open("f", &file, &["O_RDWR"]), &[write("f", "1"), pread("f", 99, 0), close("f")]),
        case(&[open("f", &file, &["O_RDWR"])], close("f"), &[]),
        case(&[], read_file(&file), &[]),
        case(&[], readdir("$CG/a"), &[]),
        case(&[], stat("$CG/a/cgroup.procs"), &[]),
        case(&[], xattr("1"), &[Op::Listxattr { path: "$CG/a".into() }]),
        case(&[], chmod("$CG/a", 0o700), &[]),
        case(&[], chown("$CG/a", testkit::OWNER), &[]),
    ];
    if selector == "unified" {
        let event = [open("e", "$CG/a/cgroup.events", &["O_RDONLY"]), pread("e", 99, 0)];
        let seen = [pread("e", 99, 0), close("e")];
        all.push(case(
            &event,
            write_file("$CG/a/cgroup.procs", "$C0"),
            &[&[poll_pri("e", 20_000)], &seen[..]].concat(),
        ));
        all.push(case(&event, poll_pri("e", 0), &seen));
    } else {
        all.push(case(&[], rename("$CG/a", "$CG/b"), &[stat("$CG/b"), rename("$CG/b", "$CG/a")]));
    }
    all
}

/// The calls at which an operation's server is killed.
fn points(random: &mut Random) -> Vec<usize> {
    let count = std::env::var("VCGROUPFS_POINTS").ok().map_or(POINTS, |text| text.parse().expect("VCGROUPFS_POINTS"));
    if count >= LAST_POINT {
        return (1..=LAST_POINT).collect();
    }
    (0..count).map(|_| 1 + random.below(LAST_POINT)).collect()
}

/// Removes from an outcome what is each side's own: numbers of processes and paths.
fn comparable(
    op: &Op,
    outcome: testkit::probe::Outcome,
    normal: &mut crate::normal::Normal,
) -> testkit::probe::Outcome {
    normal.of(op, outcome)
}

fn killed_at_each_point(selector: &'static str) {
    require_survival!();
    require!(Need::Program("strace"));
    let mut single = Single::new(selector, ViewOptions::new());
    let place = if selector == "unified" { crate::scene::Place::V2 } else { crate::scene::Place::V1 };
    let [mut left, mut right] =
        [&single.kernel, &single.view].map(|side| crate::normal::Normal::new(place, side.cgroup.path()));
    let mut random = Random::new(u64::from(std::process::id()), 0);
    let mut kills = 0;
    for case in cases(selector) {
        for point in points(&mut random) {
            let what = format!("{selector} {:?}, killed at call {point}", case.op);
            for op in &case.before {
                let (kernel, view) = single.both(op);
                assert_eq!(
                    comparable(op, view, &mut right),
                    comparable(op, kernel, &mut left),
                    "{what}: {op:?} before"
                );
            }
            let server = single.view.live().when_live().server;
            let tracer = Tracer::start(server, point);
            let kernel = single.kernel.run(&case.op);
            let op = [case.op.clone()];
            single.view.session().begin(&op);
            let answer = single.view.session().finish_within(&op, TRACER_TIMEOUT);
            // The call may come after the answer, or not at all.
            kills += usize::from(comes_true(Duration::from_millis(5), || is_over(server)));
            drop(tracer);
            let answer = answer.or_else(|_| single.view.session().finish_within(&op, HANG_TIMEOUT));
            let view = answer.unwrap_or_else(|error| panic!("{what}: {error}")).remove(0);
            assert_eq!(comparable(&case.op, view, &mut right), comparable(&case.op, kernel, &mut left), "{what}");
            for op in &case.after {
                let (kernel, view) = single.both(op);
                assert_eq!(comparable(op, view, &mut right), comparable(op, kernel, &mut left), "{what}: {op:?} after");
            }
        }
    }
    println!("{selector}: {kills} kills");
    assert!(kills > 0, "no server was killed");
}

#[test]
fn an_operation_on_v1_is_done_once() {
    killed_at_each_point("name=systemd");
}

#[test]
fn an_operation_on_v2_is_done_once() {
    killed_at_each_point("unified");
}
