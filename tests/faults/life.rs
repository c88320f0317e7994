//! Servers whose log, signals and mounts are in the test's hand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::TestCgroup;

/// After this time an operation counts as hung. Without a fault, one may take that long on a busy machine.
pub(crate) const HANG_TIMEOUT: Duration = Duration::from_secs(20);

/// The program under test. `VCGROUPFS_PROGRAM` names another one, as for [`testkit::View`].
pub(crate) fn program() -> PathBuf {
    std::env::var_os("VCGROUPFS_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_vcgroupfs").into(), PathBuf::from)
}

pub(crate) use testkit::wait_until;

/// Does something that may hang in another thread; `None` if it hangs.
pub(crate) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(HANG_TIMEOUT).ok()
}

/// A server in the foreground, of a view whose delegated subtree is a test's cgroup. When it's dropped, it's killed and unmounted.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    folder: tempfile::TempDir,
    _cgroup: TestCgroup,
}

impl Server {
    /// Starts it with this as its standard error, and waits until the view answers.
    pub(crate) fn start(options: &[&str], stderr: Stdio) -> Self {
        Self::start_in(&std::env::temp_dir(), options, stderr)
    }

    /// The same on a directory below this one.
    pub(crate) fn start_in(above: &Path, options: &[&str], stderr: Stdio) -> Self {
        let cgroup = TestCgroup::new(&["pids", "unified"]);
        let folder = tempfile::Builder::new().prefix("vcgroupfs-life-").tempdir_in(above).expect("a directory");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let directory = folder.path().join("view");
        fs::create_dir(&directory).expect("a mount point");
        let mut command = Command::new(program());
        command.args(["mount", "--shape", "rooted", "--cgroup", &cgroup.path()]).args(options);
        command.arg("-f").arg(&directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("a server");
        let mut server = Self { child, folder, _cgroup: cgroup };
        wait_until("the view is live", || {
            assert_eq!(server.child.try_wait().expect("its state"), None, "the server ended");
            server.view().join("unified/cgroup.procs").exists()
        });
        server
    }

    pub(crate) fn view(&self) -> PathBuf {
        self.folder.path().join("view")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// The exit status, if it ended in time.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        testkit::end_of(&mut self.child, HANG_TIMEOUT)
    }

    /// Makes directories that the view rejects; returns what each of them got, but for those that hang.
    pub(crate) fn reject(&self, count: usize) -> Vec<Option<i32>> {
        let view = self.view();
        (0..count)
            .map_while(|number| {
                let directory = view.join(format!("rejected-{number}"));
                in_time(move || fs::create_dir(directory).err().and_then(|error| error.raw_os_error()))
            })
            .collect()
    }

    /// Whether the view answers.
    #[track_caller]
    pub(crate) fn answers(&self) {
        let view = self.view();
        let names = in_time(move || {
            let names = fs::read_dir(view)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
            names.map(|names| names.len())
        });
        let names = names.expect("the view hangs").expect("the view answers");
        assert!(names > 1, "{names} names");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        testkit::kill_view(program(), self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = nix::mount::umount2(&self.view(), nix::mount::MntFlags::MNT_DETACH);
    }
}
