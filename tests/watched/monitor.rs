//! `monitor`: requests as they come.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{TIMEOUT, end_of, wait_until};

use crate::scene::{Watched, program, refused, run, run_as_stranger};

/// A running `monitor`, whose output goes to a file. It ends with the test.
struct Monitor {
    child: Child,
    folder: tempfile::TempDir,
}

impl Monitor {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let file = |name| File::create(folder.path().join(name)).expect("a file");
        let mut command = Command::new(program());
        command.arg("monitor").args(arguments).stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self { child: command.spawn().expect("the program"), folder }
    }

    /// Starts one of a view, and waits until it shows requests.
    fn of(scene: &Watched, arguments: &[&str]) -> Self {
        let monitor = Self::start(&[arguments, &[&scene.target()]].concat());
        wait_until("it shows requests", || {
            scene.reject("begin");
            monitor.text().contains("begin")
        });
        monitor
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.output()).expect("its output")
    }

    fn objects(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.lines().filter(|_| text.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a signal");
    }

    /// Ends it as Ctrl-C does. Returns what it printed.
    #[track_caller]
    fn end(mut self) -> String {
        self.signal(Signal::SIGINT);
        let status = end_of(&mut self.child, TIMEOUT).expect("its end");
        let said = fs::read_to_string(self.folder.path().join("err")).expect("its errors");
        assert!(status.success() && said.is_empty(), "{status}: {said}");
        self.text()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many requests a view has had.
fn requests(scene: &Watched) -> u64 {
    let all: Vec<Value> = serde_json::from_slice(&run(&["metrics", "--json"]).stdout).expect("JSON");
    let own = |one: &&Value| {
        one["name"] == "vcgroupfs_requests_total" && one["labels"]["directory"] == scene.target().as_str()
    };
    all.iter().filter(own).map(|one| one["value"].as_f64().expect("a number") as u64).sum()
}

#[test]
fn requests_are_lines() {
    require_watched!();
    let scene = Watched::new();
    let monitor = Monitor::of(&scene, &[]);
    fs::create_dir(scene.own().join("made")).expect("mkdir");
    fs::metadata(scene.own().join("nothing")).expect_err("it isn't there");
    let file = File::options().write(true).open(scene.own().join("cgroup.procs")).expect("a file");
    nix::unistd::write(&file, b"nonsense").expect_err("it's no number");
    file.metadata().expect("attributes");
    drop(file);
    fs::remove_dir(scene.own().join("made")).expect("rmdir");
    wait_until("they are shown", || monitor.text().contains(" rmdir "));
    let text = monitor.end();
    let (name, pid) = (scene.cgroup.name(), std::process::id());
    let command = fs::read_to_string("/proc/thread-self/comm").expect("the own name");
    let line = |words: &str| {
        let found = text.lines().find(|line| line.contains(words));
        found.unwrap_or_else(|| panic!("no {words:?} in {text}"))
    };
    let who = format!("{pid}({})", command.trim_end());
    assert!(line(" mkdir /unified/begin = EACCES rejected outside-subtree <").contains(&who), "{text}");
    for words in [
        format!(" mkdir /unified/{name}/made = 0 allowed <"),
        format!(" lookup /unified/{name}/nothing = ENOENT failed <"),
        format!(" open-write /unified/{name}/cgroup.procs = 0 allowed <"),
        format!(" write /unified/{name}/cgroup.procs = EINVAL failed <"),
        format!(" -(?) release /unified/{name}/cgroup.procs = 0 allowed <"),
        format!(" rmdir /unified/{name}/made = 0 allowed <"),
    ] {
        assert!(line(&words).ends_with(" us>"), "{words}");
    }
}

#[test]
fn only_what_is_asked_for_is_shown() {
    require_watched!();
    let scene = Watched::new();
    let rejected = Monitor::of(&scene, &["--rejected", "--json"]);
    let changes = Monitor::of(&scene, &["--op", "mkdir,rmdir", "--json"]);
    fs::create_dir(scene.own().join("made")).expect("mkdir");
    fs::remove_dir(scene.own().join("made")).expect("rmdir");
    fs::metadata(scene.own().join("nothing")).expect_err("it isn't there");
    scene.reject("end");
    for monitor in [&rejected, &changes] {
        wait_until("the end is shown", || monitor.text().contains("/unified/end"));
    }
    let rejected = rejected.objects();
    assert!(
        rejected.iter().all(|one| one["verdict"] == "rejected" && one["rule"] == "outside-subtree"),
        "{rejected:?}"
    );
    let operations: Vec<String> =
        changes.objects().iter().map(|one| one["operation"].as_str().expect("a name").to_owned()).collect();
    assert!(operations.iter().all(|one| one == "mkdir" || one == "rmdir"), "{operations:?}");
    assert!(operations.ends_with(&["mkdir".to_owned(), "rmdir".to_owned(), "mkdir".to_owned()]), "{operations:?}");
    let last = rejected.last().expect("an object");
    assert_eq!((&last["path"], &last["directory"]), (&"/unified/end".into(), &scene.target().into()));
}

#[test]
fn a_summary_is_counted() {
    require_watched!();
    let scene = Watched::new();
    let text = Monitor::start(&["--summary", "--json", "--op", "mkdir", &scene.target()]);
    // It counts from its begin on.
    wait_until("it waits for signals", || {
        let status = fs::read_to_string(format!("/proc/{}/status", text.child.id())).unwrap_or_default();
        status.lines().any(|line| line == "SigBlk:\t0000000000004007")
    });
    let maps = || fs::read_to_string(format!("/proc/{}/maps", text.child.id())).unwrap_or_default();
    wait_until("it has the counters", || maps().contains("vcgroupfs state"));
    std::thread::sleep(Duration::from_millis(200)); // It reads them right after that, which nothing shows.
    (0..5).for_each(|_| scene.reject("x"));
    fs::create_dir(scene.own().join("made")).expect("mkdir");
    scene.rejections(|all| all.len() == 5);
    let summary: Value = serde_json::from_str(&text.end()).expect("JSON");
    let operations = summary["operations"].as_array().expect("operations");
    assert_eq!(operations.len(), 1, "{summary}");
    let mkdir = &operations[0];
    assert_eq!((&mkdir["operation"], &mkdir["requests"], &mkdir["rejected"]), (&"mkdir".into(), &6.into(), &5.into()));
    assert!(mkdir["seconds"].as_f64().expect("a number") > 0.0);
}

/// It never keeps the server waiting, and what it misses is counted.
#[test]
fn a_stopped_watcher_misses_requests_and_says_how_many() {
    require_watched!();
    let scene = Watched::new();
    let monitor = Monitor::of(&scene, &["--json"]);
    let shown = || {
        let objects = monitor.objects();
        let missed: u64 = objects.iter().filter_map(|one| one["missed"].as_u64()).sum();
        (objects.iter().filter(|one| one["missed"].is_null()).count() as u64, missed)
    };
    let mut settled = (0, 0);
    wait_until("it has shown all", || {
        let before = std::mem::replace(&mut settled, shown());
        std::thread::sleep(Duration::from_millis(200)); // Nothing comes meanwhile.
        before == settled
    });
    let before = requests(&scene);
    monitor.signal(Signal::SIGSTOP);
    let begin = Instant::now();
    // More than are kept for it, before its last request to watch counts no more.
    while requests(&scene) - before < 10_000 {
        (0..2000).for_each(|_| scene.reject("load"));
    }
    // Its last request to watch counts for five seconds. What comes then isn't noted any more, but counted all the same.
    while begin.elapsed() < Duration::from_secs(7) {
        (0..100).for_each(|_| scene.reject("load"));
    }
    let all = requests(&scene) - before;
    monitor.signal(Signal::SIGCONT);
    wait_until("it has caught up", || {
        let (printed, missed) = shown();
        printed + missed - settled.0 - settled.1 == all
    });
    assert!(shown().1 >= all - 8192 - 1, "{:?} of {all}", shown());
    // The server has gone on, and so does the watcher.
    scene.reject("afterwards");
    wait_until("it shows what comes", || monitor.text().contains("afterwards"));
}

#[test]
fn it_goes_on_after_a_kill_and_an_upgrade_and_ends_with_the_view() {
    require_watched!();
    let scene = Watched::new();
    let mut monitor = Monitor::of(&scene, &["--rejected"]);
    for (name, change) in [("killed", Watched::kill_server as fn(&Watched)), ("upgraded", Watched::upgrade)] {
        change(&scene);
        wait_until("it goes on", || {
            scene.reject(name);
            monitor.text().contains(name)
        });
    }
    drop(scene);
    assert!(end_of(&mut monitor.child, TIMEOUT).expect("its end").success());
}

/// Without a TARGET it shows all views, also those that come later.
#[test]
fn all_views_are_shown() {
    require_watched!();
    let first = Watched::new();
    let monitor = Monitor::start(&["--rejected", "--json"]);
    let second = Watched::new();
    for scene in [&first, &second] {
        let target = scene.target();
        wait_until("its requests are shown", || {
            scene.reject("one");
            monitor.objects().iter().any(|one| one["directory"] == target.as_str())
        });
    }
}

#[test]
fn what_is_wrong_is_said() {
    require_watched!();
    let said = refused(&["monitor", "--op", "nonsense"], 2);
    assert!(said.contains("'nonsense' isn't one of lookup, getattr, open, "), "{said}");
    let folder = tempfile::tempdir().expect("a directory");
    let said = refused(&["monitor", folder.path().to_str().expect("text")], 1);
    assert!(said.contains("no live view is mounted on"), "{said}");
    assert_eq!(run_as_stranger(&["monitor"]).status.code(), Some(4));
}
