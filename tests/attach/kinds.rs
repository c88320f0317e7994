//! Every kind of container, both ways.

use testkit::{ContainerOptions, Need, hierarchies, hierarchy, require};

use crate::scene::{MountMethod, Scene, said};

/// A kind of container.
#[derive(Clone, Debug, Default)]
struct Kind {
    options: ContainerOptions,
    /// Its user 0 owns its cgroups.
    rooted: bool,
}

fn check(kind: &Kind) {
    check_mount_method(MountMethod::Moved, kind);
    check_mount_method(MountMethod::Built, kind);
}

fn check_mount_method(method: MountMethod, kind: &Kind) {
    let scene = Scene::new(method, kind.options.clone());
    let before = scene.mounts();

    scene.attach(&[]).ok();
    is_recognised(&scene, kind);
    obeys(&scene, kind);
    is_listed(&scene, kind);
    let again = scene.attach(&[]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("already"), "{}", again.stderr);
    assert_eq!(scene.mounts().iter().filter(|mount| mount.contains(" tmpfs vcgroupfs ")).count(), 1);
    let other = scene.attach(&["--policy", "delegate"]).fails(1);
    assert!(other.contains("policy strict"), "{other}");

    scene.detach().ok();
    scene.is_as_before(&before);
    let again = scene.detach();
    assert_eq!(again.code, 0);
    assert!(again.stderr.contains("no view"), "{}", again.stderr);

    // As good as new.
    scene.attach(&["--policy", "delegate"]).ok();
    scene.detach().ok();
    scene.is_as_before(&before);
}

