//! `run`: the command's own status, signals and streams, and what it finds inside.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use testkit::{Need, require};

use crate::support::{Running, Said, Sandbox, said};

/// `run` below the sandbox's cgroup.
pub(crate) fn command(sandbox: &Sandbox, name: &str, options: &[&str], inside: &[&str]) -> Command {
    let path = sandbox.path();
    let mut command = sandbox.command(&["run", "--cgroup", &path, "--name", name]);
    command.args(options).arg("--").args(inside);
    command
}

fn shell(sandbox: &Sandbox, script: &str) -> Said {
    said(&mut command(sandbox, "child", &[], &["sh", "-c", script]))
}

#[test]
fn run_exits_as_its_command_does() {
    require!(Need::Root, Need::Fuse);
    let sandbox = Sandbox::everywhere();
    std::fs::write(sandbox.file("not-executable"), "#!/bin/sh\n").expect("a file");
    let not_executable = sandbox.file("not-executable").display().to_string();
    for (inside, code) in [
        (vec!["true"], 0),
        (vec!["false"], 1),
        (vec!["sh", "-c", "exit 77"], 77),
        (vec!["sh", "-c", "kill -TERM $$"], 128 + 15),
        (vec!["sh", "-c", "kill -KILL $$"], 128 + 9),
        (vec!["sh", "-c", "kill -SEGV $$"], 128 + 11),
        (vec!["nosuch-command-at-all"], 127),
        (vec!["/nosuch/command"], 127),
        (vec![&not_executable], 126),
        (vec!["/"], 126),
    ] {
        for options in [&[][..], &["--as-pid1"]] {
            // A process 1 is spared by its own signals.
            if options.is_empty() || code < 126 {
                let said = said(&mut command(&sandbox, "child", options, &inside));
                assert_eq!(said.code, code, "{options:?} {inside:?}: {said:?}");
            }
        }
    }
    sandbox.is_clean();
}

#[test]
fn standard_streams_go_to_the_command() {
    require!(Need::Root, Need::Fuse);
    let sandbox = Sandbox::everywhere();
    let said = shell(&sandbox, "echo out; echo err >&2");
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
    let mut child = command(&sandbox, "child", &[], &["tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    child.stdin.take().expect("stdin").write_all(b"hello\n").expect("a write");
    let output = child.wait_with_output().expect("its end");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"HELLO\n"[..]));
    sandbox.is_clean();
}

#[test]
fn signals_are_passed_on() {
    require!(Need::Root, Need::Fuse);
    let sandbox = Sandbox::everywhere();
    for (signal, word, options) in [
        (Signal::SIGTERM, "TERM", &[][..]),
        (Signal::SIGINT, "INT", &[]),
        (Signal::SIGHUP, "HUP", &[]),
        (Signal::SIGUSR1, "USR1", &[]),
        (Signal::SIGTERM, "TERM", &["--as-pid1"]),
    ] {
        let script = format!("trap 'exit 42' {word}; echo ready; while :; do sleep 0.05; done");
        // A shell doesn't trap what was ignored before it, as SIGHUP is below nohup.
        let shell = ["env", "--default-signal", "sh", "-c", &script];
        let mut child = Running::start(&mut command(&sandbox, "child", options, &shell));
        assert_eq!(child.line(), "ready");
        child.signal(signal);
        assert_eq!(child.wait().code(), Some(42), "{word} {options:?}");
        sandbox.is_clean();
    }
    let mut child = Running::start(&mut command(&sandbox, "child", &[], &["sh", "-c", "echo ready; exec sleep 1000"]));
    assert_eq!(child.line(), "ready");
    child.signal(Signal::SIGTERM);
    assert_eq!(child.wait().code(), Some(128 + 15), "without a handler");
    sandbox.is_clean();
}

#[test]
fn processes_are_numbered_anew() {
    require!(Need::Root, Need::Fuse);
    let sandbox = Sandbox::everywhere();
    let outside = shell(&sandbox, "echo $$; for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done").ok();
    let mut lines = outside.lines();
    assert_ne!(lines.next(), Some("1"), "init is somebody else");
    // init, the shell, and at most what it starts.
    let seen = lines.filter(|line| !line.is_empty()).count();
    assert!((2..=3).contains(&seen), "{outside}");
    let as_init = said(&mut command(&sandbox, "child", &["--as-pid1"], &["sh", "-c", "echo $$"])).ok();
    assert_eq!(as_init, "1\n");
    sandbox.is_clean();
}

