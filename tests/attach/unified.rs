//! A host with cgroup2 alone: a real cgroup on `/sys/fs/cgroup`, for clients that ask statfs, and the view on the container's own.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{ContainerOptions, Need, hierarchy, require};

use crate::scene::{Host, MOUNT_METHODS, MountMethod, Said, Scene, wait_until};

/// The mounts that every container on such a host has at first.
const CGROUP2: &str = "mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup";

fn scene(method: MountMethod, options: ContainerOptions) -> Scene {
    Scene::new(method, options).on(Host::Unified)
}

/// Checks that it succeeded, and returns its messages without those that it always prints on a unified host, and here about the other hierarchies.
#[track_caller]
fn went_well(said: &Said) -> String {
    assert_eq!(said.code, 0, "{}", said.stderr);
    let others = |line: &&str| {
        ["isn't mounted on the host", "on a unified host", "it's made again"].iter().all(|other| !line.contains(other))
    };
    said.stderr.lines().filter(others).collect()
}

/// The superblock's options of the host's cgroup2, which `nsdelegate` is one of.
fn options_of_host() -> String {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = text.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2");
    line.rsplit(' ').next().expect("options").to_owned()
}

fn check(options: &ContainerOptions) {
    for method in MOUNT_METHODS {
        let scene = scene(method, options.clone());
        let (before, host) = (scene.mounts(), options_of_host());
        let attached = scene.attach(&[]);
        assert_eq!(went_well(&attached), "", "{method:?}");
        assert!(attached.stderr.contains("runc"), "{}", attached.stderr);
        is_recognised(&scene);
        obeys(&scene, options);
        ancestors_are_the_hosts(&scene);
        tells_of_the_container(&scene);
        takes_no_process(&scene);

        let attached = scene.mounts();
        let again = scene.attach(&[]);
        assert!(went_well(&again).contains("already"), "{}", again.stderr);
        assert_eq!(scene.mounts(), attached);
        let other = scene.attach(&["--policy", "delegate"]);
        assert!(other.code == 1 && other.stderr.contains("policy strict"), "{}", other.stderr);

        scene.detach().ok();
        scene.is_as_before(&before);
        assert!(scene.detach().stderr.contains("no view"));
        went_well(&scene.attach(&["--policy", "delegate"]));
        scene.detach().ok();
        scene.is_as_before(&before);
        assert_eq!(options_of_host(), host);
    }
}

