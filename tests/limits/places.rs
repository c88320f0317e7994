//! From where `limits` can look, and at what: with and without a cgroup namespace, inside and outside, with a view and without.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::{
    Caller, Container, ContainerOptions, Need, STRANGER, TIMEOUT, TestCgroup, View, ViewOptions, require, run_to_end,
};

use crate::scene::{Consumer, limits, program, row};

const BYTES: u64 = 64 << 20;

/// A container whose limits are on the cgroup above its own.
struct Scene {
    cgroup: TestCgroup,
    container: Container,
}

impl Scene {
    fn new(cgroup_namespace: bool) -> Self {
        let cgroup = TestCgroup::new(&["memory", "pids"]);
        fs::write(cgroup.dir("memory").join("memory.limit_in_bytes"), BYTES.to_string()).expect("a limit");
        let cgroups = cgroup.children("own");
        fs::write(cgroup.dir("pids").join("own/pids.max"), "100").expect("a limit");
        let container = Container::start(ContainerOptions { cgroups, cgroup_namespace, ..ContainerOptions::default() });
        Self { cgroup, container }
    }

    fn inside(&self, script: &str) -> Value {
        let mut command = self.container.command(Caller::Root);
        let script = format!("{script}\nexec \"$0\" limits --json");
        let output = run_to_end(command.args(["sh", "-ec", &script, program()]), TIMEOUT);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), complaint.as_ref()), (Some(0), ""), "{script}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn memory(&self) -> String {
        format!("memory:{}/memory.limit_in_bytes", self.cgroup.path())
    }
}

macro_rules! require_scene {
    () => {
        require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("pids"), Need::CgroupNamespaces);
    };
}

#[test]
fn a_container_is_seen_whole_from_the_host() {
    require_scene!();
    for cgroup_namespace in [false, true] {
        let scene = Scene::new(cgroup_namespace);
        let answer = limits(&[&scene.container.init().to_string()]);
        assert_eq!((&answer["version"], &answer["complete"]), (&1.into(), &true.into()), "{answer}");
        assert_eq!(answer["cgroup_namespace"], cgroup_namespace, "{answer}");
        let memory = row(&answer, "memory");
        assert_eq!((memory["effective"]["value"].as_u64(), &memory["own"]), (Some(BYTES), &Value::Null));
        assert_eq!(memory["effective"]["by"].as_str(), Some(&*scene.memory()));
        assert_eq!(row(&answer, "pids")["effective"]["value"], 100);
        assert_eq!(answer["cgroups"]["memory"], format!("{}/own", scene.cgroup.path()));
    }
}

#[test]
fn a_container_in_a_cgroup_namespace_sees_what_is_below() {
    require_scene!();
    let scene = Scene::new(true);
    // As a container manager mounts them.
    let mount = "mount -t tmpfs none /sys/fs/cgroup; for one in memory pids; do mkdir /sys/fs/cgroup/$one; \
                 mount -t cgroup -o $one none /sys/fs/cgroup/$one; done";
    let answer = scene.inside(mount);
    assert_eq!(answer["complete"], false, "{answer}");
    assert!(answer["incomplete_because"].as_str().is_some_and(|why| why.contains("namespace")), "{answer}");
    let pids = row(&answer, "pids");
    assert_eq!((&pids["effective"]["value"], pids["effective"]["by"].as_str()), (&100.into(), Some("pids:/pids.max")));
    assert_eq!(row(&answer, "memory")["effective"], Value::Null, "it's above");
}

#[test]
fn a_container_without_a_cgroup_namespace_reads_its_own_mounts() {
    require_scene!();
    let scene = Scene::new(false);
    let path = scene.cgroup.path();
    // As runc does it: the own cgroups are bound in place of the hierarchies.
    let mounts = [("memory", scene.cgroup.dir("memory")), ("pids", scene.cgroup.dir("pids"))];
    let binds: String = mounts
        .iter()
        .map(|(name, dir)| format!("mkdir $new/{name}; mount --bind {}/own $new/{name};", dir.display()))
        .collect();
    let bound = format!(
        "new=$(mktemp -d); mount -t tmpfs none $new; {binds} umount -R /sys/fs/cgroup; mount --rbind $new /sys/fs/cgroup; \
         umount -R $new; rmdir $new"
    );
    let answer = scene.inside(&bound);
    let pids = row(&answer, "pids");
    let by = format!("pids:{path}/own/pids.max");
    assert_eq!((&pids["effective"]["value"], pids["effective"]["by"].as_str()), (&100.into(), Some(&*by)), "{answer}");
    assert_eq!(answer["complete"], false, "{answer}");
    let memory = row(&answer, "memory");
    assert_eq!((&memory["effective"], &memory["levels"][1]["state"]), (&Value::Null, &"hidden".into()), "{memory}");
}

/// A host-path view shows the limits above.
#[test]
fn a_container_reads_its_view() {
    require_scene!();
    let scene = Scene::new(false);
    let own = |name: &str| format!("{name}={}/own", scene.cgroup.path());
    let options =
        ViewOptions::new().option("--cgroup", &own("memory")).option("--cgroup", &own("pids")).shape("host-path");
    let view = View::mount(Path::new(program()), &options);
    let container = Container::start(ContainerOptions {
        cgroups: ["memory", "pids"].map(|name| scene.cgroup.dir(name).join("own")).into(),
        ..ContainerOptions::default()
    });
    let inside = Scene { cgroup: TestCgroup::new(&["pids"]), container };
    let plainly = format!("umount -R /sys/fs/cgroup; mount --bind {} /sys/fs/cgroup", view.dir().display());
    let answer = inside.inside(&plainly);
    let memory = row(&answer, "memory");
    assert_eq!(memory["effective"]["by"].as_str(), Some(&*scene.memory()), "{answer}");
    assert_eq!(memory["effective"]["value"].as_u64(), Some(BYTES));
    assert_eq!(answer["complete"], false, "{answer}");
    // Programs that go by mountinfo find nothing there, and others do.
    let text = Command::new(program()).args(["limits", &inside.container.init().to_string()]).output().expect("text");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains(" !1 none ") && text.contains("keep a read-only bind"), "{text}");
}

/// Limits are public, but what programs see takes the right to enter.
#[test]
fn an_unprivileged_user_sees_limits() {
    require_scene!();
    let scene = Scene::new(false);
    let process = Consumer::start(&[scene.cgroup.dir("pids").join("own")], &["--sleep"]);
    let folder = tempfile::Builder::new().prefix("vcgroupfs-limits-").tempdir().expect("a directory");
    let copy = folder.path().join("vcgroupfs");
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    testkit::copy_program(Path::new(program()), &copy);
    let id = STRANGER.to_string();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()]);
    let output = run_to_end(command.arg(&copy).args(["limits", "--json", &process.pid()]), TIMEOUT);
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(row(&answer, "pids")["effective"]["value"], 100, "{answer}");
    assert_eq!(answer["clients"], Value::Null, "{answer}");
    assert!(answer["clients_unknown_because"].as_str().is_some_and(|why| why.contains("as root")), "{answer}");
}
