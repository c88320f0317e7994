//! What a test needs, and what happens when it isn't there.

use std::io::{self, Write};

use crate::hierarchy;

/// The environment variable that turns a skip into a failure: `all`, or the names of what is required, with commas.
const VARIABLE: &str = "VCGROUPFS_REQUIRE";

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Effective user 0.
    Root,
    /// `/dev/fuse` can be opened.
    Fuse,
    /// A hierarchy, named as on the command line: `unified`, `pids`, `name=systemd`.
    Hierarchy(&'static str),
    /// User namespaces can be made.
    UserNamespaces,
    /// The legacy system call filter works here.
    LegacySyscalls,
    /// An io_uring can be set up.
    IoUring,
    /// A file can be made a block device.
    LoopDevice,
    /// This program can be run.
    Program(&'static str),
    /// This program can be run where no library is.
    StaticProgram(&'static str),
}

fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Whether ldd finds nothing to load, which it says by failing.
fn is_static(program: &std::path::Path) -> bool {
    let ldd = std::process::Command::new("ldd").arg(program).output();
    ldd.is_ok_and(|output| !output.status.success())
}

impl Need {
    fn name(self) -> String {
        match self {
            Self::Root => "root".into(),
            Self::Fuse => "fuse".into(),
            Self::Hierarchy(selector) => selector.into(),
            Self::UserNamespaces => "userns".into(),
            Self::LegacySyscalls => "legacy-syscalls".into(),
            Self::IoUring => "io_uring".into(),
            Self::LoopDevice => "loop".into(),
            Self::Program(name) => name.into(),
            Self::StaticProgram(name) => format!("a static {name}"),
        }
    }

    fn is_met(self) -> bool {
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::Fuse => std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok(),
            Self::Hierarchy(selector) => hierarchy(selector).is_some(),
            Self::UserNamespaces => std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
                .is_ok_and(|text| text.trim().parse().is_ok_and(|limit: u64| limit > 0)),
            Self::LegacySyscalls => cfg!(target_arch = "x86_64"),
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
    let demanded = std::env::var(VARIABLE).unwrap_or_default();
    let name = lack.name();
    assert!(
        !demanded.split(',').any(|word| word == "all" || word == name),
        "{VARIABLE}={demanded}, but this machine has no {name}"
    );
    let message = format!("skipped: needs {name}");
    let thread = std::thread::current();
    // Not `eprintln!`, which the test harness hides when the test passes.
    let _ = writeln!(io::stderr(), "{}: {message}", thread.name().unwrap_or("test"));
    Some(message)
}

/// Returns from the test, loudly, unless everything is there.
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
