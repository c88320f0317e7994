//! A memory cgroup, the kernel's or a view's, and what is done in it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use testkit::{Programs, TIMEOUT, TestCgroup, View, ViewOptions, hierarchy};

pub(crate) const MEMORY: &str = "memory";

/// A cgroup, by a view of it or as it is.
pub(crate) struct Scene {
    pub(crate) view: Option<View>,
    pub(crate) cgroup: TestCgroup,
}

impl Scene {
    pub(crate) fn kernel() -> Self {
        Self { view: None, cgroup: TestCgroup::new(&[MEMORY]) }
    }

    pub(crate) fn view() -> Self {
        Self::with(|options| options.policy("delegate").delegate_controllers(&[MEMORY]))
    }

    pub(crate) fn with(options: impl FnOnce(ViewOptions) -> ViewOptions) -> Self {
        let cgroup = TestCgroup::new(&[MEMORY]);
        let options = options(ViewOptions::new().cgroup(&cgroup).shape("rooted"));
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        Self { view: Some(view), cgroup }
    }

    /// Where the cgroup is seen.
    pub(crate) fn dir(&self) -> PathBuf {
        let bare = self.cgroup.dir(MEMORY);
        self.view.as_ref().map_or(bare, |view| view.hierarchy(&hierarchy(MEMORY).expect("a required hierarchy")))
    }

    /// Where a cgroup in it is for processes of the host, which a view lets nobody migrate.
    pub(crate) fn bare(&self, name: &str) -> PathBuf {
        self.cgroup.dir(MEMORY).join(name)
    }

    /// Makes a cgroup in it.
    pub(crate) fn child(&self, name: &str) -> PathBuf {
        let dir = self.dir().join(name);
        fs::create_dir(&dir).expect("mkdir in the cgroup");
        dir
    }

    /// The process that serves the view.
    pub(crate) fn server(&self) -> u32 {
        self.view.as_ref().expect("a scene with a view").server()
    }

    /// The numbers of the server's descriptors.
    pub(crate) fn server_descriptors(&self) -> Vec<i32> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.server())).expect("the server's descriptors");
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// How many descriptors the server has, besides those of directories, of which it keeps some.
    pub(crate) fn server_files(&self) -> usize {
        let server = self.server();
        let is_file =
            |number: &i32| !fs::metadata(format!("/proc/{server}/fd/{number}")).is_ok_and(|found| found.is_dir());
        self.server_descriptors().iter().filter(|number| is_file(number)).count()
    }

    /// The processes that register events for the view.
    pub(crate) fn helpers(&self) -> usize {
        let server = self.server().to_string();
        let is_helper = |entry: &fs::DirEntry| {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let others = [Some("vcgroupfs-agent"), Some("abort guard")];
            field("PPid:") == Some(&server) && !others.contains(&field("Name:"))
        };
        fs::read_dir("/proc").expect("/proc").flatten().filter(is_helper).count()
    }
}

/// What it takes to register events of a cgroup.
pub(crate) struct Files {
    pub(crate) event_control: File,
    pub(crate) usage: File,
    pub(crate) oom: File,
}

impl Files {
    pub(crate) fn open(dir: &Path) -> Self {
        let open = |name: &str| File::open(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let event_control = File::options().write(true).open(dir.join("cgroup.event_control"));
        Self {
            event_control: event_control.expect("cgroup.event_control"),
            usage: open("memory.usage_in_bytes"),
            oom: open("memory.oom_control"),
        }
    }

    pub(crate) fn write(&self, text: &str) -> Result<(), Errno> {
        nix::unistd::write(&self.event_control, text.as_bytes()).map(drop)
    }

    pub(crate) fn at_threshold(&self, event: &EventFd, bytes: u64) -> Result<(), Errno> {
        self.write(&format!("{} {} {bytes}", number(event), number(&self.usage)))
    }

    pub(crate) fn at_oom(&self, event: &EventFd) -> Result<(), Errno> {
        self.write(&format!("{} {}", number(event), number(&self.oom)))
    }
}

pub(crate) fn number(file: impl AsFd) -> i32 {
    file.as_fd().as_raw_fd()
}

pub(crate) fn event() -> EventFd {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).expect("an eventfd")
}

pub(crate) fn is_signalled(event: &EventFd) -> bool {
    is_readable(event.as_fd())
}

fn is_readable(file: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(file, PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
}

/// A process in the cgroup that uses so much memory, and then ends. Whether it ended by itself.
pub(crate) fn use_memory(dir: &Path, megabytes: usize) -> bool {
    let mut command = Command::new(&Programs::find().probe);
    command.arg("--join").arg(dir).args(["--", "dd", "if=/dev/zero", "of=/dev/null", "count=1"]);
    command.arg(format!("bs={megabytes}M")).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a process that uses memory");
    let Some(status) = testkit::end_of(&mut child, TIMEOUT) else {
        let _ = child.kill();
        panic!("it doesn't end");
    };
    status.success()
}

pub(crate) use testkit::wait_until;
