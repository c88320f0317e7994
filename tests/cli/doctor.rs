//! `doctor`: what clients recognise, for the host itself, in containers, and where the view is dead or hung.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{Caller, Container, ContainerOptions, Need, STRANGER, TIMEOUT, View, ViewOptions, require, run_to_end};

use crate::support::{Running, Sandbox, program, said, wait_until};

const ROOT: &str = "/sys/fs/cgroup";

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}")).keys().map(String::as_str).collect()
}

/// The judgement of an answer about a client.
pub(crate) fn client<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let clients = answer["clients"].as_array().expect("clients");
    let found = clients.iter().find(|one| one["client"].as_str().is_some_and(|client| client.starts_with(name)));
    found.unwrap_or_else(|| panic!("no {name}: {answer}"))
}

pub(crate) fn verdict<'a>(answer: &'a Value, name: &str) -> &'a str {
    client(answer, name)["recognised"].as_str().expect("a word")
}

pub(crate) fn why<'a>(answer: &'a Value, name: &str) -> &'a str {
    client(answer, name)["why"].as_str().expect("a text")
}

pub(crate) fn findings(answer: &Value) -> BTreeSet<&str> {
    let all = answer["findings"].as_array().expect("findings");
    all.iter().map(|one| one["finding"].as_str().expect("a word")).collect()
}

/// A client's name, what it reads, and for one that reads nothing what is said of it.
pub(crate) type Seen<'a> = (&'a str, Vec<[Value; 4]>, Option<&'a Value>);

/// What each client reads, and whether those that read nothing find what they want: what doesn't depend on from where `doctor` looks.
pub(crate) fn seen(answer: &Value) -> Vec<Seen<'_>> {
    let clients = answer["clients"].as_array().expect("clients").iter();
    clients
        .map(|one| {
            let numbers = one["numbers"].as_array().expect("numbers");
            let read = |number: &'_ Value| ["quantity", "value", "from", "missing"].map(|key| number[key].clone());
            let found = numbers.is_empty().then(|| &one["why"]);
            (one["client"].as_str().expect("a name"), numbers.iter().map(read).collect(), found)
        })
        .collect()
}

/// A container in a test cgroup of every hierarchy, with a view of it.
pub(crate) struct Scene {
    pub(crate) container: Container,
    pub(crate) view: View,
    pub(crate) sandbox: Sandbox,
}

impl Scene {
    pub(crate) fn new(user_namespace: bool) -> Self {
        Self::with(user_namespace, |options| options)
    }

    fn with(user_namespace: bool, options: impl FnOnce(ViewOptions) -> ViewOptions) -> Self {
        let sandbox = Sandbox::everywhere();
        let options = options(ViewOptions::new().cgroup(sandbox.cgroup()));
        Self::of(sandbox, user_namespace, &options)
    }

    /// Makes a scene with a view that shows every container its own cgroups.
    pub(crate) fn for_all(user_namespace: bool) -> Self {
        Self::of(Sandbox::everywhere(), user_namespace, &ViewOptions::new().flag("--per-caller"))
    }

    fn of(sandbox: Sandbox, user_namespace: bool, options: &ViewOptions) -> Self {
        let cgroup = sandbox.cgroup();
        let homes = cgroup.hierarchies().iter().map(|hierarchy| cgroup.dir(&hierarchy.selector())).collect();
        let view = View::mount(program(), options);
        let container = Container::start(ContainerOptions { cgroups: homes, user_namespace, ..Default::default() });
        Self { container, view, sandbox }
    }

