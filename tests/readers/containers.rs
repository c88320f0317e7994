//! Containers, by whoever makes them: a sleeping process 1, this machine's programs, and cgroups below a test's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use testkit::{Programs, TIMEOUT, TestCgroup, hierarchies, run_to_end};

/// How long a program may take to read its limits: a JVM starts slowly in a virtual machine without KVM.
const READER_TIMEOUT: Duration = Duration::from_secs(300);

/// Where programs are that no package has, as `programs` knows them.
const OTHERS: &str = "VCGROUPFS_TEST_READERS";

/// The cgroup of the container, below the test's.
const OWN: &str = "c1";

/// Who makes the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unshare,
    Oci { runtime: &'static str, cgroup_namespace: bool },
    Podman,
    Lxc,
    Nspawn,
}

impl Kind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Unshare => "unshare".into(),
            Self::Oci { runtime, cgroup_namespace: false } => runtime.into(),
            Self::Oci { runtime, cgroup_namespace: true } => format!("{runtime}, cgroup namespace"),
            Self::Podman => "podman".into(),
            Self::Lxc => "lxc".into(),
            Self::Nspawn => "nspawn".into(),
        }
    }
}

/// Whether this host has cgroup v2 alone.
pub(crate) fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Scene {
    kind: Kind,
    init: i32,
    /// Who has to end for the container to end, where no verb of the manager does it.
    launcher: Option<Child>,
    folder: tempfile::TempDir,
    // Its processes are killed and its cgroups removed at last.
    cgroup: TestCgroup,
}

