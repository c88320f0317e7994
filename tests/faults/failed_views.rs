//! Views on directories that nobody serves any more: `list` shows them, `mount` makes them again with the options that they had, `umount`
//! takes them away. Each case has a `/run` of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use serde_json::{Value, json};
use testkit::{Container, ContainerOptions, Need, TIMEOUT, require, run_to_end};

use crate::registry::{Host, REGISTRY, Said};

/// The path of the directory on which the views of a case are mounted.
fn directory(host: &Host) -> String {
    host.view().to_str().expect("text").to_owned()
}

fn mount(host: &Host, options: &[&str]) -> Said {
    let directory = directory(host);
    host.vcgroupfs(&["mount"].iter().chain(options).copied().chain([directory.as_str()]).collect::<Vec<_>>())
}

fn umount(host: &Host) -> Said {
    host.vcgroupfs(&["umount", &directory(host)])
}

/// The only view, as `list` describes it.
#[track_caller]
fn only(host: &Host) -> Value {
    let views = host.list();
    assert_eq!(views.len(), 1, "{views:?}");
    views[0].clone()
}

#[test]
fn a_failed_view_is_listed_and_made_again_with_its_options() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    let (path, log) = (host.cgroup.path(), host.folder.path().join("log"));
    let log = log.to_str().expect("text");
    let options = ["--cgroup", &path, "--shape", "rooted", "--policy", "delegate", "--delegate-controllers", "pids"];
    let more = ["--alias", "docker", "--coherent", "--log-level", "info", "--log-format", "json", "--log-file", log];
    assert_eq!(mount(&host, &[&options[..], &more[..]].concat()).ok(), "");
    let before = only(&host);
    host.kill_view();
    let failed = only(&host);
    assert_eq!(
        (&failed["state"], &failed["pid"], &failed["confinement"]),
        (&"failed".into(), &Value::Null, &Value::Null)
    );
    let reason = if before["keeper"].is_null() { "its server was killed" } else { "its server and keeper were killed" };
    assert_eq!(failed["reason"], reason);
    assert_eq!(failed["options"], before["options"]);
    let table = host.vcgroupfs(&["list"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[1].starts_with("-  ") && lines[1].contains(" failed "), "{table}");
    let advice = format!("'vcgroupfs mount {}' makes it work again", directory(&host));
    let said: Vec<&str> = lines[2..].iter().map(|line| line.trim_start()).collect();
    assert!(said.join(" ").ends_with(&advice) && lines[2..].iter().all(|line| line.len() <= 100), "{table}");

    let doctor = host.vcgroupfs(&["doctor", &directory(&host)]).fails(1);
    assert!(doctor.contains(&format!("has failed: {reason}")) && doctor.contains(&advice), "{doctor}");

    let said = mount(&host, &[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for words in [&options[..], &more[..]].concat().chunks(2) {
        assert!(said.stderr.contains(words[0]), "{words:?}: {}", said.stderr);
    }
    let after = only(&host);
    for same in ["options", "shape", "policy", "delegate_controllers", "aliases", "delegated", "target"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(after["state"], "live");
    let log = fs::read_to_string(log).expect("the log");
    assert!(log.lines().all(|line| line.starts_with('{')), "{log}");

    // What the command line says wins, and the rest stays.
    host.kill_view();
    let said = mount(&host, &["--policy", "strict", "--shape", "full"]);
    assert!(
        said.code == Some(0) && !said.stderr.contains("--policy") && said.stderr.contains("--coherent"),
        "{}",
        said.stderr
    );
    let changed = only(&host);
    assert_eq!((&changed["policy"], &changed["shape"]), (&"strict".into(), &"full".into()));
    assert_eq!(changed["options"]["coherent"], true);
    // The shape has no aliases, and the policy no controllers.
    assert_eq!((&changed["aliases"], &changed["delegate_controllers"]), (&json!([]), &json!([])));
    umount(&host).ok();
    assert_eq!(host.list(), Vec::<Value>::new());
}

/// Who names another container makes another view.
#[test]
fn a_view_that_is_named_takes_nothing_over() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    let path = host.cgroup.path();
    mount(&host, &["--cgroup", &path, "--policy", "delegate", "--coherent"]).ok();
    host.kill_view();
    let said = mount(&host, &["--cgroup", &path]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let view = only(&host);
    assert_eq!((&view["policy"], view["options"].get("coherent")), (&"strict".into(), None));
    host.kill_view();
    assert_eq!(mount(&host, &["--per-caller"]).stderr, "");
    assert_eq!(only(&host)["per_caller"], true);
    // A mount for all callers comes back as what it was.
    host.kill_view();
    let said = mount(&host, &[]);
    assert!(said.code == Some(0) && said.stderr.contains("--per-caller"), "{}", said.stderr);
    assert_eq!(only(&host)["per_caller"], true);
    umount(&host).ok();
    // Where no view has failed, the container has to be named.
    mount(&host, &[]).fails(2);
}

/// The process for which it was mounted may have ended, and its number may be another's: its cgroups count, as long as they are the same.
#[test]
fn a_failed_view_of_a_process_shows_the_same_cgroups() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let host = Host::new();
    let cgroup = host.cgroup.child("name=systemd", "job");
    let mut process = Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).expect("a migration");
    mount(&host, &["--pid", &process.id().to_string()]).ok();
    let before = only(&host);
    process.kill().expect("kill");
    process.wait().expect("its end");
    for _ in 0..2 {
        host.kill_view();
        assert_eq!(mount(&host, &[]).code, Some(0));
        let after = only(&host);
        for same in ["delegated", "target", "shape"] {
            assert_eq!(after[same], before[same], "{same}");
        }
        assert_eq!(after["options"]["pid"], process.id());
    }
    host.kill_view();
    fs::remove_dir(&cgroup).expect("rmdir");
    fs::create_dir(&cgroup).expect("another cgroup");
    let refused = mount(&host, &[]).fails(1);
    assert!(refused.contains("doesn't exist any more") && refused.contains("--cgroup"), "{refused}");
    assert_eq!(only(&host)["state"], "failed", "nothing is done yet");
    umount(&host).ok();
}

/// A keeper that has given up may live on. Its record is locked, and says that the view has failed.
#[test]
fn a_keeper_that_has_given_up_is_ended() {
    require!(Need::Root, Need::Fuse, Need::Program("python3"));
    let host = Host::new();
    let path = host.cgroup.path();
    for clear in [&["mount"][..], &["umount"]] {
        mount(&host, &["--cgroup", &path, "--coherent"]).ok();
        let (_, record) = host.record();
        host.kill_view();
        let mut text: Value = serde_json::from_str(&fs::read_to_string(&record).expect("a record")).expect("JSON");
        fs::remove_file(&record).expect("unlink");
        text["state"] = "failed".into();
        text["reason"] = "it ended 5 times in a minute: killed by SIGSEGV".into();
        let script = format!(
            "import fcntl, json, os, sys, time
record = json.loads(sys.argv[1]); record['pid'] = record['keeper'] = os.getpid()
file = open('{REGISTRY}/%d.json' % os.getpid(), 'x'); fcntl.lockf(file, fcntl.LOCK_EX)
json.dump(record, file); file.flush(); print('locked', flush=True); time.sleep(1000)"
        );
        let mut command = host.command("python3");
        command.args(["-c", &script, &text.to_string()]).stdout(std::process::Stdio::piped());
        let mut keeper = command.spawn().expect("a keeper");
        let output = keeper.stdout.as_mut().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut String::new()).expect("its record");
        let failed = only(&host);
        assert_eq!((&failed["state"], &failed["keeper"]), (&"failed".into(), &keeper.id().into()));
        assert_eq!((&failed["reason"], &failed["pid"]), (&text["reason"], &Value::Null));
        let directory = directory(&host);
        let said = host.vcgroupfs(&clear.iter().copied().chain([directory.as_str()]).collect::<Vec<_>>());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let mut ended = None;
        testkit::wait_until("the keeper's end", || {
            ended = keeper.try_wait().expect("its state");
            ended.is_some()
        });
        let ended = ended.expect("its end");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15), "{ended}");
        if clear[0] == "mount" {
            assert!(
                said.stderr.contains("5 times in a minute") && said.stderr.contains("--coherent"),
                "{}",
                said.stderr
            );
            assert_eq!(only(&host)["state"], "live");
            umount(&host).ok();
        }
        assert_eq!(host.list(), Vec::<Value>::new(), "{clear:?}");
    }
}

