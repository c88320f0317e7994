//! The ends of an attached view.

use std::fs;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{ContainerOptions, Need, require};

use crate::scene::{MOUNT_METHODS, MountMethod, Scene, program, said, wait_until};

fn signal(process: i32, signal: Signal) {
    kill(Pid::from_raw(process), signal).expect("a signal");
}

fn server(scene: &Scene) -> i32 {
    scene.view_processes().server.as_raw()
}

#[test]
fn a_view_ends_with_its_target() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = Scene::plain(method);
        scene.attach(&[]).ok();
        server(&scene);
        signal(scene.container.init().cast_signed(), Signal::SIGKILL);
        scene.is_unserved();
    }
}

/// The target is one process of many, which live on and get back what was there.
#[test]
fn a_view_ends_with_its_target_and_not_with_the_container() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = Scene::plain(method);
        let before = scene.mounts();
        let mut other = scene.container.command(testkit::Caller::Root).args(["sleep", "1000"]).spawn().expect("sleep");
        let sleeps = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000\0");
        let mut target = None;
        wait_until("the process", || {
            let procs = fs::read_to_string(scene.cgroup.dir("name=systemd").join("home/cgroup.procs")).expect("procs");
            target = procs.lines().filter_map(|line| line.parse().ok()).find(sleeps);
            target.is_some()
        });
        let target = target.expect("the process");
        said(scene.command().args(["attach", &target.to_string()])).ok();
        assert_ne!(scene.mounts(), before);
        // By whatever process it's named, it's the same container.
        let again = scene.attach(&[]);
        assert!(again.stderr.contains("already"), "{}", again.stderr);
        signal(target, Signal::SIGKILL);
        wait_until("the end of the view", || scene.mounts() == before);
        other.wait().expect("the process' end");
        scene.is_as_before(&before);
    }
}

/// The server holds a way to its own mount, which doesn't keep it from ending.
#[test]
fn a_watch_reports_changes_by_the_host() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::MovedMounts);
    let scene = Scene::plain(MountMethod::Moved);
    let before = scene.mounts();
    scene.attach(&[]).ok();
    let inside = format!("/proc/{}/root{}", scene.pid(), scene.own("name=systemd", false).display());
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("inotify");
    watch.add_watch(inside.as_str(), AddWatchFlags::IN_CREATE).expect("a watch");
    scene.cgroup.child("name=systemd", "home/news");
    let mut seen = Vec::new();
    wait_until("the event", || {
        seen.extend(watch.read_events().unwrap_or_default());
        seen.iter().any(|event| event.name.as_deref() == Some("news".as_ref()))
    });
    drop(watch);
    scene.detach().ok();
    scene.is_as_before(&before);
}

#[test]
fn a_view_ends_when_its_server_is_told_to() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = Scene::plain(method);
        let before = scene.mounts();
        scene.attach(&[]).ok();
        signal(server(&scene), Signal::SIGTERM);
        wait_until("the end of the view", || scene.mounts() == before);
        scene.is_as_before(&before);
    }
}

#[test]
fn a_view_whose_server_has_died_is_replaced() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = Scene::plain(method);
        let before = scene.mounts();
        scene.attach(&[]).ok();
        scene.view_processes().kill_to_the_end();
        wait_until("nobody serves it", || scene.sh("ls /sys/fs/cgroup/memory").stderr.contains("not connected"));
        let again = scene.attach(&[]);
        assert!(again.code == 0 && again.stderr.contains("it's made again"), "{}", again.stderr);
        scene.sh("ls /sys/fs/cgroup/memory").ok();
        scene.detach().ok();
        scene.is_as_before(&before);

        scene.attach(&[]).ok();
        scene.view_processes().kill_to_the_end();
        scene.detach().ok();
        scene.is_as_before(&before);
    }
}

#[test]
fn a_view_whose_keeper_was_killed_ends_as_usual() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        for unmount in ["", "umount -l /sys/fs/cgroup"] {
            let scene = Scene::plain(method);
            let before = scene.mounts();
            scene.attach(&[]).ok();
            // Some kernels have none.
            let Some(keeper) = scene.view_processes().keeper else { return };
            kill(keeper, Signal::SIGKILL).expect("a signal");
            scene.sh("ls /sys/fs/cgroup/memory").ok();
            if unmount.is_empty() {
                scene.detach().ok();
            } else {
                scene.sh(unmount).ok();
            }
            scene.is_as_before(&before);
        }
    }
}