impl Scene {
    pub(crate) fn start(kind: Kind) -> Self {
        let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
        let cgroup = TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>());
        enable_controllers(&cgroup);
        let folder = tempfile::tempdir().expect("a directory");
        make_root(&folder.path().join("rootfs"));
        let mut scene = Self { kind, init: 0, launcher: None, folder, cgroup };
        match kind {
            Kind::Unshare => scene.start_unshare(),
            Kind::Oci { runtime, cgroup_namespace } => scene.start_oci(runtime, cgroup_namespace),
            Kind::Podman => scene.start_podman(),
            Kind::Lxc => scene.start_lxc(),
            Kind::Nspawn => scene.start_nspawn(),
        }
        assert!(scene.init > 1, "{kind:?} has no process 1");
        scene
    }

    /// The number of its process 1 on the host.
    pub(crate) fn init(&self) -> i32 {
        self.init
    }

    /// The directories of its own cgroups on the host, those of them that are below the test's.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.memberships().into_iter().filter(|path| path.to_string_lossy().contains(self.cgroup.name())).collect()
    }

    /// The path of its own cgroup in the hierarchy of a v1 controller, or of v2.
    pub(crate) fn path_in(&self, controller: &str) -> Option<String> {
        memberships(self.init)
            .into_iter()
            .find(|(list, _)| list.split(',').any(|own| own == controller))
            .map(|own| own.1)
    }

    fn memberships(&self) -> Vec<PathBuf> {
        let all = hierarchies();
        let place = |(list, path): (String, String)| {
            let own = |selector: String| selector == list || (list.is_empty() && selector == "unified");
            let found = all.iter().find(|hierarchy| own(hierarchy.selector()))?;
            Some(found.mountpoint.join(path.trim_start_matches('/')))
        };
        memberships(self.init).into_iter().filter_map(place).collect()
    }

    /// Runs a command inside, as a process of the container's cgroups.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let mut script = String::new();
        for directory in self.memberships() {
            script.push_str(&format!("echo $$ >'{}'\n", directory.join("cgroup.procs").display()));
        }
        let namespaces = if is_another_namespace(self.init, "cgroup") { "-C" } else { "" };
        script.push_str(&format!("exec nsenter -t {} -m -p {namespaces} -r -w -- \"$@\"", self.init));
        let mut inside = Command::new("sh");
        inside.args(["-ec", &script, "sh"]).args(command);
        inside.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/").env("LC_ALL", "C.UTF-8");
        run_to_end(&mut inside, READER_TIMEOUT)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    /// A shell that is in the container's cgroups before it executes `script`.
    fn launch(&mut self, script: &str) {
        let mut all = String::new();
        for directory in self.cgroup.children(OWN) {
            all.push_str(&format!("echo $$ >'{}'\n", directory.join("cgroup.procs").display()));
        }
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{all}{script}")]).stdin(Stdio::null()).process_group(0);
        let log = fs::File::create(self.folder.path().join("log")).expect("a log");
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.launcher = Some(command.spawn().expect("a shell"));
    }

    fn start_unshare(&mut self) {
        let root = self.root();
        let mut script = String::new();
        for (name, bind) in binds() {
            script.push_str(&format!("mount --rbind '{}' '{}{name}'\n", bind.display(), root.display()));
        }
        let binds = script.replace('\'', "\"");
        let inner = format!(
            "mount --rbind {root} {root}\n{binds}mount -t proc proc {root}/proc\nmount -t sysfs sysfs {root}/sys\n\
             mount --rbind /sys/fs/cgroup {root}/sys/fs/cgroup\nmount --make-rslave {root}\ncd {root}\n\
             pivot_root . .\numount -l .\nexec sleep 1000",
            root = root.display()
        );
        self.launch(&format!("exec unshare --mount --pid --fork --kill-child --propagation slave sh -ec '{inner}'"));
        self.init = self.wait_for(|scene| {
            let launcher = scene.launcher.as_ref()?.id();
            first_child(i32::try_from(launcher).ok()?).filter(|init| command_of(*init) == "sleep")
        });
    }

    fn start_oci(&mut self, runtime: &str, cgroup_namespace: bool) {
        let mut namespaces = vec!["pid", "mount", "ipc", "uts"];
        namespaces.extend(cgroup_namespace.then_some("cgroup"));
        let mut mounts = serde_json::json!([
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["ro", "nosuid", "noexec", "nodev", "relatime"] },
        ]);
        let list = mounts.as_array_mut().expect("a list");
        for (name, path) in binds() {
            list.push(
                serde_json::json!({ "destination": name, "type": "bind", "source": path, "options": ["rbind", "ro"] }),
            );
        }
        let namespaces: Vec<_> = namespaces.iter().map(|kind| serde_json::json!({ "type": kind })).collect();
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["sleep", "1000"],
                "env": ["PATH=/usr/bin:/bin"],
            },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": mounts,
            "linux": { "cgroupsPath": format!("{}/{OWN}", self.cgroup.path()), "namespaces": namespaces },
        });
        fs::write(self.folder.path().join("config.json"), config.to_string()).expect("a configuration");
        let state = self.folder.path().join("state");
        let mut command = Command::new(runtime);
        command.arg("--root").arg(&state).args(["run", "--detach", "--pid-file"]).arg(self.folder.path().join("pid"));
        command.arg(self.name()).current_dir(self.folder.path());
        self.managed(&mut command);
        let pid = fs::read_to_string(self.folder.path().join("pid")).expect("the number of its process 1");
        self.init = pid.trim().parse().expect("a number");
    }

    fn start_podman(&mut self) {
        let mut command = self.podman();
        command.args(["run", "--detach", "--rm", "--network=none", "--cgroupns=host", "--name", &self.name()]);
        command.arg(format!("--cgroup-parent={}", self.cgroup.path())).arg("--read-only");
        for (name, path) in binds() {
            command.arg("-v").arg(format!("{}:{name}:ro", path.display()));
        }
        command.arg("--rootfs").arg(self.root()).args(["sleep", "1000"]);
        self.managed(&mut command);
        let mut command = self.podman();
        command.args(["inspect", "--format", "{{.State.Pid}}", &self.name()]);
        let said = self.output(&mut command);
        self.init = String::from_utf8_lossy(&said.stdout).trim().parse().expect("a number");
    }

    fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        let own = self.folder.path().join("podman");
        command
            .args(["--cgroup-manager=cgroupfs", "--storage-driver=vfs", "--events-backend=none", "--root"])
            .arg(own.join("root"));
        command.arg("--runroot").arg(own.join("run"));
        command
    }

    fn start_lxc(&mut self) {
        let mut config = format!(
            "lxc.rootfs.path = dir:{}\nlxc.uts.name = c1\nlxc.net.0.type = none\nlxc.mount.auto = proc:mixed sys:ro cgroup:mixed:force\n\
             lxc.cgroup.dir = {}/{OWN}\nlxc.init.cmd = /bin/sleep 1000\nlxc.apparmor.profile = unconfined\n",
            self.root().display(),
            self.cgroup.name()
        );
        for (name, path) in binds() {
            config.push_str(&format!("lxc.mount.entry = {} {} none rbind,ro 0 0\n", path.display(), &name[1..]));
        }
        let (name, lxc) = (self.name(), self.folder.path().join("lxc"));
        fs::create_dir_all(lxc.join(&name)).expect("a directory");
        fs::write(lxc.join(&name).join("config"), config).expect("a configuration");
        let mut command = Command::new("lxc-start");
        command.arg("-P").arg(&lxc).args(["-n", &name, "-d", "-o"]).arg(self.folder.path().join("log"));
        self.managed(&mut command);
        let mut command = Command::new("lxc-info");
        command.arg("-P").arg(&lxc).args(["-n", &name, "-p", "-H"]);
        let said = self.output(&mut command);
        self.init = String::from_utf8_lossy(&said.stdout).trim().parse().expect("a number");
    }

    fn start_nspawn(&mut self) {
        let binds: Vec<String> =
            binds().iter().map(|(name, path)| format!("'--bind-ro={}:{name}'", path.display())).collect();
        // It gives an image without systemd cgroup v1, on a host without it.
        let setup = if is_unified() { "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1" } else { "" };
        let script = format!(
            "exec env SYSTEMD_NSPAWN_USE_CGNS=0 {setup} systemd-nspawn --quiet --register=no --keep-unit --console=pipe --link-journal=no --directory='{}' \
             --machine={} {} sleep 1000",
            self.root().display(),
            self.name(),
            binds.join(" ")
        );
        self.launch(&script);
        self.init = self.wait_for(|scene| {
            let launcher = i32::try_from(scene.launcher.as_ref()?.id()).ok()?;
            first_child(launcher).filter(|init| command_of(*init) == "sleep")
        });
    }

    /// Its name with its manager.
    fn name(&self) -> String {
        format!("{}-{OWN}", self.cgroup.name())
    }

    /// Runs a verb of the manager, from the test's cgroup.
    fn managed(&self, command: &mut Command) {
        let log = fs::File::options().append(true).create(true).open(self.folder.path().join("log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(status.success(), "{command:?}: {}", self.log());
    }

    fn output(&self, command: &mut Command) -> Output {
        let output = run_to_end(command, TIMEOUT);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_for(&self, found: impl Fn(&Self) -> Option<i32>) -> i32 {
        let found = testkit::found_within(TIMEOUT, || found(self));
        found.unwrap_or_else(|| panic!("{:?} didn't start: {}", self.kind, self.log()))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let name = self.name();
        let mut command = match self.kind {
            Kind::Oci { runtime, .. } => {
                let mut command = Command::new(runtime);
                command.arg("--root").arg(self.folder.path().join("state")).args(["delete", "--force", &name]);
                command
            }
            Kind::Podman => {
                let mut command = self.podman();
                command.args(["rm", "--force", "--time", "0", &name]);
                command
            }
            Kind::Lxc => {
                let mut command = Command::new("lxc-stop");
                command.arg("-P").arg(self.folder.path().join("lxc")).args(["-k", "-n", &name]);
                command
            }
            Kind::Unshare | Kind::Nspawn => Command::new("true"),
        };
        // A container that didn't start can't be stopped.
        let _ = run_to_end(&mut command, TIMEOUT);
        if let Some(mut launcher) = self.launcher.take() {
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
    }
}

/// What a container has of this machine: where, and from where. Links are made, not bound.
fn binds() -> Vec<(String, PathBuf)> {
    let mut binds: Vec<(String, PathBuf)> = Vec::new();
    for name in ["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64"] {
        let path = Path::new(name);
        if path.is_dir() && !path.is_symlink() {
            binds.push((name.into(), path.into()));
        }
    }
    binds.push(("/probe".into(), Programs::find().probe.clone()));
    if let Some(others) = others() {
        binds.push(("/readers".into(), others));
    }
    binds
}

/// The folder that has them.
pub(crate) fn others() -> Option<PathBuf> {
    std::env::var_os(OTHERS).map(PathBuf::from)
}

fn make_root(root: &Path) {
    for name in ["proc", "sys", "dev", "tmp", "run", "root", "usr", "etc", "var"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        match fs::read_link(Path::new("/").join(name)) {
            Ok(link) => std::os::unix::fs::symlink(link, root.join(name)).expect("a link"),
            Err(_) => fs::create_dir_all(root.join(name)).expect("a directory"),
        }
    }
    for (name, path) in binds() {
        let target = root.join(&name[1..]);
        if path.is_file() {
            fs::write(target, "").expect("a file");
        } else {
            fs::create_dir_all(target).expect("a directory");
        }
    }
}

/// On v2 a cgroup has limits of what the one above lets it have. What the host's root doesn't, nobody gets.
fn enable_controllers(cgroup: &TestCgroup) {
    for hierarchy in hierarchies().iter().filter(|hierarchy| hierarchy.is_unified()) {
        let own = cgroup.dir(&hierarchy.selector());
        let available = fs::read_to_string(own.join("cgroup.controllers")).expect("the controllers");
        for controller in available.split_whitespace().filter(|name| ["cpu", "memory", "pids"].contains(name)) {
            fs::write(own.join("cgroup.subtree_control"), format!("+{controller}")).expect("a controller");
        }
    }
}

/// A process' cgroups: the controllers or the name of each hierarchy, empty for v2, and the path.
fn memberships(pid: i32) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let fields = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    text.lines().filter_map(fields).collect()
}

fn is_another_namespace(pid: i32, kind: &str) -> bool {
    let number = |of: &str| fs::metadata(format!("/proc/{of}/ns/{kind}")).ok().map(|file| file.ino());
    number(&pid.to_string()) != number("self")
}

fn first_child(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn command_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}
