//! A mount in the view doesn't lead the server's own operations elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::inotify::AddWatchFlags as Mask;
use testkit::{Container, ContainerOptions, Need, TIMEOUT, require, run_to_end};

use super::watcher::Watcher;
use super::{Scene, UNIFIED};

/// A mount on a directory, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(source: Option<&Path>, target: PathBuf) -> Self {
        match source {
            Some(source) => mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>),
            None => mount(Some("none"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>),
        }
        .expect("a mount");
        Self(target)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).expect("a directory").flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    names.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Makes and removes cgroups as the host, where `dir`, on top of the view's directory, has the same names as well.
fn changes_nothing_in(scene: &Scene, view: &mut Watcher, dir: &Path) {
    let job = scene.host(UNIFIED).join("job");
    let mut there = Watcher::new();
    fs::create_dir(dir.join("old")).expect("mkdir");
    symlink("nowhere", dir.join("new")).expect("a symlink");
    there.add("there", dir);
    fs::create_dir(job.join("new")).expect("mkdir");
    fs::remove_dir(job.join("old")).expect("rmdir");
    view.wait("what the host did", |seen| {
        let has = |mask: Mask, name: &str| seen.iter().any(|seen| seen.mask.contains(mask) && seen.name == name);
        has(Mask::IN_CREATE, "new") && has(Mask::IN_DELETE, "old")
    });
    view.settle();
    there.take();
    there.seen.retain(|seen| seen.mask.intersects(Mask::IN_CREATE | Mask::IN_DELETE | Mask::IN_ATTRIB));
    assert_eq!((names(dir), there.at("there")), (vec!["new".to_owned(), "old".to_owned()], vec![]));
    // The control: by the path, that is where one gets.
    fs::create_dir(dir.join("control")).expect("mkdir");
    assert!(!job.join("control").exists());
}

fn scene() -> (Scene, Watcher) {
    let scene = Scene::new(&[UNIFIED], "rooted", false);
    fs::create_dir(scene.ours.child(UNIFIED, "job").join("old")).expect("mkdir");
    let mut view = Watcher::new();
    view.add("job", scene.seen(UNIFIED).join("job"));
    (scene, view)
}

/// The mount is where the server itself would walk by the path.
#[test]
fn a_mount_in_the_servers_namespace_does_not_mislead_it() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let other = tempfile::tempdir().expect("a temporary directory");
    for source in [None, Some(other.path())] {
        let (scene, mut view) = scene();
        let mounted = Mounted::new(source, scene.seen(UNIFIED).join("job"));
        changes_nothing_in(&scene, &mut view, &mounted.0);
    }
}

/// The container's root makes the mount, with all rights over its own mount namespace.
#[test]
fn a_mount_in_the_container_does_not_mislead_the_server() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(UNIFIED));
    let (scene, mut view) = scene();
    let container = Container::start(ContainerOptions::default());
    let job = scene.seen(UNIFIED).join("job");
    let init = container.init().to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &init, "--mount", "mount", "-t", "tmpfs", "none"]).arg(&job);
    assert!(run_to_end(&mut command, TIMEOUT).status.success(), "a mount in the container");
    let inside = Path::new("/proc").join(init).join("root").join(job.strip_prefix("/").expect("an absolute path"));
    changes_nothing_in(&scene, &mut view, &inside);
}