/// Clients ask statfs of the root, and join the mount point and `/proc/self/cgroup`.
fn is_recognised(scene: &Scene) {
    assert_eq!(scene.sh("stat -f -c %T /sys/fs/cgroup").ok(), "cgroup2fs\n");
    let own = format!("/sys/fs/cgroup{}", scene.home());
    assert_eq!(scene.sh(&format!("stat -f -c %T {own}")).ok(), "fuseblk\n");
    let found = scene
        .sh("while IFS=: read -r id list path; do
                 [ $id = 0 ] && read -r first < /sys/fs/cgroup$path/cgroup.procs && [ -n \"$first\" ] && echo found
             done < /proc/self/cgroup")
        .ok();
    assert_eq!(found, "found\n");
    // What there is in truth, not what the sentinel has.
    for file in ["cgroup.controllers", "cgroup.subtree_control"] {
        let host = fs::read_to_string(hierarchy("unified").expect("cgroup2").mountpoint.join(file)).expect("the file");
        assert_eq!(scene.sh(&format!("head -n 1 /sys/fs/cgroup/{file}")).ok(), host);
    }
    let mounts = scene.mounts();
    let root = mounts.iter().rfind(|mount| mount.split(' ').nth(2) == Some("/sys/fs/cgroup")).expect("the root");
    assert!(root.contains(" - cgroup2 ") && root.split(' ').nth(3).is_some_and(|it| it.starts_with("ro,")), "{root}");
}

fn obeys(scene: &Scene, options: &ContainerOptions) {
    let own = format!("/sys/fs/cgroup{}", scene.home());
    if !options.user_namespace {
        scene.sh(&format!("mkdir {own}/x && sh -c 'echo 0 > {own}/x/cgroup.procs' && rmdir {own}/x")).ok();
    }
    let above = format!("/sys/fs/cgroup{}", scene.cgroup.path());
    // One step to the own cgroup each, and beside it nothing.
    assert_eq!(scene.sh("ls -d /sys/fs/cgroup/*/").ok(), format!("{above}/\n"));
    assert_eq!(scene.sh(&format!("ls -d {above}/*/")).ok(), format!("{own}/\n"));
    for attempt in [
        "mkdir /sys/fs/cgroup/x".to_owned(),
        format!("mkdir {above}/x"),
        format!("rmdir {own}"),
        "echo threaded > /sys/fs/cgroup/cgroup.type".to_owned(),
        "echo 0 > /sys/fs/cgroup/cgroup.procs".to_owned(),
        "echo +pids > /sys/fs/cgroup/cgroup.subtree_control".to_owned(),
    ] {
        assert_ne!(scene.sh(&attempt).code, 0, "{attempt}");
    }
    if scene.method == MountMethod::Moved {
        let attached = scene.mounts();
        for attempt in [
            format!("umount -l {above}"),
            "umount -l /sys/fs/cgroup/cgroup.controllers".to_owned(),
            "mount -o remount,bind,rw /sys/fs/cgroup".to_owned(),
        ] {
            assert_ne!(scene.sh(&attempt).code, 0, "{attempt}");
            assert_eq!(scene.mounts(), attached, "{attempt}");
        }
    }
}

/// The path to the container's own cgroup shows no file of the sentinel, which would make clients believe in cgroups without limits.
fn ancestors_are_the_hosts(scene: &Scene) {
    let above = format!("/sys/fs/cgroup{}", scene.cgroup.path());
    assert_eq!(scene.sh(&format!("stat -f -c %T {above}")).ok(), "fuseblk\n");
    let host = scene.cgroup.dir("unified");
    let limits = ["memory.max", "memory.high", "memory.swap.max", "cpu.max", "cpuset.cpus", "cpuset.mems", "pids.max"];
    let core = ["cgroup.controllers", "cgroup.subtree_control", "cgroup.type"];
    let shown =
        scene.sh(&format!("cd {above} && find . -maxdepth 1 -type f ! -name 'hugetlb.*' ! -name '*.effective'")).ok();
    let shown: std::collections::BTreeSet<&str> = shown.lines().filter_map(|name| name.strip_prefix("./")).collect();
    let expected = limits.into_iter().chain(core).filter(|name| host.join(name).exists());
    assert_eq!(shown, expected.clone().collect());
    for name in expected {
        let content = fs::read_to_string(host.join(name)).expect("a file of the host");
        assert_eq!(scene.sh(&format!("head -n 50 {above}/{name}")).ok(), content, "{name}");
    }
}

/// The top has the files of the container's own cgroup, as in a cgroup namespace, and none of the sentinel's.
fn tells_of_the_container(scene: &Scene) {
    let own = scene.cgroup.dir("unified").join("home");
    let shown = scene.sh("cd /sys/fs/cgroup && find . -maxdepth 1 -type f").ok();
    let names: Vec<&str> = shown.lines().filter_map(|name| name.strip_prefix("./")).collect();
    assert!(names.len() > 10 && names.contains(&"cpu.stat") && names.contains(&"cgroup.procs"), "{names:?}");
    for name in names {
        let kind = scene.sh(&format!("stat -f -c %T /sys/fs/cgroup/{name}")).ok();
        assert_eq!(kind, "fuseblk\n", "{name} is the sentinel's");
        let written = scene.sh(&format!("sh -c ': > /sys/fs/cgroup/{name}' 2>&1"));
        assert!(written.code != 0, "{name}: {written:?}");
        let is_the_hosts = matches!(name, "cgroup.controllers" | "cgroup.subtree_control");
        let (true, Ok(content)) = (!is_the_hosts, fs::read_to_string(own.join(name))) else { continue };
        let read = scene.sh(&format!("cat /sys/fs/cgroup/{name}")).ok();
        if matches!(name, "cgroup.procs" | "cgroup.threads") {
            assert!(!read.is_empty(), "{name} is empty");
        } else if name != "cgroup.stat" {
            let shape = |text: &str| text.chars().filter(|one| !one.is_ascii_digit()).collect::<String>();
            assert_eq!(shape(&read), shape(&content), "{name}");
        }
    }
    // The processor time is the container's, and grows.
    let usage = || scene.sh("grep ^usage_usec /sys/fs/cgroup/cpu.stat").ok();
    assert_ne!(usage(), "usage_usec 0\n");
}

/// clone3(2) into a cgroup doesn't ask whether the mount is read-only. It asks the cgroup, as a write on the host's own mount does.
fn takes_no_process(scene: &Scene) {
    let (top, step) = (scene.sentinel().join("top"), scene.cgroup.path());
    for cgroup in [top.clone(), top.join(&step[1..])] {
        let kind = fs::read_to_string(cgroup.join("cgroup.type")).expect("its type");
        assert_eq!(kind, "domain invalid\n", "{}", cgroup.display());
        let errno = fs::write(cgroup.join("cgroup.procs"), "0").expect_err("no process").raw_os_error();
        assert_eq!(errno, Some(nix::errno::Errno::EOPNOTSUPP as i32), "{}", cgroup.display());
    }
}

macro_rules! kinds {
    ($($name:ident: $options:expr;)+) => {$(
        #[test]
        fn $name() {
            require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::LegacySyscalls, Need::Hierarchy("unified"));
            check(&$options);
        }
    )+};
}

fn prepared(script: &str) -> ContainerOptions {
    ContainerOptions { prepare: script.into(), ..ContainerOptions::default() }
}

kinds! {
    plain: prepared(CGROUP2);
    user_namespace: ContainerOptions { user_namespace: true, ..prepared(CGROUP2) };
    the_hosts_pids: ContainerOptions { host_pids: true, ..prepared(CGROUP2) };
    read_only_root: prepared(&format!("{CGROUP2}; mount -o remount,bind,ro /"));
    no_cgroups_mounted: prepared("umount -R /sys/fs/cgroup");
    no_sysfs: prepared("mount --bind $EMPTY /sys");
    no_sysfs_in_a_user_namespace: ContainerOptions { user_namespace: true, ..prepared("mount --bind $EMPTY /sys") };
    shared_among_its_own: prepared(&format!("{CGROUP2}; mount --make-rshared /"));
}

#[test]
fn attach_refuses_views_that_clients_would_not_find() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let namespace = ContainerOptions { cgroup_namespace: true, ..prepared(CGROUP2) };
    for (options, words, code, expected) in [
        (namespace.clone(), &[][..], 3, "a cgroup namespace of its own"),
        (namespace, &["--shape", "host-path"], 3, "a cgroup namespace of its own"),
        (prepared(CGROUP2), &["--shape", "rooted"], 3, "use --shape host-path"),
        (prepared(CGROUP2), &["--shape", "full"], 3, "use --shape host-path"),
        (prepared(CGROUP2), &["--alias", "docker"], 3, "--alias isn't possible"),
    ] {
        let scene = scene(MountMethod::Moved, options);
        let before = scene.mounts();
        let refused = scene.attach(words);
        assert_eq!(refused.code, code, "{words:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{words:?}: {}", refused.stderr);
        scene.is_as_before(&before);
    }
}