    /// Runs a script of the shell in the container, with the view's directory as `$1`.
    pub(crate) fn script(&self, script: &str) {
        let mut command = self.container.command(Caller::Root);
        command.args(["sh", "-ec", script, "sh"]).arg(self.view.dir());
        let output = run_to_end(&mut command, TIMEOUT);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The view alone on `/sys/fs/cgroup`, with nothing of the host's beneath.
    pub(crate) fn plainly(self) -> Self {
        self.script(&format!("umount -R {ROOT}; mount --bind \"$1\" {ROOT}"));
        self
    }

    /// The same, with the host's hierarchies beneath, which can't be unmounted in a user namespace.
    pub(crate) fn plainly_over(self) -> Self {
        self.script(&format!("mount --bind \"$1\" {ROOT}"));
        self
    }

    /// Ends it, and checks that nothing is left.
    pub(crate) fn end(self) {
        let Self { container, view, sandbox } = self;
        drop((container, view));
        // If another test's container has a copy of the view's mount, the server is killed, and its record is for the next one to remove.
        assert_eq!(sandbox.vcgroupfs(&["list"]).code, 0);
        sandbox.is_clean();
    }

    pub(crate) fn doctor(&self) -> Value {
        self.sandbox.vcgroupfs(&["doctor", "--json", &self.container.init().to_string()]).json()
    }
}

/// A server that is stopped, and goes on when this is dropped: until then whoever touches its view hangs.
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn new(view: &View) -> Self {
        let server = Pid::from_raw(view.server().cast_signed());
        assert!(testkit::stop(server), "the server is there");
        Self(server)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// A process that sleeps, wherever the command that starts it leads.
pub(crate) struct Sleeper {
    pub(crate) pid: i32,
    _running: Running,
}

impl Sleeper {
    pub(crate) fn start(mut command: Command) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1000);
        let seconds = format!("{}.{}", NEXT.fetch_add(1, Ordering::Relaxed), std::process::id());
        let running = Running::start(command.args(["sleep", &seconds]));
        let line = format!("sleep\0{seconds}\0");
        let is_it = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text == line.as_bytes());
        let mut found = None;
        wait_until("the sleeper", || {
            let all = std::fs::read_dir("/proc").expect("/proc").flatten();
            found = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_it);
            found.is_some()
        });
        Self { pid: found.expect("a process"), _running: running }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

#[test]
fn doctor_looks_at_the_host_itself() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::new();
    let own = sandbox.vcgroupfs(&["doctor", "--json"]).json();
    let sleeper = Sleeper::start(Command::new("env"));
    let pid = sleeper.pid;
    let other = sandbox.vcgroupfs(&["doctor", "--json", &pid.to_string()]).json();
    drop(sleeper);
    for answer in [&own, &other] {
        let expected = [
            "cgroup_namespace",
            "clients",
            "command",
            "findings",
            "healthy",
            "limits",
            "pid",
            "programs",
            "root",
            "setup",
            "version",
            "views",
        ];
        assert_eq!(keys(answer), expected.into());
        for client in answer["clients"].as_array().expect("clients") {
            assert_eq!(
                keys(client),
                ["advice", "client", "numbers", "recognised", "relevance", "source", "why"].into()
            );
            assert!(matches!(client["recognised"].as_str(), Some("yes" | "partly" | "no")), "{client}");
            assert_eq!(keys(&client["source"]), ["files", "read", "repository", "version"].into(), "{client}");
            for number in client["numbers"].as_array().expect("numbers") {
                let expected = ["expected", "from", "missing", "natively", "quantity", "value", "verdict"];
                assert_eq!(keys(number), expected.into(), "{client}");
                let verdict = number["verdict"].as_str();
                assert!(matches!(verdict, Some("ok" | "native" | "wrong" | "unknown")), "{client}");
                // Nothing is in the way of what the kernel shows.
                assert_eq!(number["value"], number["natively"], "{client}");
            }
            assert_eq!(client["advice"].is_null(), client["recognised"] == "yes", "{client}");
            assert!(client["why"].as_str().is_some_and(|why| why.len() > 5), "{client}");
        }
        for finding in answer["findings"].as_array().expect("findings") {
            assert_eq!(keys(finding), ["advice", "commands", "finding", "level", "what"].into());
            assert!(matches!(finding["level"].as_str(), Some("problem" | "warning" | "note")), "{finding}");
        }
        // The host has the kernel's own, so what doesn't depend on the version recognises it.
        for client in ["containerd", "LXC >= 4", "lxc-checkconfig", "libcgroup", "shell scripts", "systemd-cgls"] {
            assert_eq!(verdict(answer, client), "yes", "{client}: {answer}");
        }
        assert!(findings(answer).contains("no-view") && !findings(answer).contains("dead-view"), "{answer}");
    }
    assert_eq!((other["pid"].as_i64(), other["command"].as_str()), (Some(pid.into()), Some("sleep")));
    assert_eq!(own["command"], "vcgroupfs");
    // Both are in the same place.
    assert_eq!(own["findings"], other["findings"]);
    sandbox.is_clean();
}

