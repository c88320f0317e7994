//! The probe and the system call filter, by themselves.

use std::process::Command;

use vcgroupfs_testkit::probe::{Op, Outcome, names::*};
use vcgroupfs_testkit::{Need, Programs, Session, TIMEOUT, require, run_to_end, wait_until};

fn session() -> Session {
    Session::start(&mut Command::new(&Programs::find().probe))
}

#[test]
fn files_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = session();
    probe.set("D", folder.path().display());
    assert_eq!(probe.run(&Op::Creat { path: "$D/a".into(), mode: 0o600 }).brief(), "ok");
    assert_eq!(probe.run(&write_file("$D/a", "x$PID")).brief(), "ok");
    let text = format!("x{}", probe.pid());
    assert_eq!(probe.run(&read_file("$D/a")).text(), Some(text.as_str()));
    assert_eq!(probe.run(&readdir("$D")), Outcome::Ok(serde_json::json!(["a file"])));
    assert_eq!(probe.run(&rmdir("$D/a")).errno(), Some("ENOTDIR"));
    assert_eq!(probe.run(&stat("$D/b")).errno(), Some("ENOENT"));
    let failed = probe.run(&read_file("$D"));
    assert_eq!(failed, Outcome::Err { errno: "EISDIR".into(), stage: "read".into() });
}

#[test]
fn threads_have_numbers_of_their_own() {
    let mut probe = session();
    let tid = probe.expect(&thread("T"));
    let folder = tempfile::tempdir().unwrap();
    probe.set("F", folder.path().join("f").display());
    probe.expect(&Op::Creat { path: "$F".into(), mode: 0o600 });
    probe.expect(&on("T", write_file("$F", "$TID")));
    assert_eq!(probe.run(&read_file("$F")).text(), Some(tid.to_string().as_str()));
    assert_ne!(tid, serde_json::json!(probe.pid()));
}

#[test]
fn children_end_with_the_probe() {
    let mut probe = session();
    let pid = probe.expect(&spawn("C"));
    assert!(std::fs::exists(format!("/proc/{pid}")).unwrap());
    drop(probe);
    let has_ended = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |text| text.contains(") Z "));
    wait_until("the end of the probe's child", has_ended);
}

#[test]
fn a_wrong_script_is_told_from_an_errno() {
    let output = run_to_end(
        Command::new(&Programs::find().probe).args([
            r#"{"op":"open","path":"/","flags":["O_WRONG"],"fd":"f"}"#,
            r#"{"op":"read","fd":"none","len":"x"}"#,
            r#"{"op":"stat","path":"$NONE"}"#,
            r#"{"op":"nonsense"}"#,
        ]),
        TIMEOUT,
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().all(|line| line.contains("bad")), "{text}");
}

#[test]
fn newer_system_calls_are_missing() {
    require!(Need::LegacySyscalls);
    let legacy = &Programs::find().legacy;
    let probe = &Programs::find().probe;
    // renameat2 with flags is Linux 3.15.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "").unwrap();
    let script = |to: &str| {
        let op = Op::Rename {
            from: folder.path().join("a").display().to_string(),
            to: folder.path().join(to).display().to_string(),
            flags: vec!["noreplace".into()],
        };
        serde_json::to_string(&op).unwrap()
    };
    let denied = run_to_end(Command::new(legacy).arg(probe).arg(script("b")), TIMEOUT);
    let answer = String::from_utf8(denied.stdout).unwrap();
    assert!(answer.contains("ENOSYS"), "{answer}");
    let allowed = run_to_end(Command::new(probe).arg(script("b")), TIMEOUT);
    assert_eq!(String::from_utf8(allowed.stdout).unwrap().trim(), r#"{"ok":null}"#);
}
