//! What the stand-in for an old kernel does to a plain process, beside what this kernel does.

use std::path::Path;
use std::process::Command;

use vcgroupfs_testkit::probe::{Op, names::*};
use vcgroupfs_testkit::{Need, Programs, Session, TIMEOUT, TestCgroup, require, run_to_end};

/// A command as on an old kernel, or as it is.
fn command(legacy: bool, program: &Path) -> Command {
    if !legacy {
        return Command::new(program);
    }
    let mut command = Command::new(&Programs::find().legacy);
    command.arg(program);
    command
}

/// What a script prints that is run in a cgroup, `$CG`, beside which there is another one, `$OTHER`.
fn script(legacy: bool, hierarchy: &'static str, text: &str) -> String {
    let (own, other) = (TestCgroup::new(&[hierarchy]), TestCgroup::new(&[hierarchy]));
    let text = format!("echo 0 >$CG/cgroup.procs; {text}");
    let mut command = command(legacy, Path::new("sh"));
    command.args(["-c", &text]).env("CG", own.dir(hierarchy)).env("OTHER", other.dir(hierarchy));
    let output = run_to_end(&mut command, TIMEOUT);
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

#[test]
fn a_list_is_made_when_it_is_opened() {
    require!(Need::Root, Need::Hierarchy("pids"), Need::LegacySyscalls);
    for list in ["cgroup.procs", "tasks"] {
        let text = format!("exec 5<$OTHER/{list}; echo 0 >$OTHER/{list}; read number <&5; echo [$number] $$");
        let (old, new) = (script(true, "pids", &text), script(false, "pids", &text));
        assert!(old.starts_with("[] "), "{list}: {old:?}");
        let (number, own) = new.trim().split_once(' ').expect("two words");
        assert_eq!(number, format!("[{own}]"), "{list}");
    }
}

#[test]
fn a_list_shows_the_numbers_of_who_opened_it() {
    require!(Need::Root, Need::Hierarchy("pids"), Need::LegacySyscalls);
    // In the pid namespace there's one process, which reads.
    let text = "exec 5<$CG/cgroup.procs; unshare --pid --fork cat <&5; echo $$";
    let (old, new) = (script(true, "pids", text), script(false, "pids", text));
    assert_eq!(new.lines().next(), Some("1"), "{new:?}");
    let lines: Vec<&str> = old.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{old:?}");
    // It opens, too.
    for legacy in [true, false] {
        assert_eq!(script(legacy, "pids", "unshare --pid --fork cat $CG/cgroup.procs"), "1\n", "{legacy}");
    }
}

#[test]
fn parts_of_a_list_are_read_one_after_the_other() {
    require!(Need::Root, Need::Hierarchy("pids"), Need::LegacySyscalls);
    let text = "sleep 60 & first=$!; sleep 60 & second=$!; exec 5<$CG/cgroup.procs; head -c 3 <&5; cat <&5; \
        kill $first $second; cat <&5; echo $first; echo $second; echo $$";
    let old = script(true, "pids", text);
    let numbers: Vec<&str> = old.lines().collect();
    assert_eq!(numbers.len(), 6, "{old:?}");
    let (mut listed, mut own) = (numbers[..3].to_vec(), numbers[3..].to_vec());
    listed.sort_unstable();
    own.sort_unstable();
    assert_eq!(listed, own);
}

#[test]
fn files_that_are_sequences_are_not_written_at_an_offset() {
    require!(Need::Root, Need::Hierarchy("freezer"), Need::LegacySyscalls);
    let cgroup = TestCgroup::new(&["freezer"]);
    for legacy in [true, false] {
        let mut probe = Session::start(&mut command(legacy, &Programs::find().probe));
        probe.set("CG", cgroup.dir("freezer").display());
        let mut at_offset = |file: &str, flags: &str, data: &str| {
            probe.expect(&open("f", &format!("$CG/{file}"), &[flags]));
            let outcome = probe.run(&Op::Pwrite { fd: "f".into(), data: data.into(), off: 0 });
            if flags == "O_RDWR" {
                probe.expect(&write("f", data));
            }
            probe.expect(&close("f"));
            outcome.brief()
        };
        let sequence = if legacy { "ESPIPE" } else { "ok" };
        assert!(at_offset("freezer.state", "O_WRONLY", "THAWED").starts_with(sequence));
        assert!(at_offset("freezer.state", "O_RDWR", "THAWED").starts_with(sequence));
        assert!(at_offset("cgroup.procs", "O_RDWR", "0").starts_with(sequence));
        assert!(at_offset("cgroup.procs", "O_WRONLY", "0").starts_with("ok"));
        assert!(at_offset("notify_on_release", "O_RDWR", "0").starts_with("ok"));
        probe.expect(&open("f", "$CG/freezer.state", &["O_RDONLY"]));
        assert!(probe.run(&pread("f", 10, 0)).brief().starts_with(sequence));
    }
}

#[test]
fn migrating_others_takes_a_capability_in_devices() {
    require!(Need::Root, Need::Hierarchy("devices"), Need::Hierarchy("pids"), Need::LegacySyscalls);
    let text = "sleep 60 & for number in 0 $$ $! 999999; do $AS /bin/echo $number >$OTHER/$LIST; done; kill $!";
    let without = "setpriv --bounding-set=-sys_admin";
    let outcome = |legacy, hierarchy, by: &str, list: &str| {
        let output = script(legacy, hierarchy, &format!("AS='{by}'; LIST={list}; {text}"));
        let errors: Vec<&str> = output.lines().filter_map(|line| line.rsplit(": ").next()).collect();
        errors.join(", ")
    };
    for list in ["cgroup.procs", "tasks"] {
        let denied = "Operation not permitted, Operation not permitted, No such process";
        assert_eq!(outcome(true, "devices", without, list), denied, "{list}");
        for (legacy, hierarchy, by) in [(true, "devices", ""), (false, "devices", without), (true, "pids", without)] {
            assert_eq!(outcome(legacy, hierarchy, by, list), "No such process", "{list} {hierarchy} {by}");
        }
    }
}