#[test]
fn a_container_in_the_root_needs_a_place() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = Scene::without_cgroups(method, prepared(CGROUP2)).on(Host::Unified);
        let before = scene.mounts();
        let refused = scene.attach(&[]);
        assert!(refused.code == 1 && refused.stderr.contains("--place NAME"), "{}", refused.stderr);
        scene.is_as_before(&before);
        let name = format!("vcgroupfs-unified-{}", std::process::id());
        went_well(&scene.attach(&["--place", &name]));
        scene.sh(&format!("mkdir /sys/fs/cgroup/{name}/x && rmdir /sys/fs/cgroup/{name}/x")).ok();
        scene.detach().ok();
        scene.is_as_before(&before);
        assert!(!hierarchy("unified").expect("cgroup2").mountpoint.join(&name).exists());
    }
}

/// The view ends with its server, and the sentinel with the view. The next command removes the sentinel of a killed server.
#[test]
fn the_sentinel_is_removed_with_the_view() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = scene(method, prepared(CGROUP2));
        let before = scene.mounts();
        went_well(&scene.attach(&[]));
        kill(scene.view_processes().server, Signal::SIGTERM).expect("a signal");
        wait_until("the end of the view", || scene.mounts() == before);
        scene.is_as_before(&before);

        went_well(&scene.attach(&[]));
        scene.view_processes().kill_to_the_end();
        went_well(&scene.attach(&[]));
        scene.sh(&format!("mkdir /sys/fs/cgroup{0}/x && rmdir /sys/fs/cgroup{0}/x", scene.home())).ok();
        scene.detach().ok();
        scene.is_as_before(&before);

        went_well(&scene.attach(&[]));
        scene.view_processes().kill_to_the_end();
        scene.detach().ok();
        scene.is_as_before(&before);

        // Also by one that has to do with another container.
        went_well(&scene.attach(&[]));
        scene.view_processes().kill_to_the_end();
        let other = self::scene(method, prepared(CGROUP2));
        went_well(&other.attach(&[]));
        assert!(!scene.has_sentinel() && other.has_sentinel());
        went_well(&scene.detach());
        assert!(other.has_sentinel());
        kill(Pid::from_raw(other.container.init().cast_signed()), Signal::SIGKILL).expect("a signal");
        other.is_unserved();
        scene.is_as_before(&before);
    }
}
