//! Bad input gets one line that says what to do, the right status, and leaves nothing behind.

use std::fs;

use testkit::{Need, require};

use crate::support::{Place, program, said};

/// Options that are wrong for every verb that makes a view: what, status, and what the line says.
fn wrong_views(place: &Place) -> Vec<(Vec<String>, i32, &'static str)> {
    let path = place.path();
    let cgroup = |text: String| vec!["--cgroup".to_owned(), text];
    vec![
        (vec![], 2, "--pid PID, or --cgroup [HIERARCHY=]PATH"),
        (vec!["--pid".into(), "2147483647".into()], 1, "no process 2147483647"),
        (vec!["--pid".into(), "0".into()], 2, "--pid"),
        (vec!["--pid".into(), "one".into()], 2, "--pid"),
        (cgroup(format!("nosuch={path}")), 2, "'nosuch'"),
        (cgroup(format!("{path}/../x")), 2, "'..'"),
        (cgroup(format!("unified={path}/./x")), 2, "'..'"),
        (cgroup("relative/path".into()), 2, "begins with '/'"),
        (cgroup(format!("{path}/a\nb")), 2, "--cgroup"),
        (cgroup("/".into()), 2, "name a cgroup below it"),
        (cgroup("unified=/".into()), 2, "name a cgroup below it"),
        (cgroup(format!("{path}/nosuch")), 1, "no cgroup"),
        (cgroup(format!("pids={path}/nosuch")), 1, "no cgroup"),
        (cgroup(format!("unified={path}/cgroup.procs")), 1, "name the cgroup's directory"),
        (cgroup(format!("unified={path}/cgroup.procs/x")), 1, ""),
        ([cgroup(path.clone()), vec!["--shape".into(), "nosuch".into()]].concat(), 2, "host-path, rooted, full"),
        ([cgroup(path.clone()), vec!["--policy".into(), "nosuch".into()]].concat(), 2, "strict, delegate"),
        ([cgroup(path.clone()), vec!["--nosuch".into()]].concat(), 2, "--nosuch"),
        ([cgroup(path.clone()), vec!["--log-level".into(), "nosuch".into()]].concat(), 2, "error, warn, info, debug"),
        ([cgroup(path.clone()), vec!["--log-format".into(), "nosuch".into()]].concat(), 2, "text, json"),
        ([cgroup(path), vec!["--log-file".into(), "/nosuch/file".into()]].concat(), 1, "/nosuch/file"),
    ]
}

#[test]
fn views_that_cannot_be() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let place = Place::with_cgroup(&["pids", "unified"]);
    let directory = place.directory("view");
    for (options, code, says) in wrong_views(&place) {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        for (verb, rest) in [
            ("mount", vec![directory.to_str().expect("a path")]),
            ("explain", vec!["write", "/"]),
            ("tree", vec![]),
            ("map", vec!["/"]),
        ] {
            let line = place.vcgroupfs(&[&[verb], options.as_slice(), &rest].concat()).fails(code);
            assert!(line.contains(says), "{verb} {options:?}: {line}");
        }
    }
    place.is_clean();
}

#[test]
fn runs_that_cannot_be() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let place = Place::with_cgroup(&["pids", "unified"]);
    let path = place.path();
    let below = ["--cgroup", path.as_str(), "--name", "child"];
    for (options, code, says) in [
        (vec![], 2, "COMMAND"),
        (vec!["--pid", "1", "--", "true"], 2, "--cgroup"),
        (vec!["--name", "a/b", "--", "true"], 2, "--name"),
        (vec!["--name", "..", "--", "true"], 2, "--name"),
        (vec!["--name", "", "--", "true"], 2, "--name"),
        (vec!["--cgroup", "/nosuch-at-all", "--", "true"], 1, "no hierarchy has"),
        (vec!["--cgroup", "nosuch=/x", "--", "true"], 2, "'nosuch'"),
        (vec!["--cgroup", "unified=/nosuch-at-all", "--", "true"], 1, "nosuch-at-all"),
        ([&below[..], &["--log-file", "/nosuch/file", "--", "true"]].concat(), 1, "/nosuch/file"),
        ([&below[..], &["--log-level", "nosuch", "--", "true"]].concat(), 2, "error, warn, info, debug"),
        ([&below[..], &["--shape", "nosuch", "--", "true"]].concat(), 2, "host-path, rooted, full"),
    ] {
        let line = place.vcgroupfs(&[&["run"], options.as_slice()].concat()).fails(code);
        assert!(line.contains(says), "{options:?}: {line}");
        place.is_clean();
    }
}

