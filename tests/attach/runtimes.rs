//! Containers of the real runc, with limits: what clients read before a view is attached is what they read afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use testkit::{Need, Programs, TestCgroup, hierarchies};

use crate::scene::{Said, program, said, wait_until};

const MEMORY_BYTES: u64 = 300_000_000;

/// The host's directories from which the container has its programs.
const PROGRAMS: [&str; 5] = ["usr", "bin", "sbin", "lib", "lib64"];

/// What clients do, a line each.
///
/// * `mountinfo`: the first line of the hierarchy, less the mount's root (the JVM, .NET, automaxprocs, libcgroup).
/// * `joined`: the host's path below the hierarchy's directory, else that directory (libuv, Go 1.25).
/// * `root`: the hierarchy's directory (Node.js up to 18).
/// * `rust`: the CPUs that Rust's std counts.
const CLIENTS: &str = r#"
own() { sed -n "s/^[0-9]*:$1://p" /proc/self/cgroup; }
by_mountinfo() {
    path=$(own "$1")
    while read -r id parent device root point rest; do
        case "$rest" in *" - cgroup cgroup "*) ;; *) continue ;; esac
        case ",${rest##* }," in *",$1,"*) ;; *) continue ;; esac
        [ "$root" = / ] && root=
        case "$path" in "$root"*) cat "$point${path#"$root"}/$2" 2>/dev/null || echo none; return ;; esac
        echo elsewhere
        return
    done < /proc/self/mountinfo
}
joined() { cat "/sys/fs/cgroup/$1$(own "$1")/$2" 2>/dev/null || cat "/sys/fs/cgroup/$1/$2" 2>/dev/null || echo none; }
for file in memory:memory.limit_in_bytes cpu:cpu.cfs_quota_us pids:pids.max; do
    echo "mountinfo $file $(by_mountinfo "${file%%:*}" "${file#*:}")"
    echo "joined $file $(joined "${file%%:*}" "${file#*:}")"
    echo "root $file $(cat "/sys/fs/cgroup/${file%%:*}/${file#*:}" 2>/dev/null || echo none)"
done
echo "rust $(/probe --parallelism)"
"#;

/// A container of runc's, that runs until it's dropped.
pub(crate) struct Runc {
    folder: tempfile::TempDir,
    cgroup: TestCgroup,
}

impl Runc {
    /// Makes a bundle with these mounts on `/sys/fs/cgroup`, and these hooks.
    pub(crate) fn run(mounts: &[Value], hooks: &Value) -> Self {
        let runc = Self { folder: tempfile::tempdir().expect("a directory"), cgroup: everywhere() };
        runc.bundle(mounts, hooks);
        let mut command = runc.command(&["run", "--detach", "c1"]);
        let log = fs::File::create(runc.folder.path().join("log")).expect("a log");
        // What a hook leaves behind would keep a pipe open.
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        let status = command.status().expect("runc");
        assert!(status.success(), "{}", fs::read_to_string(runc.folder.path().join("log")).expect("the log"));
        runc
    }

    fn bundle(&self, mounts: &[Value], hooks: &Value) {
        let root = self.folder.path().join("rootfs");
        for name in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(root.join(name)).expect("a directory");
        }
        let bind = |source: &Path, destination: &str| json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "ro"] });
        let mut all = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }),
            json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec", "nodev"] }),
            bind(&Programs::find().probe, "/probe"),
        ];
        for name in PROGRAMS {
            let host = Path::new("/").join(name);
            match fs::read_link(&host) {
                Ok(target) => std::os::unix::fs::symlink(target, root.join(name)).expect("a symlink"),
                Err(_) if host.exists() => all.push(bind(&host, &format!("/{name}"))),
                Err(_) => {}
            }
        }
        all.extend_from_slice(mounts);
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/",
                "args": ["/bin/sleep", "1000"], "env": ["PATH=/bin:/usr/bin"],
            },
            "root": { "path": "rootfs" },
            "mounts": all,
            "hooks": hooks,
            "linux": {
                "cgroupsPath": format!("{}/c1", self.cgroup.path()),
                "resources": {
                    "memory": { "limit": MEMORY_BYTES }, "pids": { "limit": 50 }, "cpu": { "quota": 100_000, "period": 100_000 },
                },
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
            },
        });
        fs::write(self.folder.path().join("config.json"), config.to_string()).expect("a configuration");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.path().join("state")).args(arguments).current_dir(self.folder.path());
        command
    }

    pub(crate) fn pid(&self) -> String {
        let state: Value = serde_json::from_str(&said(&mut self.command(&["state", "c1"])).ok()).expect("a state");
        state["pid"].to_string()
    }

    pub(crate) fn sh(&self, script: &str) -> String {
        said(&mut self.command(&["exec", "c1", "/bin/sh", "-c", script])).ok()
    }

    pub(crate) fn attach(&self, options: &[&str]) -> Said {
        said(Command::new(program()).arg("attach").args(options).arg(self.pid()))
    }

    pub(crate) fn detach(&self) {
        said(Command::new(program()).args(["detach", &self.pid()])).ok();
    }

    /// The shape of the view that it has.
    pub(crate) fn shape(&self) -> Option<String> {
        let list = said(Command::new(program()).args(["list", "--json"])).ok();
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let pid: u64 = self.pid().parse().expect("a number");
        let views = list.as_array().expect("a list");
        views
            .iter()
            .find(|view| view["container"] == pid)
            .map(|view| view["shape"].as_str().expect("a shape").to_owned())
    }

    /// The files that a process in it finds in the root of a hierarchy.
    pub(crate) fn own(&self, selector: &str) -> PathBuf {
        self.cgroup.dir(selector).join("c1")
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        let _ = said(&mut self.command(&["delete", "--force", "c1"]));
        let selectors = self.cgroup.hierarchies().iter().map(testkit::Hierarchy::selector);
        let own: Vec<PathBuf> = selectors.map(|selector| self.own(&selector)).collect();
        wait_until("the container's end", || own.iter().all(|own| !own.exists() || fs::remove_dir(own).is_ok()));
    }
}

