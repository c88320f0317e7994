//! Bad input gets one line that says what to do, the right status, and leaves nothing behind.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use testkit::{Need, require};

use crate::support::{Sandbox, program, said};

/// Options that are wrong for every verb that makes a view: what, status, and what the line says.
fn wrong_views(sandbox: &Sandbox) -> Vec<(Vec<String>, i32, &'static str)> {
    let path = sandbox.path();
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
fn impossible_views_are_refused() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
    let directory = sandbox.directory("view");
    for (options, code, says) in wrong_views(&sandbox) {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        for (verb, rest) in [
            ("mount", vec![directory.to_str().expect("a path")]),
            ("explain", vec!["write", "/"]),
            ("tree", vec![]),
            ("map", vec!["/"]),
        ] {
            let line = sandbox.vcgroupfs(&[&[verb], options.as_slice(), &rest].concat()).fails(code);
            assert!(line.contains(says), "{verb} {options:?}: {line}");
        }
    }
    sandbox.is_clean();
}

#[test]
fn run_refuses_bad_arguments() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["pids", "unified"]);
    let path = sandbox.path();
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
        let line = sandbox.vcgroupfs(&[&["run"], options.as_slice()].concat()).fails(code);
        assert!(line.contains(says), "{options:?}: {line}");
        sandbox.is_clean();
    }
}

/// Options stand anywhere; how many words there are is counted all the same.
#[test]
fn explain_takes_options_anywhere_and_counts_its_arguments() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let own = std::process::id().to_string();
    let told = sandbox.vcgroupfs(&["explain", &own, "--as", "1:1", "lookup", "--json", "/"]);
    assert!(told.code == 0 && told.stdout.contains("\"verdict\""), "{told:?}");
    let cgroup = sandbox.path();
    for (arguments, says) in [
        (vec!["lookup"], "needs an operation and a path"),
        (vec![&own, "lookup", "/", "/"], "one TARGET, one operation and one path"),
        (vec!["--cgroup", &cgroup, &own, "lookup", "/"], "no TARGET with --pid or --cgroup"),
        (vec![&own, "nosuch", "/"], "'nosuch' isn't an operation"),
    ] {
        let line = sandbox.vcgroupfs(&[&["explain"], arguments.as_slice()].concat()).fails(2);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
}

#[test]
fn mount_refuses_unsuitable_directories() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    fs::write(sandbox.directory("full").join("something"), "").expect("a file");
    fs::write(sandbox.file("file"), "").expect("a file");
    fs::create_dir(sandbox.file("new\nline")).expect("a directory");
    fs::write(sandbox.file("new\nline/file"), "").expect("a file");
    for (name, says) in [
        ("nosuch", "make the directory first"),
        ("nosuch/below", "make the directory first"),
        ("file", "isn't a directory"),
        ("file/below", "file/below"),
        ("full", "isn't empty"),
        ("new\nline", "isn't empty"),
    ] {
        let directory = sandbox.file(name);
        for foreground in [&[][..], &["-f"]] {
            let arguments =
                [&["mount", "--cgroup", &path], foreground, &[directory.to_str().expect("a path")]].concat();
            let line = sandbox.vcgroupfs(&arguments).fails(1);
            assert!(line.contains(says), "{name}: {line}");
        }
    }
    sandbox.is_clean();
}

#[test]
fn explain_tree_and_map_refuse_bad_arguments() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    for (arguments, code, says) in [
        (vec!["explain", "nosuch", "/"], 2, "mkdir"),
        (vec!["explain", "write", "relative"], 2, "begins with '/'"),
        (vec!["explain", "write", "/a/../b"], 2, "'..'"),
        (vec!["explain", "write"], 2, "an operation and a path"),
        (vec!["tree", "/nosuch"], 1, "explain"),
        (vec!["tree", "/unified/nosuch"], 1, "explain"),
        (vec!["tree", "x"], 2, "begins with '/'"),
        (vec!["map", "x"], 2, "begins with '/'"),
        (vec!["map"], 2, "PATH"),
    ] {
        let line = sandbox.vcgroupfs(&[&arguments[..], &["--cgroup", &path]].concat()).fails(code);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    let line = sandbox.vcgroupfs(&["nosuch"]).fails(2);
    assert!(line.contains("nosuch") && line.contains("--help"), "{line}");
    sandbox.is_clean();
}