#[test]
fn the_view_is_on_sys_fs_cgroup() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("unified"),
        Need::Hierarchy("name=systemd")
    );
    let sandbox = Sandbox::everywhere();
    sandbox.cgroup().children("kept-sibling");
    let script = r#"
        grep -c ' /sys/fs/cgroup .* - fuse.vcgroupfs ' /proc/self/mountinfo
        grep -c -e ' - cgroup ' -e ' - cgroup2 ' /proc/self/mountinfo
        for line in $(cat /proc/self/cgroup); do
            path=${line#*:}; list=${path%%:*}; path=${path#*:}
            case "$list" in
                "") dir=/sys/fs/cgroup/unified$path ;;
                name=systemd) dir=/sys/fs/cgroup/systemd$path ;;
                pids) dir=/sys/fs/cgroup/pids$path ;;
                *) continue ;;
            esac
            grep -qx $$ $dir/cgroup.procs && echo "$list: at home"
            ls -d $dir/../kept-sibling 2>/dev/null && echo "$list: a sibling"
            echo "$list: beside: $(ls -d $dir/../*/ | wc -l)"
            if [ "$list" = pids ]; then
                echo 1 2>/dev/null > $dir/pids.max && echo "$list: a limit"
                ls -l $dir/pids.max | grep -q "^-r--r--r--" || echo "$list: looks writable"
                mkdir $dir/sub 2>/dev/null && echo "$list: made"
            else
                mkdir $dir/sub && echo $$ > $dir/sub/cgroup.procs && echo "$list: migrated"
                grep -q "^[0-9]*:$list:$path/sub\$" /proc/self/cgroup && echo "$list: as /proc says"
                # Other processes of the hierarchy's other cgroups don't exist here.
                wc -l < $dir/sub/cgroup.procs
            fi
        done
        :
    "#;
    let said = shell(&sandbox, script).ok();
    let mut lines: Vec<&str> = said.lines().map(str::trim).collect();
    assert_eq!(lines.drain(..2).collect::<Vec<_>>(), ["1", "0"], "{said}");
    lines.sort_unstable();
    let mut expected = vec![
        ": as /proc says",
        ": at home",
        ": beside: 1",
        ": migrated",
        "name=systemd: as /proc says",
        "name=systemd: at home",
        "name=systemd: beside: 1",
        "name=systemd: migrated",
        "pids: at home",
        "pids: beside: 1",
    ];
    expected.sort_unstable();
    let (numbers, words): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.parse::<u32>().is_ok());
    assert_eq!(words, expected, "{said}");
    assert_eq!(numbers.len(), 2, "{said}");
    sandbox.is_clean();
}

#[test]
fn cgroups_are_made_below_the_callers_own_by_default() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Hierarchy("name=systemd"));
    let sandbox = Sandbox::everywhere();
    let mut command = sandbox.command_of("sh");
    let joined: String = sandbox
        .cgroup()
        .hierarchies()
        .iter()
        .map(|hierarchy| format!("echo $$ > '{}/{}/cgroup.procs' && ", hierarchy.mountpoint.display(), sandbox.mark))
        .collect();
    command.args(["-c", &format!("{joined} exec \"$@\""), "sh"]).arg(crate::support::program());
    command.args(["run", "--", "cat", "/proc/self/cgroup"]);
    let memberships = said(&mut command).ok();
    let below = format!(":/{}/vcgroupfs-run-", sandbox.mark);
    let lines = memberships.lines().filter(|line| line.contains(&below)).count();
    assert_eq!(lines, sandbox.cgroup().hierarchies().len(), "{memberships}");
    sandbox.is_clean();
}