/// Options stand anywhere; how many words there are is counted all the same.
#[test]
fn words_of_explain() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let place = Place::with_cgroup(&["unified"]);
    let own = std::process::id().to_string();
    let told = place.vcgroupfs(&["explain", &own, "--as", "1:1", "lookup", "--json", "/"]);
    assert!(told.code == 0 && told.stdout.contains("\"verdict\""), "{told:?}");
    let cgroup = place.path();
    for (arguments, says) in [
        (vec!["lookup"], "OP and PATH, or TARGET"),
        (vec![&own, "lookup", "/", "/"], "OP and PATH, or TARGET"),
        (vec!["--cgroup", &cgroup, &own, "lookup", "/"], "OP and PATH alone"),
        (vec![&own, "nosuch", "/"], "'nosuch' is no OP"),
    ] {
        let line = place.vcgroupfs(&[&["explain"], arguments.as_slice()].concat()).fails(2);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
}

#[test]
fn directories_that_cannot_be_mounted_on() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let place = Place::with_cgroup(&["unified"]);
    let path = place.path();
    fs::write(place.directory("full").join("something"), "").expect("a file");
    fs::write(place.file("file"), "").expect("a file");
    fs::create_dir(place.file("new\nline")).expect("a directory");
    fs::write(place.file("new\nline/file"), "").expect("a file");
    for (name, says) in [
        ("nosuch", "make the directory first"),
        ("nosuch/below", "make the directory first"),
        ("file", "isn't a directory"),
        ("file/below", "file/below"),
        ("full", "isn't empty"),
        ("new\nline", "isn't empty"),
    ] {
        let directory = place.file(name);
        for foreground in [&[][..], &["-f"]] {
            let arguments =
                [&["mount", "--cgroup", &path], foreground, &[directory.to_str().expect("a path")]].concat();
            let line = place.vcgroupfs(&arguments).fails(1);
            assert!(line.contains(says), "{name}: {line}");
        }
    }
    place.is_clean();
}

#[test]
fn questions_that_make_no_sense() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let place = Place::with_cgroup(&["unified"]);
    let path = place.path();
    for (arguments, code, says) in [
        (vec!["explain", "nosuch", "/"], 2, "mkdir"),
        (vec!["explain", "write", "relative"], 2, "begins with '/'"),
        (vec!["explain", "write", "/a/../b"], 2, "'..'"),
        (vec!["explain", "write"], 2, "PATH"),
        (vec!["tree", "/nosuch"], 1, "explain"),
        (vec!["tree", "/unified/nosuch"], 1, "explain"),
        (vec!["tree", "x"], 2, "begins with '/'"),
        (vec!["map", "x"], 2, "begins with '/'"),
        (vec!["map"], 2, "PATH"),
    ] {
        let line = place.vcgroupfs(&[&arguments[..], &["--cgroup", &path]].concat()).fails(code);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    let line = place.vcgroupfs(&["nosuch"]).fails(2);
    assert!(line.contains("nosuch") && line.contains("--help"), "{line}");
    place.is_clean();
}

#[test]
fn what_is_no_view_is_not_unmounted() {
    require!(Need::Root);
    let place = Place::new();
    let directory = place.directory("plain");
    for path in [directory.to_str().expect("a path"), "/proc", "/nosuch", "/proc/self/cmdline"] {
        let line = place.vcgroupfs(&["umount", path]).fails(1);
        assert!(line.contains("not a view"), "{path}: {line}");
    }
    assert!(fs::metadata("/proc/self").is_ok(), "/proc is still there");
    place.vcgroupfs(&["umount"]).fails(2);
    place.vcgroupfs(&["umount", ""]).fails(2);
    place.is_clean();
}

#[test]
fn without_fuse() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let place = Place::with_cgroup(&["unified"]);
    let (path, directory) = (place.path(), place.directory("view"));
    // In a mount namespace of its own, with nothing in /dev.
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let program = program().to_str().expect("a path");
    for arguments in [
        vec!["mount", "--cgroup", &path, directory.to_str().expect("a path")],
        vec!["mount", "-f", "--cgroup", &path, directory.to_str().expect("a path")],
        vec!["run", "--cgroup", &path, "--name", "child", "--", "true"],
    ] {
        let mut command = place.command_of("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", program]).args(&arguments);
        let line = said(&mut command).fails(3);
        assert!(line.contains("modprobe fuse"), "{line}");
    }
    place.is_clean();
}
