//! Views of containers that nobody serves any more: `list` shows them, `attach` makes them again with the options that they had, `detach`
//! takes them away.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use testkit::{ContainerOptions, Need, require};

use crate::prepared::{exists, memberships, name};
use crate::scene::{MountMethod, Scene, said, wait_until};

/// The scene's view, as `list` describes it, and what `list` prints.
fn listed(scene: &Scene) -> (Option<Value>, String) {
    let list = said(scene.command().args(["list", "--json"]));
    let views: Vec<Value> = serde_json::from_str(&list.stdout).expect("a list");
    let view = views.into_iter().find(|view| view["container"].as_u64() == Some(scene.container.init().into()));
    (view, said(scene.command().arg("list")).stdout)
}

#[track_caller]
fn view(scene: &Scene) -> Value {
    listed(scene).0.expect("its view")
}

/// Its record.
fn record(scene: &Scene) -> PathBuf {
    let namespace = format!("\"namespace\":{}", scene.namespace);
    let records = fs::read_dir("/run/vcgroupfs").expect("the registry").flatten();
    let is_its = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(&namespace));
    records.map(|record| record.path()).find(is_its).expect("its record")
}

fn kill(scene: &Scene) {
    scene.view_processes().kill_to_the_end();
}

#[test]
fn a_failed_view_is_listed_and_made_again_with_its_options() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::Hierarchy("pids"), Need::LegacySyscalls);
    let options = ["--policy", "delegate", "--delegate-controllers", "pids", "--alias", "docker", "--coherent"];
    for method in [MountMethod::Moved, MountMethod::Built] {
        let scene = Scene::plain(method);
        let before = scene.mounts();
        scene.attach(&options).ok();
        let live = view(&scene);
        // A container's processes may be further down when it's made again.
        let below = scene.cgroup.child("name=systemd", "home/below");
        fs::write(below.join("cgroup.procs"), scene.pid()).expect("a migration");
        kill(&scene);
        let (failed, table) = listed(&scene);
        let failed = failed.expect("the failed view");
        assert_eq!((&failed["state"], &failed["pid"]), (&"failed".into(), &Value::Null));
        assert_eq!(failed["options"], live["options"]);
        assert!(table.contains(&format!("'vcgroupfs attach {}' makes it work again", scene.pid())), "{table}");

        let doctor = said(scene.command().args(["doctor", "--all", &scene.pid()])).stdout;
        let advice = format!("'vcgroupfs attach {}' makes it work again, with the options that it had", scene.pid());
        assert!(doctor.contains(" killed, and everything there fails") && doctor.contains(&advice), "{doctor}");

        let again = scene.attach(&[]);
        assert_eq!(again.code, 0, "{}", again.stderr);
        for option in ["--policy delegate", "--delegate-controllers pids", "--alias docker", "--coherent"] {
            assert!(again.stderr.contains(option), "{}", again.stderr);
        }
        let after = view(&scene);
        for same in ["policy", "shape", "delegate_controllers", "aliases", "delegated", "hides_ancestor_limits"] {
            assert_eq!(after[same], live[same], "{same}");
        }
        assert_eq!((&after["state"], &after["options"]["coherent"]), (&"live".into(), &true.into()));

        // What the command line says wins.
        kill(&scene);
        let again = scene.attach(&["--policy", "strict"]);
        assert!(again.code == 0 && !again.stderr.contains("--policy"), "{}", again.stderr);
        assert!(again.stderr.contains("--coherent") && !again.stderr.contains("pids"), "{}", again.stderr);
        let after = view(&scene);
        assert_eq!((&after["policy"], &after["options"]["coherent"]), (&"strict".into(), &true.into()));

        // It's only compared when somebody is there to be compared with.
        kill(&scene);
        let refused = scene.attach(&["--dry-run"]).fails(1);
        assert!(refused.contains("nobody serves") && refused.contains("detach"), "{refused}");
        scene.detach().ok();
        assert_eq!(listed(&scene).0, None);
        fs::write(scene.cgroup.dir("name=systemd").join("home/cgroup.procs"), scene.pid()).expect("a migration");
        scene.is_as_before(&before);
        // Nothing is left to be taken over.
        scene.attach(&[]).ok();
        assert_eq!(view(&scene)["policy"], "strict");
        assert_eq!(view(&scene)["options"].get("coherent"), None);
    }
}

#[test]
fn a_failed_view_ends_with_its_container() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::plain(MountMethod::Moved);
    scene.attach(&[]).ok();
    kill(&scene);
    assert_eq!(view(&scene)["state"], "failed");
    scene.sh("umount -l /sys/fs/cgroup").ok();
    assert_eq!(listed(&scene).0, None);

    scene.attach(&[]).ok();
    kill(&scene);
    let record = record(&scene);
    let init = nix::unistd::Pid::from_raw(scene.container.init().cast_signed());
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL).expect("a signal");
    wait_until("the end of the record", || listed(&scene).0.is_none());
    assert!(!record.exists());
}

/// A container that was placed stays where it is, and is migrated back at the end.
#[test]
fn a_place_is_used_again() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::without_cgroups(MountMethod::Moved, ContainerOptions::default());
    let before = (scene.mounts(), memberships(scene.container.init()));
    let name = name("again");
    scene.attach(&["--place", &name]).ok();
    let live = view(&scene);
    for _ in 0..2 {
        kill(&scene);
        let again = scene.attach(&[]);
        assert!(again.code == 0 && again.stderr.contains(&format!("--place {name}")), "{}", again.stderr);
        let after = view(&scene);
        assert_eq!((&after["delegated"], &after["options"]["place"]), (&live["delegated"], &name.as_str().into()));
    }
    scene.detach().ok();
    scene.is_as_before(&before.0);
    assert_eq!(memberships(scene.container.init()), before.1);
    assert!(!exists(&name));
}
