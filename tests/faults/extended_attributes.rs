//! Memory of the kernel's that xattrs take, and what else they may and mayn't.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;
use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, Need, OWNER, TestCgroup, View, ViewOptions, hierarchy,
    kill_to_the_end, require, wait_until,
};
use vcgroupfs::sys::xattr;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vcgroupfs");

/// What the xattrs that are set through a view may take, in bytes, as the manual says.
const BUDGET_BYTES: u64 = 2 * 1024 * 1024;

/// How much more than that a server may grow meanwhile, in bytes: its own memory, and the kernel's for directories that it looks up.
const SLACK_BYTES: u64 = 6 * 1024 * 1024;

/// A hierarchy in which both policies make cgroups.
fn selector() -> &'static str {
    if hierarchy("name=systemd").is_some() { "name=systemd" } else { "unified" }
}

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    let c = |bytes: &[u8]| CString::new(bytes).expect("no NUL in a path");
    let result = xattr::set(&c(path.as_os_str().as_bytes()), &c(name.as_bytes()), value, 0);
    result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

fn remove(path: &Path, name: &str) -> Result<(), Errno> {
    let c = |bytes: &[u8]| CString::new(bytes).expect("no NUL in a path");
    let result = xattr::remove(&c(path.as_os_str().as_bytes()), &c(name.as_bytes()));
    result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

fn names(path: &Path) -> String {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    String::from_utf8_lossy(&xattr::list(&path).expect("a list")).replace('\0', " ").trim().to_owned()
}

/// A view of a test cgroup, and a memory cgroup for its server.
struct Scene {
    view: View,
    cgroup: TestCgroup,
    memory: TestCgroup,
}

impl Scene {
    fn new(options: ViewOptions) -> Self {
        let cgroup = TestCgroup::new(&[selector()]);
        let view = View::mount(Path::new(PROGRAM), &options.cgroup(&cgroup).shape("rooted"));
        let memory = TestCgroup::new(&["memory"]);
        fs::write(memory.dir("memory").join("cgroup.procs"), view.server().to_string()).expect("the server migrates");
        Self { view, cgroup, memory }
    }

    fn top(&self) -> PathBuf {
        self.view.hierarchy(&hierarchy(selector()).expect("a required hierarchy"))
    }

    /// Makes a cgroup through the view.
    fn child(&self, name: &str) -> PathBuf {
        let dir = self.top().join(name);
        fs::create_dir(&dir).expect("mkdir in the view");
        dir
    }

    /// The kernel memory that is charged to the server, in bytes.
    fn charged(&self) -> u64 {
        let dir = self.memory.dir("memory");
        let text = ["memory.usage_in_bytes", "memory.current"].map(|file| fs::read_to_string(dir.join(file)));
        let text = text.into_iter().find_map(Result::ok).expect("a memory cgroup");
        text.trim().parse().expect("a number")
    }
}

/// Sets xattrs of 30 KiB on cgroups of their own until that's refused, at most `most` bytes. How much was set, and by what it ended.
fn fill(scene: &Scene, prefix: &str, most: u64) -> (u64, Option<Errno>) {
    let value = vec![b'x'; 30 * 1024];
    let mut total = 0;
    for number in 0.. {
        let dir = scene.child(&format!("{prefix}{number}"));
        for name in ["user.a", "user.b", "user.c"] {
            if total >= most {
                return (total, None);
            }
            if let Err(errno) = set(&dir, name, &value) {
                return (total, Some(errno));
            }
            total += value.len() as u64;
        }
    }
    unreachable!("there are names enough")
}

#[test]
fn a_container_uses_no_more_than_its_budget() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy(selector()));
    let scene = Scene::new(ViewOptions::new());
    let before = scene.charged();
    let (total, end) = fill(&scene, "a", 20 * BUDGET_BYTES);
    let grown = scene.charged().saturating_sub(before);
    assert_eq!(end, Some(Errno::ENOSPC), "{total} bytes were set, {grown} charged to the server");
    assert!(total > BUDGET_BYTES / 2, "{total} is hardly anything");
    assert!(grown < BUDGET_BYTES + SLACK_BYTES, "{grown}");
    // Short ones cost what they cost the kernel, not what they say.
    for number in 0..20_000 {
        if set(&scene.top().join("a0"), &format!("trusted.{number}"), b"") == Err(Errno::ENOSPC) {
            break;
        }
    }
    assert!(scene.charged().saturating_sub(before) < BUDGET_BYTES + SLACK_BYTES, "{}", scene.charged());
    assert_eq!(set(&scene.top().join("a1"), "trusted.one-more", &[b'x'; 4000]), Err(Errno::ENOSPC));
}