/// Processes in a view that nobody serves don't keep it there.
#[test]
fn a_failed_view_in_use_is_unmounted() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    let path = host.cgroup.path();
    for clear in [&["umount"][..], &["detach"], &["mount", "--cgroup", &path]] {
        mount(&host, &["--cgroup", &path]).ok();
        let script = format!("cd {} && echo && exec cat", directory(&host));
        let mut command = host.command("sh");
        command.args(["-c", &script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut user = command.spawn().expect("sh");
        let output = user.stdout.as_mut().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut String::new()).expect("it's there");
        let busy = umount(&host).fails(1);
        assert!(busy.contains("in use"), "{busy}");
        host.kill_view();
        let directory = directory(&host);
        host.vcgroupfs(&clear.iter().copied().chain([directory.as_str()]).collect::<Vec<_>>()).ok();
        if clear[0] == "mount" {
            assert_eq!(only(&host)["state"], "live");
            umount(&host).ok();
        }
        assert_eq!(host.list(), Vec::<Value>::new(), "{clear:?}");
        user.kill().expect("kill");
        user.wait().expect("its end");
    }
}

/// `list` in another mount namespace doesn't see the mount, but knows where it is.
#[test]
fn a_failed_view_is_known_in_other_mount_namespaces() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    mount(&host, &["--cgroup", &host.cgroup.path()]).ok();
    host.kill_view();
    let script = format!("umount -l {} && exec {} list --json", directory(&host), env!("CARGO_BIN_EXE_vcgroupfs"));
    let mut elsewhere = host.command("unshare");
    let listed = run_to_end(elsewhere.args(["--mount", "sh", "-c", &script]), TIMEOUT);
    let views: Value = serde_json::from_slice(&listed.stdout).unwrap_or_else(|error| panic!("{error}: {listed:?}"));
    assert_eq!((&views[0]["state"], &views[1]), (&"failed".into(), &Value::Null), "{listed:?}");
    assert_eq!(only(&host)["state"], "failed");
    umount(&host).ok();
}

