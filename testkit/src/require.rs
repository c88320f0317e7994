//! Requirements of a test, and what happens when they aren't met.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd};

use crate::probe::names::{open, seteuid, write};
use crate::{Programs, STRANGER, Session, TestCgroup, hierarchy};

/// The environment variable that turns skips into failures: `all`, or the names of what is required, separated by commas.
const REQUIRE_VARIABLE: &str = "VCGROUPFS_REQUIRE";

/// The environment variable that names a file to which each skip is appended, one per line. For the harness, a test that was skipped has passed.
const SKIPPED_VARIABLE: &str = "VCGROUPFS_SKIPPED";

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Effective user 0.
    Root,
    /// `/dev/fuse` can be opened.
    Fuse,
    /// A hierarchy, named as on the command line: `unified`, `pids`, `name=systemd`.
    Hierarchy(&'static str),
    /// Cgroup namespaces can be made: Linux 4.6.
    CgroupNamespaces,
    /// `/proc/PID/status` tells the numbers of a process in each pid namespace: Linux 4.1.
    NamespacedPids,
    /// The kernel tells in which pid namespace another one is (NS_GET_PARENT): Linux 4.9.
    NestedPidNamespaces,
    /// A thread finds itself also in the `/proc` of an outer pid namespace (`/proc/thread-self`): Linux 3.17.
    ThreadSelf,
    /// The kernel judges a migration by the rights of the list's opener, not of the writer: Linux 5.16, and the stable releases of that time.
    OpenersRights,
    /// User namespaces can be made.
    UserNamespaces,
    /// A mount can be made on the host and moved into a container (open_tree, move_mount): Linux 5.2.
    MovedMounts,
    /// A filesystem of FUSE can be mounted in a mount namespace that belongs to another user namespace: Linux 4.18.
    FuseInUserNamespaces,
    /// The kernel asks a FUSE server again what it asked a former one (FUSE_NOTIFY_RESEND): Linux 6.9.
    ResentRequests,
    /// Descriptors of another process can be fetched (pidfd_getfd): Linux 5.6.
    FetchedDescriptors,
    /// Programs can be run as on an old kernel here ([`crate::legacy`]).
    LegacySyscalls,
    /// An io_uring can be set up.
    IoUring,
    /// A file can be made a block device.
    LoopDevice,
    /// This program can be run.
    Program(&'static str),
    /// This program is static, so that it runs without libraries.
    StaticProgram(&'static str),
}

fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Whether ldd fails, which it does for a static program.
fn is_static(program: &std::path::Path) -> bool {
    let ldd = std::process::Command::new("ldd").arg(program).output();
    ldd.is_ok_and(|output| !output.status.success())
}

/// Whether root can make a user namespace. Before Linux 4.9 nothing limits their number, and on RHEL 7 the limit is 0 at first.
fn has_user_namespaces() -> bool {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let is_limited = limit.is_ok_and(|text| text.trim() == "0");
    !is_limited && std::path::Path::new("/proc/self/ns/user").exists()
}

/// Whether an unprivileged process may migrate through a list that root has opened for it.
fn asks_openers() -> bool {
    let Some(selector) = ["name=systemd", "unified"].into_iter().find(|selector| hierarchy(selector).is_some()) else {
        return false;
    };
    let cgroup = TestCgroup::new(&[selector]);
    let mut session = Session::start(&mut std::process::Command::new(&Programs::find().probe));
    session.set("CG", cgroup.dir(selector).display());
    session.expect(&open("f", "$CG/cgroup.procs", &["O_WRONLY"]));
    // His effective user is another one, the process is root's.
    session.expect(&seteuid(STRANGER));
    // Not `0`: before Linux 3.14 nobody is asked for rights who migrates himself.
    let migrated = session.run(&write("f", "$PID")).is_ok();
    drop(session);
    migrated
}

/// Whether this process can fetch a descriptor from itself.
fn has_pidfd_getfd() -> bool {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    own.and_then(|own| pidfd_getfd(own, io::stderr().as_raw_fd(), PidfdGetfdFlags::empty())).is_ok()
}

/// Whether root of a new user namespace may mount FUSE in a mount namespace of its own: without options that's EINVAL, or EPERM before these are looked
/// at.
fn has_fuse_in_user_namespaces() -> bool {
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).arg(&Programs::find().probe).arg("--try-fuse");
    command.stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether the kernel is this one or a later one: what FUSE can do, only a server is told.
fn is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|one: char| !one.is_ascii_digit()).map(|word| word.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

impl Need {
    fn name(self) -> String {
        match self {
            Self::Root => "root".into(),
            Self::Fuse => "fuse".into(),
            Self::Hierarchy(selector) => selector.into(),
            Self::CgroupNamespaces => "cgroupns".into(),
            Self::NamespacedPids => "NSpid".into(),
            Self::NestedPidNamespaces => "NS_GET_PARENT".into(),
            Self::ThreadSelf => "thread-self".into(),
            Self::OpenersRights => "openers-rights".into(),
            Self::UserNamespaces => "userns".into(),
            Self::MovedMounts => "move_mount".into(),
            Self::FuseInUserNamespaces => "fuse-in-userns".into(),
            Self::ResentRequests => "FUSE_NOTIFY_RESEND".into(),
            Self::FetchedDescriptors => "pidfd_getfd".into(),
            Self::LegacySyscalls => "legacy-syscalls".into(),
            Self::IoUring => "io_uring".into(),
            Self::LoopDevice => "loop".into(),
            Self::Program(name) => name.into(),
            Self::StaticProgram(name) => format!("a static {name}"),
        }
    }

    /// Panics if the environment variable demands this, which is missing.
    fn demand(self) {
        let (demanded, name) = (std::env::var(REQUIRE_VARIABLE).unwrap_or_default(), self.name());
        assert!(
            !demanded.split(',').any(|word| word == "all" || word == name),
            "{REQUIRE_VARIABLE}={demanded}, but this machine has no {name}"
        );
    }

    /// Whether this machine meets the requirement. This is tried, not derived from versions, where that's possible.
    pub fn is_met(self) -> bool {
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::Fuse => std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok(),
            Self::Hierarchy(selector) => hierarchy(selector).is_some(),
            Self::NamespacedPids => {
                std::fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nNSpid:"))
            }
            Self::CgroupNamespaces => std::path::Path::new("/proc/self/ns/cgroup").exists(),
            // Which came together.
            Self::NestedPidNamespaces => std::path::Path::new("/proc/sys/user/max_pid_namespaces").exists(),
            Self::ThreadSelf => std::path::Path::new("/proc/thread-self").exists(),
            Self::OpenersRights => asks_openers(),
            Self::UserNamespaces => has_user_namespaces(),
            Self::MovedMounts => open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC).is_ok(),
            Self::FuseInUserNamespaces => has_fuse_in_user_namespaces(),
            Self::ResentRequests => is_at_least(6, 9),
            Self::FetchedDescriptors => has_pidfd_getfd(),
            Self::LegacySyscalls => crate::legacy::can_be_had(),
            Self::IoUring => io_uring::IoUring::new(2).is_ok(),
            Self::LoopDevice => find_program("losetup").is_some() && std::path::Path::new("/dev/loop-control").exists(),
            Self::Program(name) => find_program(name).is_some(),
            Self::StaticProgram(name) => find_program(name).is_some_and(|program| is_static(&program)),
        }
    }
}