#[test]
fn umount_refuses_a_directory_that_is_not_a_view() {
    require!(Need::Root);
    let sandbox = Sandbox::new();
    let directory = sandbox.directory("plain");
    for path in [directory.to_str().expect("a path"), "/proc", "/nosuch", "/proc/self/cmdline"] {
        let line = sandbox.vcgroupfs(&["umount", path]).fails(1);
        assert!(line.contains("no view is mounted on"), "{path}: {line}");
    }
    assert!(fs::metadata("/proc/self").is_ok(), "/proc is still there");
    sandbox.vcgroupfs(&["umount"]).fails(2);
    sandbox.vcgroupfs(&["umount", ""]).fails(2);
    sandbox.is_clean();
}

#[test]
fn mount_says_that_fuse_is_missing() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let (path, directory) = (sandbox.path(), sandbox.directory("view"));
    // In a mount namespace of its own, with nothing in /dev.
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let program = program().to_str().expect("a path");
    for arguments in [
        vec!["mount", "--cgroup", &path, directory.to_str().expect("a path")],
        vec!["mount", "-f", "--cgroup", &path, directory.to_str().expect("a path")],
        vec!["run", "--cgroup", &path, "--name", "child", "--", "true"],
    ] {
        let mut command = sandbox.command_of("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", program]).args(&arguments);
        let line = said(&mut command).fails(3);
        let says = "can't open /dev/fuse: No such file or directory (ENOENT); ";
        assert!(line.contains("modprobe fuse") && line.contains(says), "{line}");
    }
    sandbox.is_clean();
}

