//! The log: who was rejected, where and why; quiet unless asked, bounded, and not to be forged.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::{Need, View, ViewOptions, require};

use crate::support::{Sandbox, program, wait_until};

/// Rejected operations on a rooted, strict view: what the log calls them, on which path, by which rule.
fn rejected(view: &Path) -> Vec<(&'static str, PathBuf, &'static str, io::Result<()>)> {
    let at = |path: &str| view.join(path);
    let write = |path: &str| fs::File::options().write(true).open(at(path)).map(drop);
    let mode = fs::Permissions::from_mode(0o777);
    vec![
        ("write", at("pids/pids.max"), "v1-controllers-read-only", write("pids/pids.max")),
        ("write", at("unified/cgroup.max.depth"), "not-delegatable", write("unified/cgroup.max.depth")),
        ("mkdir", at("pids/new"), "v1-controllers-read-only", fs::create_dir(at("pids/new"))),
        ("mkdir", at("new"), "outside-subtree", fs::create_dir(at("new"))),
        ("rmdir", at("unified"), "boundary-itself", fs::remove_dir(at("unified"))),
        ("rename", at("unified"), "boundary-itself", fs::rename(at("unified"), at("renamed"))),
        ("chmod", at("pids"), "v1-controllers-read-only", fs::set_permissions(at("pids"), mode)),
        ("create", at("unified/new"), "no-file-creation", fs::File::create_new(at("unified/new")).map(drop)),
        ("unlink", at("unified/cgroup.procs"), "no-such-operation", fs::remove_file(at("unified/cgroup.procs"))),
        ("symlink", at("unified/new"), "no-such-operation", std::os::unix::fs::symlink("x", at("unified/new"))),
        (
            "truncate",
            at("pids/pids.max"),
            "v1-controllers-read-only",
            nix::unistd::truncate(&at("pids/pids.max"), 0).map_err(Into::into),
        ),
        ("write", at("unified/cgroup.procs"), "source-outside-subtree", fs::write(at("unified/cgroup.procs"), "1")),
    ]
}

fn mount(sandbox: &Sandbox, options: &[(&str, &str)]) -> View {
    let mut all = ViewOptions::new().cgroup(sandbox.cgroup()).shape("rooted");
    for (name, value) in options {
        all = all.option(name, value);
    }
    let view = View::mount(program(), &all);
    if options.contains(&("--log-level", "info")) {
        wait_until("the server says that it's live", || view.log().contains("the view is live"));
    }
    view
}

#[test]
fn rejections_name_process_operation_path_and_rule() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for format in ["text", "json"] {
        let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
        let view = mount(&sandbox, &[("--log-level", "info"), ("--log-format", format)]);
        for (operation, path, rule, outcome) in rejected(&view.dir()) {
            let error = outcome.expect_err(&format!("{operation} {}", path.display()));
            let shown = format!("/{}", path.strip_prefix(view.dir()).expect("a path in the view").display());
            let pid = std::process::id();
            let is_told = |log: &str| {
                log.lines().any(|line| match format {
                    "text" => {
                        line.contains("rejected: ")
                            && [
                                format!("pid={pid} "),
                                format!("operation=\"{operation}\""),
                                format!("path=\"{shown}\""),
                            ]
                            .iter()
                            .all(|field| line.contains(field))
                            && line.contains(rule)
                    }
                    _ => {
                        // The last line may still be in the making.
                        let event: Value = serde_json::from_str(line).unwrap_or_default();
                        event["pid"] == pid
                            && event["operation"] == operation
                            && event["path"] == *shown
                            && event["rule"] == rule
                    }
                })
            };
            let log = view.log_once(is_told);
            assert!(is_told(&log), "{format}: {operation} {shown} {rule} ({error}) isn't in the log:\n{log}");
        }
    }
}

#[test]
fn rejections_are_not_logged_by_default() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
    let view = mount(&sandbox, &[]);
    for (operation, path, _, outcome) in rejected(&view.dir()) {
        assert!(outcome.is_err(), "{operation} {}", path.display());
    }
    assert_eq!(view.log(), "");
}

/// What the text log says of a field.
fn field(line: &str, name: &str) -> Option<u64> {
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[test]
fn rejections_in_a_loop_are_rate_limited() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
    let view = mount(&sandbox, &[("--log-level", "info")]);
    let file = view.dir().join("pids/pids.max");
    let mut tried: u64 = 0;
    let mut attempt = || {
        assert!(fs::File::options().write(true).open(&file).is_err());
        tried += 1;
    };
    for _ in 0..10_000 {
        attempt();
    }
    assert!(view.log().len() < 64 * 1024, "{} bytes", view.log().len());
    let accounted = |log: &str| -> u64 {
        let records = log.lines().filter(|line| line.contains("rejected: "));
        records.map(|line| 1 + field(line, "suppressed").unwrap_or(0)).sum()
    };
    // Each record says how many went without one before.
    wait_until("a record of what was suppressed", || {
        attempt();
        accounted(&view.log()) >= 10_000
    });
    let log = view.log();
    let accounted = accounted(&log);
    assert!(accounted >= 10_000 && accounted <= tried, "{accounted} of {tried}:\n{log}");
}

#[test]
fn log_lines_cannot_be_forged() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for format in ["text", "json"] {
        let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
        let view = mount(&sandbox, &[("--log-level", "info"), ("--log-format", format)]);
        let before = view.log().lines().count();
        let names = [
            "x\n2026-01-01T00:00:00.000000Z  INFO rejected: forged pid=1",
            "x\r\x1b[2K\x1b[1Aforged",
            "x\" pid=1 operation=\"forged",
            "x\u{202e}\u{2028}\u{85}y",
            "\\n",
        ];
        for name in names {
            let error = fs::create_dir(view.dir().join(name)).expect_err("a rejection");
            assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EACCES as i32), "{name:?}");
        }
        use std::os::unix::ffi::OsStrExt;
        assert!(fs::create_dir(view.dir().join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n"))).is_err());
        let log = view.log_once(|log| log.lines().count() > before + names.len() && log.ends_with('\n'));
        let lines: Vec<&str> = log.lines().skip(before).collect();
        assert_eq!(lines.len(), names.len() + 1, "one line each:\n{log}");
        let unsafe_characters = |one: char| one != '\n' && (one.is_control() || matches!(one, '\u{202e}' | '\u{2028}'));
        assert!(!log.contains(unsafe_characters), "{log:?}");
        for line in lines {
            let pid = match format {
                "text" => field(line, "pid"),
                _ => serde_json::from_str::<Value>(line).expect("JSON")["pid"].as_u64(),
            };
            assert_eq!(pid, Some(std::process::id().into()), "{line}");
        }
    }
}

#[test]
fn a_server_in_the_background_logs_to_a_file() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let (directory, log) = (sandbox.directory("view"), sandbox.file("log"));
    let [directory_name, log_name] = [&directory, &log].map(|path| path.to_str().expect("a path"));
    fs::write(&log, "before\n").expect("a log");
    sandbox
        .vcgroupfs(&[
            "mount",
            "--log-level",
            "info",
            "--log-file",
            log_name,
            "--cgroup",
            &sandbox.path(),
            directory_name,
        ])
        .ok();
    assert!(fs::create_dir(directory.join("new")).is_err());
    wait_until("the record", || fs::read_to_string(&log).is_ok_and(|text| text.contains("rejected: ")));
    assert!(fs::read_to_string(&log).expect("the log").starts_with("before\n"), "it's appended to");
    sandbox.vcgroupfs(&["umount", directory_name]).ok();
    sandbox.is_clean();
}