/// What clients look for: the filesystem of the place, a line per hierarchy in mountinfo, and their own cgroup.
fn is_recognised(scene: &Scene, kind: &Kind) {
    let mounts = scene.mounts();
    let place = mounts.iter().rfind(|mount| mount.contains(" tmpfs vcgroupfs ")).expect("the tmpfs");
    assert!(place.contains(" ro,") && place.ends_with(",mode=755") && place.contains(" ro,size"), "{place}");
    for hierarchy in hierarchies() {
        let point = hierarchy.in_view("/sys/fs/cgroup".as_ref()).display().to_string();
        let here: Vec<&String> = mounts.iter().filter(|mount| mount.split(' ').nth(2) == Some(&point)).collect();
        let index = mounts.iter().position(|mount| mount == place).expect("the tmpfs");
        let ours: Vec<&&String> = here
            .iter()
            .filter(|mount| mounts.iter().position(|other| other == **mount).is_some_and(|at| at > index))
            .collect();
        let has_underlay = !hierarchy.is_unified() || scene.method == MountMethod::Moved;
        assert_eq!(ours.len(), 1 + usize::from(has_underlay), "{point}: {mounts:#?}");
        let view = ours.last().expect("a mount");
        assert!(view.contains(" fuse.vcgroupfs vcgroupfs "), "{view}");
        let writable = hierarchy.is_unified() || hierarchy.selector() == "name=systemd";
        assert_eq!(view.split(' ').nth(3).map(|options| options.starts_with("rw,")), Some(writable), "{view}");
        if has_underlay {
            let fields: Vec<&str> = ours[0].split(' ').collect();
            // The root as seen from the initial cgroup namespace.
            let root = if kind.rooted { scene.home() } else { "/".to_owned() };
            assert_eq!(fields[1], root, "{}", ours[0]);
            assert!(fields[3].starts_with("ro,"), "{}", ours[0]);
            let words = ours[0].split(" - ").nth(1).expect("a filesystem");
            assert!(words.starts_with("cgroup"), "{words}");
            assert!(words.contains(&hierarchy.selector()) || hierarchy.is_unified(), "{words}");
        }
    }
    let types = scene.sh("stat -f -c %T /sys/fs/cgroup").ok();
    assert_eq!(types, "tmpfs\n");
    // Every line of /proc/self/cgroup leads somewhere, where the reader is listed.
    let found = scene
        .sh("while IFS=: read -r id list path; do
                 d=${list#name=}; [ $id = 0 ] && d=unified
                 read -r first < /sys/fs/cgroup/$d$path/cgroup.procs && [ -n \"$first\" ] && echo $d
             done < /proc/self/cgroup")
        .ok();
    assert_eq!(found.lines().count(), hierarchies().len(), "{found}");
}

/// The policy, and what is hidden.
fn obeys(scene: &Scene, kind: &Kind) {
    let own = |selector| scene.own(selector, kind.rooted).display().to_string();
    let written = |path: String| {
        let said = scene.sh(&format!("mkdir {path}/x && rmdir {path}/x"));
        (said.code == 0).then_some(()).ok_or(said.stderr)
    };
    if !kind.options.user_namespace {
        assert_eq!(written(own("name=systemd")), Ok(()));
        assert_eq!(written(own("unified")), Ok(()));
    }
    let refused = written(own("memory")).unwrap_err();
    assert!(refused.contains("Read-only file system"), "{refused}");
    let refused = written("/sys/fs/cgroup".into()).unwrap_err();
    assert!(refused.contains("Read-only file system"), "{refused}");
    let sibling = hierarchy("name=systemd").expect("name=systemd").in_view("/sys/fs/cgroup".as_ref());
    let sibling = sibling.join(&scene.cgroup.path()[1..]).join("sibling").display().to_string();
    assert_eq!(scene.sh(&format!("ls {sibling}")).code, 2);
    assert_eq!(scene.sh("find /sys/fs/cgroup -name sibling").ok(), "");
}

fn is_listed(scene: &Scene, kind: &Kind) {
    let list = said(std::process::Command::new(crate::scene::program()).args(["list", "--json"])).ok();
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let pid: u32 = scene.container.init();
    let views: Vec<_> = list.as_array().expect("a list").iter().filter(|view| view["container"] == pid).collect();
    assert_eq!(views.len(), 1, "{list}");
    assert_eq!(views[0]["directory"], "/sys/fs/cgroup");
    assert_eq!(views[0]["target"], format!("pid {pid}"));
    assert_eq!(views[0]["shape"], if kind.rooted { "rooted" } else { "host-path" });
    assert_eq!(views[0]["delegated"]["memory"], scene.home());
}

macro_rules! kinds {
    ($($name:ident: $kind:expr;)+) => {$(
        #[test]
        fn $name() {
            require!(
                Need::Root, Need::Fuse, Need::UserNamespaces, Need::LegacySyscalls,
                Need::Hierarchy("unified"), Need::Hierarchy("name=systemd"), Need::Hierarchy("memory")
            );
            check(&$kind);
        }
    )+};
}

fn prepared(script: &str) -> Kind {
    Kind { options: ContainerOptions { prepare: script.into(), ..ContainerOptions::default() }, rooted: false }
}

kinds! {
    plain: Kind::default();
    user_namespace: Kind {
        options: ContainerOptions { user_namespace: true, ..ContainerOptions::default() },
        rooted: false,
    };
    cgroup_namespace: Kind {
        options: ContainerOptions { cgroup_namespace: true, ..ContainerOptions::default() },
        rooted: true,
    };
    user_and_cgroup_namespace: Kind {
        options: ContainerOptions { user_namespace: true, cgroup_namespace: true, ..ContainerOptions::default() },
        rooted: true,
    };
    the_hosts_pids: Kind {
        options: ContainerOptions { host_pids: true, ..ContainerOptions::default() },
        rooted: false,
    };
    read_only_root: prepared("mount -o remount,bind,ro /");
    no_cgroups_mounted: prepared("umount -R /sys/fs/cgroup");
    no_sysfs: prepared("mount --bind $EMPTY /sys");
    no_sysfs_and_read_only: prepared("mount --bind $EMPTY /sys; mount -o remount,bind,ro /sys; mount -o remount,bind,ro /");
    shared_among_its_own: prepared("mount --make-rshared /");
    in_a_user_namespace_without_sysfs: Kind {
        options: ContainerOptions {
            user_namespace: true,
            prepare: "mount --bind $EMPTY /sys".into(),
            ..ContainerOptions::default()
        },
        rooted: false,
    };
}

#[test]
fn attach_refuses_where_there_is_no_mount_point() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    for method in [MountMethod::Moved, MountMethod::Built] {
        let script = "mount --bind $EMPTY /sys; mkdir /sys/devices";
        let scene = Scene::new(method, prepared(script).options);
        let before = scene.mounts();
        let refused = scene.attach(&[]).fails(1);
        assert!(refused.contains("isn't empty: mount sysfs"), "{refused}");
        scene.is_as_before(&before);
        // A symlink isn't followed, wherever it leads.
        let scene = Scene::new(method, prepared("mount --bind $EMPTY /sys; ln -s /tmp /sys/fs").options);
        let before = scene.mounts();
        let refused = scene.attach(&[]).fails(1);
        assert!(refused.contains("can't find /sys/fs/cgroup in the container"), "{refused}");
        scene.is_as_before(&before);
    }
}

/// A mount of the host, which is unmounted when this is dropped.
struct Mounted<'a>(&'a str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = said(std::process::Command::new("umount").args(["-l", self.0]));
    }
}

#[test]
fn attach_refuses_where_the_host_would_see_the_mounts() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().display().to_string();
    let mount = |arguments: &[&str]| said(std::process::Command::new("mount").args(arguments)).ok();
    mount(&["-t", "tmpfs", "vcgroupfs-test", &path]);
    // Dropped after the scene.
    let _mounted = Mounted(&path);
    mount(&["--make-shared", &path]);
    let script = format!("mount --make-rprivate /sys; mount --bind {path} /sys/fs/cgroup");
    let scene = Scene::new(
        MountMethod::Moved,
        ContainerOptions { prepare: script, shared: true, ..ContainerOptions::default() },
    );
    let before = scene.mounts();
    let refused = scene.attach(&[]).fails(1);
    assert!(refused.contains("of the host: the view would appear there, too"), "{refused}");
    scene.is_as_before(&before);
}