#[test]
fn a_plain_view_is_not_recognised_by_clients() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("memory"),
        Need::Hierarchy("name=systemd")
    );
    let scene = Scene::new(false).plainly();
    let answer = scene.doctor();
    assert_eq!(answer["views"], serde_json::json!([ROOT]));
    assert_eq!(answer["root"], "fuse");
    for (client, expected) in [
        ("systemd 236-255", "no"),
        ("runc", "no"),
        ("dockerd", "no"),
        ("crun", "no"),
        ("JVM", "no"),
        (".NET 8", "no"),
        // There's no limit to be found at the top, and none of its own.
        ("Node.js 18", "yes"),
        ("Node.js 20", "yes"),
        ("Rust std", "yes"),
        ("shell scripts", "yes"),
    ] {
        assert_eq!(verdict(&answer, client), expected, "{client}: {answer}");
    }
    let expected = ["no-stack", "can-unmount", "fuse-limits", "no-cgroup-namespace"];
    assert_eq!(findings(&answer), expected.into(), "{answer}");
    assert!(why(&answer, "Node.js 20").contains(&scene.sandbox.mark), "the host's paths: {answer}");
    // In a cgroup namespace paths begin at its root, also for who looks from outside.
    let mut command = scene.container.command(Caller::Root);
    command.args(["unshare", "--cgroup"]);
    let sleeper = Sleeper::start(command);
    let namespace = scene.sandbox.vcgroupfs(&["doctor", "--json", &sleeper.pid.to_string()]).json();
    drop(sleeper);
    assert_eq!((&answer["cgroup_namespace"], &namespace["cgroup_namespace"]), (&false.into(), &true.into()));
    assert!(!why(&namespace, "Node.js 20").contains(&scene.sandbox.mark), "{namespace}");
    assert!(why(&namespace, "Node.js 20").contains("/sys/fs/cgroup/memory/memory.limit_in_bytes"), "{namespace}");
    // As text, and from within.
    let text = scene.sandbox.vcgroupfs(&["doctor", "--all", &scene.container.init().to_string()]).ok();
    assert!(text.contains("\nviews      /sys/fs/cgroup\n") && text.contains("\nnote "), "{text}");
    let mut inside = scene.container.command(Caller::Root);
    let inside = said(inside.arg(program()).args(["doctor", "--json"])).json();
    assert_eq!((seen(&inside), &inside["findings"]), (seen(&answer), &answer["findings"]));
    // There it can't be known what holds.
    assert!(inside["limits"].is_null() && answer["limits"].is_object(), "{inside}");
    scene.end();
}