/// The first need that isn't met, as a message for a test that has to be skipped. [`require!`](crate::require) calls it.
///
/// # Panics
///
/// When `VCGROUPFS_REQUIRE` demands what is missing.
pub fn missing(needs: &[Need]) -> Option<String> {
    let lack = needs.iter().copied().find(|need| !need.is_met())?;
    lack.demand();
    let message = format!("skipped: needs {}", lack.name());
    let thread = std::thread::current();
    let line = format!("{}: {message}\n", thread.name().unwrap_or("test"));
    // Not `eprintln!`, which the test harness hides when the test passes.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os(SKIPPED_VARIABLE) {
        let list = std::fs::File::options().append(true).create(true).open(list);
        list.and_then(|mut list| list.write_all(line.as_bytes())).expect("the list of what was skipped");
    }
    Some(message)
}

/// Those of the selectors that this machine has. The others are reported as by [`missing`].
///
/// # Panics
///
/// When `VCGROUPFS_REQUIRE` demands what is missing.
pub fn available(selectors: &[&'static str]) -> Vec<&'static str> {
    let (there, lacking): (Vec<_>, Vec<_>) = selectors.iter().partition(|selector| hierarchy(selector).is_some());
    for selector in lacking {
        Need::Hierarchy(selector).demand();
        let thread = std::thread::current();
        let _ = writeln!(io::stderr(), "{}: goes without {selector}", thread.name().unwrap_or("test"));
    }
    there
}

/// One hierarchy of each kind that this machine has: v1 with a controller (that is [`controller`]), v1 with a name, and v2.
///
/// # Panics
///
/// When `VCGROUPFS_REQUIRE` demands a sort that is missing.
pub fn each_sort() -> &'static [&'static str] {
    static FOUND: OnceLock<Vec<&'static str>> = OnceLock::new();
    FOUND.get_or_init(|| available(&[controller(), "name=systemd", "unified"]))
}

/// A v1 controller that can be delegated and whose cgroups accept every process: `pids`, or `freezer` before Linux 4.3, which brought `pids`.
///
/// # Panics
///
/// When `VCGROUPFS_REQUIRE` demands `pids`, and it's missing.
pub fn controller() -> &'static str {
    if hierarchy("pids").is_some() {
        return "pids";
    }
    Need::Hierarchy("pids").demand();
    "freezer"
}

/// Returns from the test, with a message, unless all requirements are met.
///
/// ```no_run
/// use vcgroupfs_testkit::{Need, require};
/// require!(Need::Root, Need::Fuse);
/// ```
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        if $crate::missing(&[$($need),+]).is_some() {
            return;
        }
    };
}