/// A container with CAP_SYS_ADMIN over its mount namespace can unmount the view; then nobody serves it for nothing.
#[test]
fn a_view_ends_when_the_container_unmounts_it() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        for user_namespace in [false, true] {
            if user_namespace && !Need::FuseInUserNamespaces.is_met() {
                continue;
            }
            let scene = Scene::new(method, ContainerOptions { user_namespace, ..ContainerOptions::default() });
            let before = scene.mounts();
            scene.attach(&[]).ok();
            scene.sh("umount -l /sys/fs/cgroup").ok();
            scene.is_as_before(&before);
        }
    }
}

/// Even then the container doesn't reach what is beneath the view.
#[test]
fn the_container_cannot_unmount_the_view_alone() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy("name=systemd"), Need::MovedMounts);
    for user_namespace in [false, true] {
        let scene = Scene::new(MountMethod::Moved, ContainerOptions { user_namespace, ..ContainerOptions::default() });
        scene.attach(&[]).ok();
        let attached = scene.mounts();
        for attempt in [
            "umount /sys/fs/cgroup/memory",
            "umount -l /sys/fs/cgroup/memory",
            "umount -l /sys/fs/cgroup/systemd",
            "mount -o remount,bind,rw /sys/fs/cgroup/memory",
            "mount -o remount,bind,rw /sys/fs/cgroup",
            "mount -o remount,rw /sys/fs/cgroup",
            "mount --bind /sys/fs/cgroup /mnt",
        ] {
            assert_ne!(scene.sh(attempt).code, 0, "{attempt}");
            assert_eq!(scene.mounts(), attached, "{attempt}");
        }
        scene.detach().ok();
    }
}

#[test]
fn a_mount_over_the_view_is_left_alone() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::plain(MountMethod::Moved);
    scene.attach(&[]).ok();
    scene.sh("mount -t tmpfs -o ro over /sys/fs").ok();
    let covered = scene.mounts();
    let refused = scene.detach().fails(1);
    assert!(refused.contains("can't find /sys/fs/cgroup in the container"), "{refused}");
    assert_eq!(scene.mounts(), covered);
    scene.sh("umount /sys/fs").ok();
    scene.detach().ok();
    scene.is_unserved();
}

/// Root in the container can hide the view from whoever looks where it was attached. That neither gets it a second one, nor passes for none.
#[test]
fn a_view_ends_when_the_container_moves_or_covers_it() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = Scene::plain(method);
        let before = scene.mounts();
        scene.attach(&[]).ok();
        let processes = scene.view_processes();
        // Its keeper is told to end, or its server where there's none.
        let own = processes.keeper.unwrap_or(processes.server).as_raw();
        scene.sh("mount -t tmpfs over /sys/fs/cgroup").ok();
        for said in [scene.attach(&[]), scene.detach()] {
            let refused = said.fails(1);
            assert!(refused.contains(&format!("('kill {own}')")), "{refused}");
        }
        scene.sh("umount /sys/fs/cgroup").ok();
        assert!(scene.attach(&[]).stderr.contains("already"));

        scene.sh("mount --move /sys/fs/cgroup /mnt").ok();
        for said in [scene.attach(&[]), scene.detach()] {
            let refused = said.fails(1);
            assert!(refused.contains("doesn't see it"), "{refused}");
        }
        assert_eq!(scene.view_processes(), processes, "there's a second server");
        // It ends as it's told to, though it can't take the view away.
        signal(own, Signal::SIGTERM);
        scene.is_unserved();
        // What is left in there is no view any more, and keeps nobody from having one.
        assert!(scene.detach().stderr.contains("has no view"));
        scene.attach(&[]).ok();
        scene.detach().ok();
        scene.is_unserved();
        scene.sh("umount -l /mnt").ok();
        scene.is_as_before(&before);
    }
}

/// A `run` that has started its command, and the command's number.
fn run(options: &[&str]) -> (Child, String) {
    let name = format!("vcgroupfs-attach-{}{}", std::process::id(), options.concat());
    let seconds = format!("1000.{}{}", std::process::id(), options.len());
    let mut run = Command::new(program());
    let run = run.args(["run", "--name", &name]).args(options).args(["--", "sleep", &seconds]).spawn().expect("run");
    let line = format!("sleep\0{seconds}\0");
    let mut inside = None;
    wait_until("the command", || {
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        inside = pids.find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|own| own == line.as_bytes()));
        inside.is_some()
    });
    (run, inside.expect("the command").to_string())
}