#[test]
fn a_stack_is_recognised_by_clients() {
    require!(
        Need::Root,
        Need::Fuse,
        Need::Hierarchy("pids"),
        Need::Hierarchy("memory"),
        Need::Hierarchy("name=systemd")
    );
    let scene = Scene::new(false);
    scene.script(&format!(
        "cd /; real=$(mktemp -d); mount --rbind {ROOT} \"$real\"; umount -R {ROOT}; mount -t tmpfs -o mode=755 tmpfs {ROOT}
         for view in \"$1\"/*; do
             name=${{view##*/}}
             [ -h \"$view\" ] && {{ cp -P \"$view\" {ROOT}; continue; }}
             mkdir {ROOT}/$name; mount --bind \"$real/$name\" {ROOT}/$name; mount -o remount,bind,ro {ROOT}/$name
             mount --bind \"$view\" {ROOT}/$name
         done
         mount -o remount,bind,ro {ROOT}; umount -R \"$real\"; rmdir \"$real\""
    ));
    let answer = scene.doctor();
    for (client, expected) in [
        ("systemd 236-255", "yes"),
        ("systemd 233-235", "no"),
        ("containerd", "yes"),
        // The policy is strict.
        ("runc", "partly"),
        ("LXC >= 4", "no"),
        ("Go automaxprocs", "yes"),
        ("JVM", "yes"),
        (".NET 8", "yes"),
        ("libcgroup", "yes"),
    ] {
        assert_eq!(verdict(&answer, client), expected, "{client}: {answer}");
    }
    assert_eq!(findings(&answer), ["can-unmount", "fuse-limits", "no-cgroup-namespace"].into(), "{answer}");
    scene.end();
}

#[test]
fn the_rights_of_the_process_count() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::Hierarchy("name=systemd"), Need::Hierarchy("unified"));
    // Its user namespace doesn't own the cgroups, so it may not write where the policy would let it.
    let all = "cpu,cpuacct,cpuset,memory,devices,freezer,blkio,pids";
    let controllers: Vec<&str> = all.split(',').filter(|word| testkit::hierarchy(word).is_some()).collect();
    let delegated = |options: ViewOptions| options.policy("delegate").delegate_controllers(&controllers);
    let scene = Scene::with(true, delegated).plainly_over();
    let init = scene.container.init();
    let Scene { container, sandbox, .. } = &scene;
    for (caller, may_unmount) in [(Caller::Root, true), (Caller::DockerRoot, false), (Caller::Stranger, false)] {
        let sleeper = Sleeper::start(container.command(caller));
        let answer = sandbox.vcgroupfs(&["doctor", "--json", &sleeper.pid.to_string()]).json();
        assert_eq!(answer["command"], "sleep");
        assert_eq!(findings(&answer).contains("can-unmount"), may_unmount, "{caller:?}: {answer}");
        // The policy would let them write, but the cgroup is the host's root's, whom they don't have.
        assert!(why(&answer, "runc").contains("may not make cgroups in"), "{answer}");
    }
    let of_the_host = Scene::with(false, delegated).plainly_over();
    let answer = of_the_host.doctor();
    assert!(!why(&answer, "runc").contains("may not make cgroups in"), "{answer}");
    of_the_host.end();
    // Nobody but root may look into it.
    let copy = sandbox.file("vcgroupfs");
    assert_eq!(said(Command::new("cp").arg(program()).arg(&copy)).code, 0);
    let mut unprivileged = sandbox.command_of("setpriv");
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    let line = said(unprivileged.args(["doctor", &init.to_string()])).fails(4);
    assert!(line.contains("root"), "{line}");
    let mut unprivileged = sandbox.command_of("setpriv");
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    let own = said(unprivileged.args(["doctor", "--json"])).json();
    assert_eq!(verdict(&own, "containerd"), "yes");
    scene.end();
}

#[test]
fn a_dead_view_is_found() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("name=systemd"));
    let scene = Scene::new(false).plainly();
    assert!(!findings(&scene.doctor()).contains("dead-view"));
    scene.view.kill();
    let mut last = Value::Null;
    wait_until("the view's death", || {
        last = scene.doctor();
        findings(&last).contains("dead-view")
    });
    for client in ["Node.js 18", "Node.js 20", "Rust std", "shell scripts", "systemd 236-255"] {
        assert_eq!(verdict(&last, client), "no", "{client}: {last}");
    }
    assert_eq!(last["findings"][0]["level"], "problem");
    assert!(last["findings"][0]["what"].as_str().is_some_and(|what| what.contains(ROOT)), "{last}");
}

#[test]
fn a_hung_view_is_found() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("memory"), Need::Hierarchy("name=systemd"));
    let scene = Scene::new(false).plainly();
    let stopped = Stopped::new(&scene.view);
    let answer = said(&mut scene.sandbox.command(&["doctor", "--json", &scene.container.init().to_string()]));
    drop(stopped);
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert!(findings(&answer).contains("hung-view"), "{answer}");
    assert_eq!(verdict(&answer, "Node.js 20"), "no");
    // Nobody is stuck any more.
    assert!(!findings(&scene.doctor()).contains("hung-view"));
    scene.end();
}

/// A child of a process, once it's this user's without capabilities, in this mount namespace.
fn child_of(parent: u32, user: u32, namespace: &Path) -> Option<u32> {
    let is_it = |pid: &u32| {
        let has = |field: &str, value: &str| testkit::status_field(*pid, field).as_deref() == Some(value);
        let joined = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|link| link == namespace);
        has("CapPrm", "0000000000000000") && has("Uid", &format!("{user}\t{user}\t{user}\t{user}")) && joined
    };
    testkit::children_of(parent).into_iter().find(is_it)
}