/// A container that could have its server killed mustn't get a new budget each time.
#[test]
fn the_budget_outlives_the_server() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy(selector()), Need::ResentRequests);
    let scene = Scene::new(ViewOptions::new());
    assert_eq!(fill(&scene, "a", 20 * BUDGET_BYTES).1, Some(Errno::ENOSPC));
    kill_to_the_end(Pid::from_raw(scene.view.server().cast_signed()));
    let (next, large) = (scene.child("next"), vec![b'x'; 30 * 1024]);
    assert_eq!(set(&next, "user.a", &large), Err(Errno::ENOSPC));
    remove(&scene.top().join("a0"), "user.a").expect("the killed server has set it");
    assert_eq!(set(&next, "user.a", &large), Ok(()));
}

#[test]
fn removed_and_replaced_xattrs_are_given_back_to_the_budget() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy(selector()));
    let scene = Scene::new(ViewOptions::new());
    assert_eq!(fill(&scene, "a", 20 * BUDGET_BYTES).1, Some(Errno::ENOSPC));
    let large = vec![b'x'; 30 * 1024];
    let next = scene.child("next");
    let fits = |name: &str| {
        let fits = set(&next, name, &large);
        if fits.is_ok() {
            remove(&next, name).expect("it was set");
        }
        fits
    };
    assert_eq!(fits("user.a"), Err(Errno::ENOSPC));
    let dir = |name: &str| scene.top().join(name);
    set(&dir("a0"), "user.a", b"short").expect("a shorter value has room");
    assert_eq!(fits("user.a"), Ok(()), "replaced");
    set(&dir("a0"), "user.a", &large).expect("it has been there");
    assert_eq!(fits("user.a"), Err(Errno::ENOSPC));
    remove(&dir("a0"), "user.a").expect("it's there");
    assert_eq!(fits("user.a"), Ok(()), "removed");
    set(&dir("a0"), "user.a", &large).expect("it has been there");
    fs::remove_dir(dir("a1")).expect("an empty cgroup");
    assert_eq!(fits("user.a"), Ok(()), "rmdir through the view");

    assert_eq!(fill(&scene, "b", 20 * BUDGET_BYTES).1, Some(Errno::ENOSPC));
    fs::remove_dir(scene.cgroup.dir(selector()).join("a2")).expect("an empty cgroup");
    wait_until("what the host has removed is given back", || fits("user.b").is_ok());
    // What fails takes nothing.
    for _ in 0..200 {
        assert_eq!(set(&next, "nonsense.a", &large), Err(Errno::EOPNOTSUPP));
    }
    assert_eq!(fits("user.a"), Ok(()));
}

/// The kernel keeps a removed cgroup, with its xattrs, as long as somebody has a file of it open.
#[test]
fn a_removed_cgroup_that_is_held_open_keeps_no_xattrs() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy(selector()));
    let scene = Scene::new(ViewOptions::new());
    let before = scene.charged();
    let value = vec![b'x'; 30 * 1024];
    let mut held = Vec::new();
    for number in 0..600 {
        let dir = scene.child(&format!("a{number}"));
        for name in ["user.a", "user.b", "user.c"] {
            set(&dir, name, &value).expect("all before were given back");
        }
        held.push(File::options().write(true).open(dir.join("cgroup.procs")).expect("a file"));
        held.push(File::open(&dir).expect("a directory"));
        fs::remove_dir(&dir).expect("an empty cgroup");
    }
    let grown = scene.charged().saturating_sub(before);
    assert!(grown < BUDGET_BYTES + SLACK_BYTES, "{grown} bytes are charged to the server");
    drop(held);
}