/// One wrong input of each kind: what the line says, in the words of the manual.
#[test]
fn messages_name_the_object_and_the_remedy() {
    require!(Need::Root);
    let sandbox = Sandbox::new();
    let directory = sandbox.directory("plain");
    let plain = directory.to_str().expect("a path");
    for (arguments, code, says) in [
        // A wrong value, an empty one, and one of several words.
        (vec!["mount", "--pid", "12a", plain], 2, "--pid: '12a' isn't a process id; see 'vcgroupfs mount --help'"),
        (vec!["mount", "--pid", "0", plain], 2, "--pid: '0' isn't a process id;"),
        (vec!["mount", "--pid", "+1", plain], 2, "--pid: '+1' isn't a process id;"),
        (vec!["mount", "--pid"], 2, "--pid has no value: see 'vcgroupfs mount --help'"),
        (vec!["list", "--log-file"], 2, "--log-file has no value"),
        (vec!["list", "--log-file", ""], 2, "--log-file is empty"),
        (vec!["list", "--log-file="], 2, "--log-file is empty"),
        (vec!["mount", "--cgroup", "nosuch=/", plain], 2, "no hierarchy 'nosuch' is mounted here"),
        (vec!["mount", "--cgroup", "=/", plain], 2, "no hierarchy '' is mounted here"),
        (vec!["mount", "--cgroup", "/", plain], 2, "the root of a hierarchy can't be delegated"),
        (
            vec!["mount", "--cgroup", "a", plain],
            2,
            "--cgroup: 'a' isn't the path of a cgroup: a cgroup's path begins with",
        ),
        (vec!["mount", "--cgroup", "pids=/a", "--cgroup", "pids=/b", plain], 2, "--cgroup names the hierarchy"),
        (vec!["run", "--cgroup", "pids=/a", "--cgroup", "pids=/b", "--", "true"], 2, "--cgroup names the hierarchy"),
        (vec!["mount", "--pid", "1", "--alias", "a/b", plain], 2, "--alias: 'a/b' isn't the name of a cgroup"),
        (vec!["mount", "--pid", "1", "--shape", "x", plain], 2, "--shape: 'x' isn't one of host-path, rooted, full;"),
        (vec!["mount", ""], 2, "DIR is empty: see 'vcgroupfs mount --help'"),
        (vec!["--log-level", "x", "list"], 2, "--log-level: 'x' isn't one of error, warn, info, debug, trace, off;"),
        (vec!["explain", "--as", "x", "lookup", "/"], 2, "--as: 'x' isn't the number of a user or group;"),
        // Something is missing, unknown, or too much.
        (vec!["mount"], 2, "DIR is missing: see 'vcgroupfs mount --help'"),
        (vec!["run"], 2, "COMMAND is missing: see 'vcgroupfs run --help'"),
        (vec!["nosuch"], 2, "there is no command 'nosuch': see 'vcgroupfs --help'"),
        (vec!["list", "--nosuch"], 2, "there is no option '--nosuch' here: see 'vcgroupfs list --help'"),
        (vec!["list", "extra"], 2, "'extra' is one argument too many: see 'vcgroupfs list --help'"),
        (vec!["run", "true"], 2, "the command of 'run' stands behind '--': type 'vcgroupfs run -- true'"),
        (
            vec!["run", "--name", "x", "sh", "-c", "a b"],
            2,
            "the command of 'run' stands behind '--': type 'vcgroupfs run --name x -- sh -c 'a b''",
        ),
        (vec!["tree", "/a", "/b", "/c"], 2, "'/c' is one argument too many: see 'vcgroupfs tree --help'"),
        (vec!["map", "/a", "/b", "/c"], 2, "'/c' is one argument too many: see 'vcgroupfs map --help'"),
        (vec!["list", "--json=5"], 2, "--json takes no value: see 'vcgroupfs list --help'"),
        (vec!["--log-level", "run", "mount", "--bogus"], 2, "see 'vcgroupfs mount --help'"),
        (vec!["--log-file", "run", "mount", "--bogus"], 2, "see 'vcgroupfs mount --help'"),
        // Options that exclude each other, or an argument.
        (vec!["attach", "--oci-state", "5"], 2, "--oci-state can't be used with TARGET"),
        (vec!["attach", "--dry-run", "--place", "x", "5"], 2, "--dry-run can't be used with --place"),
        (vec!["attach", "--json", "5"], 2, "--json is only for --dry-run"),
        (vec!["attach", "--pid", "5", "6"], 2, "--pid can't be used with 'attach': TARGET already names the container"),
        (vec!["run", "--pid", "5", "--", "true"], 2, "--pid can't be used with 'run'"),
        (vec!["explain", "--process", "1", "lookup", "/"], 2, "--process can't be used with lookup"),
        // What isn't a container, or isn't one any more.
        (vec!["attach", ""], 2, "TARGET is empty: use a process id, docker:NAME"),
        (vec!["attach", "docker:"], 2, "'docker:' can't be the name of a container"),
        (vec!["attach", "docker:a\nb"], 2, "'docker:a\\nb' can't be the name of a container"),
        (vec!["attach", "rkt:x"], 2, "'rkt' isn't a container manager that vcgroupfs knows: use a process id"),
        (vec!["attach", plain], 2, "is a path, and TARGET is a container here: use a process id"),
        (vec!["attach", plain], 2, "'vcgroupfs mount' serves a view on a directory"),
        (vec!["attach", "0"], 2, "'0' isn't a process id"),
        (vec!["attach", "+5"], 2, "'+5' isn't a process id"),
        (vec!["attach", "2147483647"], 1, "there is no process 2147483647"),
        (vec!["detach", "2147483647"], 1, "there is no process 2147483647"),
        (vec!["doctor", "2147483647"], 1, "there is no process 2147483647"),
        // What isn't a view.
        (vec!["umount", plain], 1, "no view is mounted on"),
        (vec!["detach", plain], 1, "no view is mounted on"),
        (vec!["detach", "/nosuch"], 1, "no view is mounted on /nosuch: 'vcgroupfs list' shows where"),
        (vec!["doctor", plain], 1, "no live view is mounted on"),
        (vec!["explain", plain, "lookup", "/"], 1, "no live view is mounted on"),
        // System calls that fail: the errno by its name.
        (vec!["mount", "--log-file", plain, "--pid", "1", plain], 1, "Is a directory (EISDIR)"),
        (vec!["explain", "/nosuch", "lookup", "/"], 1, "can't find /nosuch: No such file or directory (ENOENT)"),
    ] {
        let line = sandbox.vcgroupfs(&arguments).fails(code);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    sandbox.is_clean();
}

/// Bytes that aren't UTF-8 are shown by the same escapes everywhere.
#[test]
fn messages_escape_bytes_that_are_not_utf8() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    let odd = OsStr::from_bytes(b"a\xffb");
    for (arguments, code, says) in [
        (vec!["umount"], 1, "/a\\xffb"),
        (vec!["mount", "--pid", "1"], 1, "a\\xffb doesn't exist"),
        (vec!["run", "--cgroup", &path, "--name", "child", "--"], 127, "can't run 'a\\xffb': No such file"),
        (vec!["list"], 2, "'a\\xffb' is one argument too many"),
        (vec!["attach"], 2, "'a\\xffb' isn't UTF-8"),
        (vec![], 2, "there is no command 'a\\xffb'"),
        (vec!["tree"], 2, "'a\\xffb'"),
        (vec!["list", "--log-file=/nosuch/x", "--log-file"], 2, "--log-file is given more than once"),
    ] {
        let line = said(sandbox.command(&arguments).arg(odd)).fails(code);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    sandbox.is_clean();
}

#[test]
fn a_full_disk_is_told_of() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::with_cgroup(&["unified"]);
    let path = sandbox.path();
    let own = std::process::id().to_string();
    for arguments in [
        vec!["list", "--json"],
        vec!["tree", "--cgroup", &path],
        vec!["map", "--cgroup", &path, "/"],
        vec!["explain", "--cgroup", &path, "lookup", "/"],
        vec!["doctor", &own],
        vec!["--help"],
        vec!["--version"],
    ] {
        let mut command = sandbox.command_of("sh");
        command.args(["-c", "exec \"$@\" > /dev/full", "sh"]).arg(program()).args(&arguments);
        let line = said(&mut command).fails(1);
        let says = "can't write to standard output: No space left on device (ENOSPC)";
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    sandbox.is_clean();
}

#[test]
fn the_state_of_a_hook_is_checked() {
    require!(Need::Root);
    let sandbox = Sandbox::new();
    for (state, code, says) in [
        ("", 2, "standard input is empty: --oci-state is for OCI hooks"),
        ("\n", 2, "standard input is empty"),
        ("x", 1, "standard input isn't the state of a container: it isn't JSON; --oci-state is for OCI hooks"),
        ("[]", 1, "it isn't a JSON object"),
        ("{}", 1, "missing field `status`"),
        ("{\"status\": \"stopped\", \"pid\": 0, \"bundle\": \"/\"}", 1, "has no process id"),
        ("{\"status\": \"creating\", \"pid\": 1, \"bundle\": \"/nosuch\"}", 1, "can't open /nosuch/config.json"),
    ] {
        let mut command = sandbox.command_of("sh");
        let program = program().to_str().expect("a path");
        command.args(["-c", "printf %s \"$2\" | \"$1\" attach --oci-state", "sh", program, state]);
        let line = said(&mut command).fails(code);
        assert!(line.contains(says), "{state}: {line}");
    }
    sandbox.is_clean();
}