#[test]
fn one_hierarchy_can_have_another_cgroup() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::Hierarchy("pids"));
    let sandbox = Sandbox::everywhere();
    sandbox.cgroup().child("pids", "kept-deeper");
    let (path, deeper) = (sandbox.path(), format!("pids={}/kept-deeper", sandbox.path()));
    let said = sandbox
        .vcgroupfs(&[
            "run",
            "--cgroup",
            &deeper,
            "--cgroup",
            &path,
            "--name",
            "child",
            "--",
            "cat",
            "/proc/self/cgroup",
        ])
        .ok();
    for line in said.lines() {
        let (_, rest) = line.split_once(':').expect("a line of /proc/self/cgroup");
        let below = if rest.starts_with("pids:") { "kept-deeper/child" } else { "child" };
        assert!(rest.ends_with(&format!(":{path}/{below}")), "{line}");
    }
    assert!(!sandbox.cgroup().dir("pids").join("kept-deeper/child").exists());
    sandbox.is_clean();
}

/// A working directory isn't covered by what is mounted over it.
#[test]
fn a_working_directory_in_the_hosts_cgroups_is_left() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("name=systemd"));
    let sandbox = Sandbox::everywhere();
    let host = sandbox.cgroup().dir("pids");
    let gone = host.join("vcgroupfs-gone");
    for options in [&[][..], &["--stack"]] {
        let script = "pwd -P; stat -f -c %T .; ls -d child; echo $$ 2>&1 >cgroup.procs || echo refused";
        let told = said(command(&sandbox, "child", options, &["sh", "-c", script]).current_dir(&host)).ok();
        let expected = format!("{}\nfuseblk\nchild\n", host.display());
        assert!(told.starts_with(&expected) && told.ends_with("refused\n"), "{told}");

        // One that is removed before it begins.
        std::fs::create_dir(&gone).expect("a cgroup");
        let inside = command(&sandbox, "child", options, &["sh", "-c", "pwd -P; ls -d etc"]);
        let mut shell = sandbox.command_of("sh");
        shell.current_dir(&gone).args(["-c", r#"rmdir "$0" && exec "$@""#]).arg(&gone);
        shell.arg(inside.get_program()).args(inside.get_args());
        assert_eq!(said(&mut shell).ok(), "/\netc\n");
    }
    sandbox.is_clean();
}

/// Another cgroup that the host has mounted on one of the command's leads the server nowhere, on kernels old and new.
#[test]
fn a_bind_mount_inside_leads_nowhere() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for (legacy, options) in [(false, &[][..]), (true, &[]), (true, &["--stack"])] {
        let sandbox = Sandbox::everywhere();
        let top = sandbox.cgroup().dir("name=systemd");
        let other = sandbox.cgroup().child("name=systemd", "kept");
        let script = "echo ready; read -r line; mkdir \"$0\"/sub/by-the-view; echo done; sleep 1000";
        let shown = testkit::hierarchy("name=systemd").expect("required").mountpoint;
        let shown = shown.join(sandbox.path().trim_start_matches('/')).join("child").display().to_string();
        let plain = command(&sandbox, "child", options, &["sh", "-c", script, &shown]);
        let mut started =
            sandbox.command_of(if legacy { testkit::Programs::find().legacy.as_os_str() } else { "env".as_ref() });
        started.arg(plain.get_program()).args(plain.get_args());
        let mut child = started.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child");
        let mut output = child.stdout.take().expect("a pipe");
        output.read_exact(&mut [0; "ready\n".len()]).expect("its output");
        let sub = top.join("child/sub");
        std::fs::create_dir(&sub).expect("mkdir");
        let bound = nix::mount::mount(Some(&other), &sub, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>);
        bound.expect("a bind mount");
        child.stdin.take().expect("a pipe").write_all(b"go\n").expect("its input");
        let is_anywhere = || [&other, &sub].map(|dir| dir.join("by-the-view").exists());
        output.read_exact(&mut [0; "done\n".len()]).expect("its output");
        let led_away = is_anywhere()[0];
        nix::mount::umount2(&sub, nix::mount::MntFlags::MNT_DETACH).expect("unmounting");
        let found = (led_away, is_anywhere()[1]);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)
            .expect("a signal");
        child.wait().expect("its end");
        assert_eq!(found, (false, true), "legacy {legacy}, {options:?}");
        sandbox.is_clean();
    }
}