#[test]
fn xattrs_of_files_cannot_be_set() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    for policy in ["strict", "delegate"] {
        let cgroup = TestCgroup::new(&[selector()]);
        let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().cgroup(&cgroup).shape("rooted").policy(policy));
        let dir = view.hierarchy(&hierarchy(selector()).expect("a hierarchy")).join("a");
        fs::create_dir(&dir).expect("mkdir in the view");
        let file = dir.join("cgroup.procs");
        for name in ["user.a", "trusted.a", "security.a"] {
            assert_eq!(set(&file, name, b"1"), Err(Errno::EOPNOTSUPP), "{policy} {name}");
            assert_eq!(remove(&file, name), Err(Errno::EOPNOTSUPP), "{policy} {name}");
            assert_eq!(set(&dir, name, b"1"), Ok(()), "{policy} {name}");
        }
        // What the host has there is shown.
        set(&cgroup.dir(selector()).join("a/cgroup.procs"), "user.host", b"1").expect("an xattr on the host");
        assert_eq!(names(&file), "user.host", "{policy}");
        assert_eq!(remove(&file, "user.host"), Err(Errno::EOPNOTSUPP), "{policy}");
    }
}

#[test]
fn strict_protects_the_attributes_of_the_boundary() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    for policy in ["strict", "delegate"] {
        let cgroup = TestCgroup::new(&[selector()]);
        let real = cgroup.dir(selector());
        set(&real, "user.host", b"1").expect("an xattr on the host");
        let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().cgroup(&cgroup).shape("rooted").policy(policy));
        let top = view.hierarchy(&hierarchy(selector()).expect("a hierarchy"));
        let expected = if policy == "strict" { Err(Some(Errno::EACCES as i32)) } else { Ok(()) };
        let raw = |errno: Errno| Some(errno as i32);
        let io = |error: std::io::Error| error.raw_os_error();
        let before = fs::metadata(&real).expect("the boundary");
        for path in [top.clone(), top.join("cgroup.procs")] {
            let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io);
            let shown = fs::metadata(&path).expect("it's shown").mode();
            assert_eq!(mode(0o700), expected, "{policy} {}", path.display());
            assert_eq!(chown(&path, Some(OWNER), None).map_err(io), expected, "{policy} {}", path.display());
            assert_eq!(chown(&path, None, Some(OWNER)).map_err(io), expected, "{policy} {}", path.display());
            let touched = File::open(&path).and_then(|file| file.set_modified(std::time::UNIX_EPOCH));
            assert_eq!(touched.map_err(io), expected, "{policy} {}", path.display());
            let now = if policy == "strict" { shown & 0o7777 } else { 0o700 };
            assert_eq!(fs::metadata(&path).expect("it's shown").mode() & 0o7777, now, "{policy} {}", path.display());
        }
        assert_eq!(set(&top, "user.a", b"1").map_err(raw), expected, "{policy}");
        assert_eq!(set(&top, "user.host", b"2").map_err(raw), expected, "{policy}");
        assert_eq!(remove(&top, "user.host").map_err(raw), expected, "{policy}");
        if policy == "strict" {
            assert_eq!(names(&real), "user.host");
            let after = fs::metadata(&real).expect("the boundary");
            assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
            assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
        }
        // Below it everything as on the host, and the mode says that cgroups can be made.
        fs::create_dir(top.join("a")).expect("mkdir in the view");
        assert_eq!(set(&top.join("a"), "user.a", b"1"), Ok(()), "{policy}");
        fs::set_permissions(top.join("a"), fs::Permissions::from_mode(0o700)).expect("chmod below the boundary");
    }
}

fn setxattr(path: &str, name: &str) -> Op {
    Op::Setxattr { path: path.into(), name: name.into(), value: "1".into() }
}