#[test]
fn the_child_that_looks_has_nothing_that_the_target_has_not() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("name=systemd"));
    let scene = Scene::new(false).plainly();
    let sleeper = Sleeper::start(scene.container.command(Caller::Stranger));
    let namespace = std::fs::read_link(format!("/proc/{}/ns/mnt", sleeper.pid)).expect("a namespace");
    // It's there to be looked at for as long as the server doesn't answer, which are some seconds.
    let stopped = Stopped::new(&scene.view);
    let mut doctor = None;
    let mut child = None;
    for _ in 0..5 {
        let mut running = Running::start(&mut scene.sandbox.command(&["doctor", &sleeper.pid.to_string()]));
        wait_until("a child", || {
            child = child_of(running.child.id(), STRANGER, &namespace);
            child.is_some() || !matches!(running.child.try_wait(), Ok(None))
        });
        if child.is_some() {
            // Nobody ends it then, unless that was done in between.
            testkit::stop(Pid::from_raw(running.child.id().cast_signed()));
            child = child_of(running.child.id(), STRANGER, &namespace);
        }
        doctor = Some(running);
        if child.is_some() {
            break;
        }
    }
    let child = child.expect("a child that could be looked at");
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).expect("its status");
    for line in ["CapInh:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Groups:\t "] {
        assert!(status.lines().any(|one| one == line), "{line}: {status}");
    }
    // The way out, and what it looks at.
    for entry in std::fs::read_dir(format!("/proc/{child}/fd")).expect("its files") {
        let file = std::fs::read_link(entry.expect("a file").path()).expect("a link").display().to_string();
        let is_own = file == format!("/proc/{child}/fd");
        assert!(is_own || file == "/dev/null" || file.starts_with("pipe:") || file.starts_with(ROOT), "{file}");
    }
    // Not its user's: it isn't dumpable.
    let owner = std::fs::metadata(format!("/proc/{child}/environ")).expect("its environment").uid();
    assert_eq!(owner, 0);
    let mut same_user = Command::new("setpriv");
    same_user.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), "--clear-groups".into()]);
    assert_ne!(said(same_user.args(["cat", &format!("/proc/{child}/environ")])).code, 0);
    drop((stopped, doctor, sleeper));
    scene.end();
}

#[test]
fn input_from_a_container_is_harmless() {
    require!(Need::Root, Need::Hierarchy("unified"));
    let sandbox = Sandbox::new();
    let container = Container::start(ContainerOptions::default());
    let script = format!(
        "umount -R {ROOT}; mount -t tmpfs tmpfs {ROOT}; mkfifo {ROOT}/cgroup.controllers; ln -s /dev/watchdog {ROOT}/systemd
         ln -s unified {ROOT}/unified; name=$(printf '{ROOT}/a\\033[31mb'); mkdir \"$name\"; mount -t tmpfs tmpfs \"$name\"
         mkdir {ROOT}/memory; mkfifo {ROOT}/memory/memory.limit_in_bytes; ln -s /dev/zero {ROOT}/memory/memory.soft_limit_in_bytes"
    );
    let made = run_to_end(container.command(Caller::Root).args(["sh", "-ec", &script]), TIMEOUT);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let answer = sandbox.vcgroupfs(&["doctor", "--json", &container.init().to_string()]).json();
    assert_eq!(verdict(&answer, "containerd"), "no", "{answer}");
    // What isn't a regular file is neither opened nor read.
    for name in ["Node.js 18", "Node.js 20"] {
        let memory = client(&answer, name)["numbers"]
            .as_array()
            .expect("numbers")
            .iter()
            .find(|number| number["quantity"] == "memory");
        let missing = memory.and_then(|number| number["missing"].as_str());
        assert!(missing.is_some_and(|missing| missing.contains("can't be read")), "{name}: {answer}");
    }
    // A name that would clear the terminal.
    let program = sandbox.file("x\u{1b}[2Jy");
    assert_eq!(said(Command::new("cp").arg("/bin/sleep").arg(&program)).code, 0);
    let mut named = Running::start(Command::new(&program).arg("1000"));
    let text = sandbox.vcgroupfs(&["doctor", &named.child.id().to_string()]).ok();
    assert!(text.contains("(x\\u{1b}[2Jy)") && !text.chars().any(|one| one.is_control() && one != '\n'), "{text:?}");
    named.signal(Signal::SIGKILL);
    named.wait();
    drop(container);
    sandbox.is_clean();
}

#[test]
fn bad_targets_are_refused() {
    let sandbox = Sandbox::new();
    for (target, code, says) in [
        ("0", 2, "process"),
        ("-1", 2, ""),
        ("x", 1, "no running container"),
        ("what:x", 2, "isn't a container manager"),
        ("2147483647", 1, "no process"),
    ] {
        let line = sandbox.vcgroupfs(&["doctor", target]).fails(code);
        assert!(line.contains(says), "{target}: {line}");
    }
    sandbox.is_clean();
}