/// Whose file isn't root's has no say in how a view is made again.
#[test]
fn a_forged_record_gives_no_options() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    let path = host.cgroup.path();
    mount(&host, &["--cgroup", &path]).ok();
    let (owner, record) = host.record();
    host.kill_view();
    let text = fs::read_to_string(&record).expect("a record");
    let forged =
        text.replace(&owner.to_string(), "1").replace("strict", "delegate").replace("\"since\":1", "\"since\":2");
    let file = host.path(REGISTRY).join("1.json");
    for (owner, mode) in [(65534, 0o644), (0, 0o666), (0, 0o664)] {
        fs::write(&file, &forged).expect("a file");
        fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("chmod");
        chown(&file, Some(owner), None).expect("chown");
        assert_eq!(host.states(), ["failed"], "owner {owner}, mode {mode:o}");
        let said = mount(&host, &[]);
        assert!(said.code == Some(0) && said.stderr.contains("--policy strict"), "{}", said.stderr);
        assert_eq!(only(&host)["policy"], "strict", "owner {owner}, mode {mode:o}");
        host.kill_view();
    }
    // The same as root's counts.
    chown(&file, Some(0), None).expect("chown");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("chmod");
    assert!(mount(&host, &[]).stderr.contains("--policy delegate"));
    umount(&host).ok();
}

/// The number of a mount namespace is soon another one's, and so is a process' number. The record of another container gives no options, nor
/// does one that isn't root's.
#[test]
fn the_record_of_another_container_gives_no_options() {
    require!(Need::Root, Need::Fuse);
    let host = Host::new();
    let container =
        Container::start(ContainerOptions { cgroups: host.cgroup.children("home"), ..ContainerOptions::default() });
    let pid = container.init().to_string();
    let attach = |options: &[&str]| {
        let said = host.vcgroupfs(&["attach"].iter().chain(options).copied().chain([pid.as_str()]).collect::<Vec<_>>());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        said.stderr
    };
    let start_of = |record: &Value| record["container"]["start"].as_u64().expect("the process' start");
    // Another process, which has the number now.
    let later = |record: &mut Value| record["container"]["start"] = (start_of(record) - 1).into();
    // Another mount namespace of the same process.
    let other = |record: &mut Value| record["container"]["namespace"] = 1.into();
    // A version that didn't write it down.
    let former = |record: &mut Value| record["container"]["start"] = Value::Null;
    for change in [&later as &dyn Fn(&mut Value), &other, &former] {
        attach(&["--policy", "delegate", "--coherent"]);
        let (_, path) = host.record();
        host.kill_view();
        let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a record")).expect("JSON");
        change(&mut record);
        fs::write(&path, record.to_string()).expect("a record");
        assert_eq!(attach(&[]), "");
        assert_eq!(only(&host)["policy"], "strict");
        host.vcgroupfs(&["detach", &pid]).ok();
    }
    attach(&[]);
    let (_, path) = host.record();
    host.kill_view();
    let text = fs::read_to_string(&path).expect("a record");
    fs::write(&path, text.replace("strict", "delegate")).expect("a record");
    for (owner, mode) in [(65534, 0o644), (0, 0o666)] {
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        chown(&path, Some(owner), None).expect("chown");
        let said = attach(&[]);
        assert!(!said.contains("made again"), "owner {owner}, mode {mode:o}: {said}");
        assert_eq!(only(&host)["policy"], "strict", "owner {owner}, mode {mode:o}");
        let (_, record) = host.record();
        host.kill_view();
        fs::remove_file(record).expect("unlink");
    }
    host.vcgroupfs(&["detach", &pid]).ok();
}