/// A caller can set through the view exactly the xattrs that it can set on the host's cgroup.
#[test]
fn callers_set_only_xattrs_that_they_could_set_natively() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy(selector()));
    for (user_namespace, owner, caller, expected) in [
        (false, 0, Caller::Root, 3),
        (false, 0, Caller::DockerRoot, 1),
        (false, OWNER, Caller::Owner, 1),
        (false, 0, Caller::Stranger, 0),
        (true, MAPPED_ROOT, Caller::Root, 1),
        (true, MAPPED_ROOT + OWNER, Caller::Owner, 1),
        (true, MAPPED_ROOT, Caller::Stranger, 0),
        (true, 0, Caller::Root, 0),
    ] {
        let cgroup = TestCgroup::new(&[selector()]);
        let homes = cgroup.children("home");
        for dir in ["one", "two"] {
            chown(cgroup.child(selector(), dir), Some(owner), Some(owner)).expect("chown on the host");
        }
        let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().cgroup(&cgroup).shape("rooted"));
        let container =
            Container::start(ContainerOptions { cgroups: homes, user_namespace, ..ContainerOptions::default() });
        let mut session = container.session(caller);
        session.set("VIEW", view.hierarchy(&hierarchy(selector()).expect("a hierarchy")).join("one").display());
        session.set("HOST", cgroup.dir(selector()).join("two").display());
        let about = format!("{caller:?}, owner {owner}, user namespace: {user_namespace}");
        let mut allowed = 0;
        for name in ["user.a", "trusted.a", "security.a", "security.capability", "system.a"] {
            let [seen, native] = ["$VIEW", "$HOST"].map(|path| session.run(&setxattr(path, name)));
            assert_eq!(seen, native, "{about}: {name}");
            allowed += usize::from(seen.errno().is_none());
            let [seen, native] =
                ["$VIEW", "$HOST"].map(|path| session.run(&Op::Removexattr { path: path.into(), name: name.into() }));
            assert_eq!(seen, native, "{about}: removal of {name}");
        }
        assert_eq!(allowed, expected, "{about}");
    }
}

/// A view leaves what the container has set, as it would be left natively, and nothing of its own.
#[test]
fn xattrs_of_the_container_stay_when_the_view_ends() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    let cgroup = TestCgroup::new(&[selector()]);
    let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate"));
    let top = view.hierarchy(&hierarchy(selector()).expect("a hierarchy"));
    fs::create_dir(top.join("a")).expect("mkdir in the view");
    set(&top.join("a"), "user.mine", b"1").expect("an xattr through the view");
    assert_eq!(names(&top), "");
    drop(view);
    let real = cgroup.dir(selector());
    assert_eq!((names(&real), names(&real.join("a"))), (String::new(), "user.mine".into()));
    assert_eq!(names(&real.join("cgroup.procs")), "");
}

/// A container's xattrs don't count against another's budget.
#[test]
fn each_container_of_a_mount_for_all_has_a_budget_of_its_own() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    let cgroup = TestCgroup::new(&[selector()]);
    let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().flag("--per-caller").policy("delegate"));
    let shown = view.hierarchy(&hierarchy(selector()).expect("a hierarchy")).join(cgroup.name());
    let start = |name: &str| {
        let options = ContainerOptions { cgroups: cgroup.children(name), ..ContainerOptions::default() };
        let container = Container::start(options);
        let mut session = container.session(Caller::Root);
        session.set("OWN", shown.join(name).display());
        (session, container)
    };
    let (mut first, _first) = start("one");
    let (mut second, _second) = start("two");
    let large = |path: &str| Op::Setxattr { path: path.into(), name: "user.a".into(), value: "x".repeat(60_000) };
    let mut count = 0;
    let refused = loop {
        first.expect(&mkdir(&format!("$OWN/{count}")));
        let outcome = first.run(&large(&format!("$OWN/{count}")));
        if outcome.errno().is_some() || count > 100 {
            break outcome;
        }
        count += 1;
    };
    assert_eq!(refused.errno(), Some("ENOSPC"), "after {count}");
    second.expect(&mkdir("$OWN/0"));
    second.expect(&large("$OWN/0"));
    // A namespace inside is the same container's.
    first.expect(&rmdir("$OWN/0"));
    first.expect(&large(&format!("$OWN/{count}")));
}
