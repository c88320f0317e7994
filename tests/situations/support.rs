//! `doctor --support`: a file that a bug report needs, and nothing else in it.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use serde_json::Value;
use testkit::{Caller, Need, require};

use crate::scene::{Scene, program, said};

#[test]
fn a_bug_report_has_what_it_needs_and_nothing_secret() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::attached();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report");
    let name = file.to_str().expect("a name");
    // Secrets of a process of the container's: arguments, environment, mounts that have nothing to do with cgroups.
    let mut secretive = scene.container.command(Caller::Root);
    secretive.args(["sh", "-c", "mkdir -p /tmp && mount -t tmpfs secret-source /tmp; sleep 1000; : secret-argument"]);
    let mut secretive = secretive.env("SECRET", "secret-variable").spawn().expect("a process");
    testkit::wait_until("the mount", || {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", scene.pid())).expect("mounts");
        mounts.contains("secret-source")
    });
    assert!(!scene.can(Caller::Root, "mkdir /sys/fs/cgroup/systemd/rejected"));
    let (code, stdout, stderr) =
        said(Command::new(program()).args(["doctor", "--support", name, &scene.pid()]).env("SECRET", "secret-too"));
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.contains(name), "{stderr}");
    let text = fs::read_to_string(&file).expect("the report");
    let _ = secretive.kill();
    let _ = secretive.wait();
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").expect("a hostname");
    for secret in ["secret-", "/proc/self/environ", "PATH="] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["format"], 1);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    assert_eq!(report["kernel"]["release"], release.trim());
    assert!(report["kernel"].as_object().is_some_and(|kernel| kernel.values().all(|value| value != hostname.trim())));
    let paths = report["memberships"]["on_the_host"].as_array().expect("memberships");
    assert!(paths.iter().all(|one| one["path"] == scene.home().as_str()), "{report}");
    assert!(report["mounts"].as_array().expect("mounts").iter().any(|one| one["type"] == "fuse.vcgroupfs"));
    let rejections = report["last_rejections"].as_array().expect("rejections");
    assert!(
        rejections.iter().any(|one| one["path"] == "/systemd/rejected" && one["rule"] == "outside-subtree"),
        "{report}"
    );
    let pid = scene.container.init();
    assert!(report["views"].as_array().expect("views").iter().any(|view| view["container"] == pid), "{report}");
    assert_eq!((&report["doctor"]["pid"], &report["doctor"]["version"]), (&pid.into(), &1.into()));
    assert!(report["version"].as_str().is_some_and(|version| version.starts_with(env!("CARGO_PKG_VERSION"))));
    assert_eq!(fs::metadata(&file).expect("the report").mode() & 0o777, 0o600);
}

#[test]
fn nothing_is_overwritten() {
    require!(Need::Root);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("there"), "kept").expect("a file");
    symlink(path("nowhere"), path("link")).expect("a link");
    for name in ["there", "link"] {
        let file = path(name);
        let (code, stdout, stderr) = said(Command::new(program()).args(["doctor", "--support"]).arg(&file));
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (1, "", 1), "{stderr}");
        assert!(stderr.contains("exists already"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(path("there")).expect("the file"), "kept");
    assert!(!path("nowhere").exists());
}