fn everywhere() -> TestCgroup {
    let selectors: Vec<String> = hierarchies().iter().map(testkit::Hierarchy::selector).collect();
    let cgroup = TestCgroup::new(&selectors.iter().map(String::as_str).collect::<Vec<_>>());
    for hierarchy in cgroup.hierarchies() {
        // runc copies what the ones above have.
        let _ = fs::write(cgroup.dir(&hierarchy.selector()).join("cgroup.clone_children"), "1");
    }
    cgroup
}

/// As runc, Docker and podman have it on v1.
pub(crate) fn own_cgroups() -> Value {
    json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] })
}

/// `docker run -v DIRECTORY:DIRECTORY`.
fn hosts(directory: &str) -> Value {
    json!({ "destination": directory, "type": "bind", "source": directory, "options": ["rbind", "ro"] })
}

pub(crate) fn is_possible() -> bool {
    let v1 = ["memory", "cpu", "pids", "name=systemd"].map(Need::Hierarchy);
    let needs = [Need::Root, Need::Fuse, Need::Program("runc")];
    testkit::missing(&needs).is_none() && testkit::missing(&v1).is_none()
}

#[test]
fn every_client_reads_the_same_numbers() {
    if !is_possible() {
        return;
    }
    for (mounts, shape) in [
        (vec![own_cgroups()], "rooted"),
        // One of them by the host's path.
        (vec![own_cgroups(), hosts("/sys/fs/cgroup/pids")], "rooted"),
        (vec![hosts("/sys/fs/cgroup")], "host-path"),
        // What is covered doesn't count.
        (vec![own_cgroups(), hosts("/sys/fs/cgroup")], "host-path"),
    ] {
        let runc = Runc::run(&mounts, &json!({}));
        let before = runc.sh(CLIENTS);
        runc.attach(&[]).ok();
        assert_eq!(runc.shape().as_deref(), Some(shape), "{mounts:?}");
        let after = runc.sh(CLIENTS);
        if shape == "rooted" {
            let limit = fs::read_to_string(runc.own("memory").join("memory.limit_in_bytes")).expect("the limit");
            for client in ["mountinfo", "joined", "root"] {
                assert!(after.contains(&format!("{client} memory:memory.limit_in_bytes {limit}")), "{after}");
            }
            assert!(after.ends_with("rust 1\n"), "{after}");
        }
        // Who found nothing, since two ways of mounting were mixed, may find something now.
        for (was, is) in before.lines().zip(after.lines()) {
            assert!(was == is || was.ends_with(" none") && mounts.len() > 1, "{was}, then {is}: {mounts:?}");
        }
        assert_eq!(before.lines().count(), after.lines().count());
        let again = runc.attach(&[]);
        assert!(again.code == 0 && again.stderr.contains("already"), "{}", again.stderr);
        runc.detach();
        assert_eq!(runc.sh(CLIENTS), before);
        // One that was asked for.
        for asked in ["host-path", "rooted"] {
            // Which may be told what it changes.
            let told = runc.attach(&["--shape", asked]);
            assert_eq!(told.code, 0, "{}", told.stderr);
            assert_eq!(runc.shape().as_deref(), Some(asked));
            let again = runc.attach(&[]);
            assert!(again.code == 0 && again.stderr.contains("already"), "{}", again.stderr);
            runc.detach();
        }
    }
}

/// Both doors are there: the root, and the host's path.
#[test]
fn the_host_path_alias_leads_to_the_boundary() {
    if !is_possible() {
        return;
    }
    let runc = Runc::run(&[own_cgroups()], &json!({}));
    runc.attach(&["--policy", "delegate", "--delegate-controllers", "all", "--alias", "docker"]).ok();
    assert_eq!(runc.shape().as_deref(), Some("rooted"));
    let own = format!("{}/c1", runc.cgroup.path());
    for directory in ["memory", "systemd"] {
        runc.sh(&format!("mkdir /sys/fs/cgroup/{directory}{own}/x && ls -d /sys/fs/cgroup/{directory}/x"));
        // The name that was asked for is there, as everything is that the container makes.
        runc.sh(&format!(
            "mkdir /sys/fs/cgroup/{directory}/docker/y && ls -d /sys/fs/cgroup/{directory}{own}/docker/y"
        ));
        runc.sh(&format!("cd /sys/fs/cgroup/{directory}{own} && rmdir x docker/y"));
    }
    runc.detach();
}

/// Whenever a hook is called, before the process has entered its root or afterwards.
#[test]
fn hooks_attach_the_shape_that_fits() {
    if !is_possible() {
        return;
    }
    let native = {
        let runc = Runc::run(&[own_cgroups()], &json!({}));
        runc.sh(CLIENTS)
    };
    let hook = json!({ "path": program(), "args": ["vcgroupfs", "attach", "--oci-state"] });
    for stage in ["prestart", "createRuntime", "poststart"] {
        let runc = Runc::run(&[own_cgroups()], &json!({ stage: [hook] }));
        assert_eq!(runc.shape().as_deref(), Some("rooted"), "{stage}");
        assert_eq!(runc.sh(CLIENTS), native, "{stage}");
        let runc = Runc::run(&[hosts("/sys/fs/cgroup")], &json!({ stage: [hook] }));
        assert_eq!(runc.shape().as_deref(), Some("host-path"), "{stage}");
    }
}