/// `detach` doesn't take away a view that `run` has mounted.
#[test]
fn a_view_of_run_is_left_alone() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let (mut run, inside) = run(&[]);
    let has_view = || {
        let mounts = fs::read_to_string(format!("/proc/{inside}/mountinfo")).expect("mountinfo");
        mounts.contains(" /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - fuse.vcgroupfs ")
    };
    assert!(has_view());
    let detached = said(Command::new(program()).args(["detach", &inside]));
    assert!(detached.code == 0 && detached.stderr.contains("has no view"), "{}", detached.stderr);
    assert!(has_view());
    signal(run.id().cast_signed(), Signal::SIGTERM);
    run.wait().expect("its end");
}

/// The stack of `run` is like an attached one, but ends only with the command.
#[test]
fn a_stack_of_run_is_left_alone() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let (mut run, inside) = run(&["--stack"]);
    let has_view = || {
        let mounts = fs::read_to_string(format!("/proc/{inside}/mountinfo")).expect("mountinfo");
        mounts.contains(" /sys/fs/cgroup ro,nosuid,nodev,noexec - tmpfs vcgroupfs ")
            && mounts.contains(" /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime - fuse.vcgroupfs ")
    };
    assert!(has_view());
    let detached = said(Command::new(program()).args(["detach", &inside]));
    assert!(detached.code == 0 && detached.stderr.contains("there is nothing to detach"), "{}", detached.stderr);
    assert!(has_view());
    let attached = said(Command::new(program()).args(["attach", &inside]));
    assert!(attached.code == 0 && attached.stderr.contains("already has this view"), "{}", attached.stderr);
    let other = said(Command::new(program()).args(["attach", "--shape", "rooted", &inside])).fails(1);
    assert!(other.contains("'run' has made it"), "{other}");
    assert!(has_view());
    signal(run.id().cast_signed(), Signal::SIGTERM);
    run.wait().expect("its end");
}

#[test]
fn attach_refuses_the_host_itself() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let before = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mut other = Command::new("sleep").arg("1000").spawn().expect("sleep");
    for verb in ["attach", "detach"] {
        for pid in [std::process::id(), other.id()] {
            let refused = said(Command::new(program()).args([verb, &pid.to_string()])).fails(1);
            assert!(refused.contains("not in a container"), "{refused}");
        }
        let refused = said(Command::new(program()).args([verb, "2147483647"])).fails(1);
        assert!(refused.contains("there is no process 2147483647"), "{refused}");
    }
    other.kill().expect("sleep's end");
    other.wait().expect("sleep's end");
    let after = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let places = |text: &str| text.lines().filter(|line| line.contains(" /sys/fs/cgroup")).count();
    assert_eq!(places(&before), places(&after));
}

/// Mount namespaces that get what is mounted in the container, or are copies of it: each service of systemd has one that is to see other
/// files than the rest.
#[test]
fn copies_of_the_view_end_with_it() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"), Need::LegacySyscalls);
    for method in MOUNT_METHODS {
        let scene = Scene::plain(method);
        scene.sh("mount --make-rshared /").ok();
        let before = scene.mounts();
        let service = || {
            let words = ["unshare", "--mount", "--propagation", "slave", "sleep", "1000"];
            scene.container.command(testkit::Caller::Root).args(words).spawn().expect("a service")
        };
        let namespaces = |expected: usize| {
            let procs = || fs::read_to_string(scene.cgroup.dir("name=systemd").join("home/cgroup.procs"));
            let mut found = std::collections::HashMap::new();
            wait_until("the service", || {
                found.clear();
                for pid in procs().expect("procs").lines() {
                    found.insert(fs::read_link(format!("/proc/{pid}/ns/mnt")).ok(), pid.to_owned());
                }
                found.remove(&None);
                // Who is on the way into the container is in the test's own.
                let on_the_way = found.remove(&fs::read_link("/proc/self/ns/mnt").ok()).is_some();
                found.len() == expected && !on_the_way
            });
            found.into_values().collect::<Vec<_>>()
        };
        let views = |pid: &String| {
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
            // Other tests have views elsewhere.
            mounts
                .lines()
                .filter(|mount| mount.contains(" /sys/fs/cgroup") && mount.contains(" fuse.vcgroupfs "))
                .count()
        };
        let first = service();
        namespaces(2);
        scene.attach(&[]).ok();
        let second = service();
        let all = namespaces(3);
        assert!(all.iter().all(|pid| views(pid) > 0), "not all of them have it");

        scene.detach().ok();
        assert_eq!(all.iter().map(views).sum::<usize>(), 0);
        scene.is_as_before(&before);
        for mut service in [first, second] {
            service.kill().expect("kill");
            service.wait().expect("wait");
        }
    }
}
