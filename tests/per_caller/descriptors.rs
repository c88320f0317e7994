//! Descriptors that one container hands to another: a file is a capability, a directory opens nothing.

use testkit::probe::Op;
use testkit::probe::names::*;
use testkit::{Container, Session};

use super::is_possible;
use super::scene::{Scene, hierarchies};

/// Two containers, and a way from the first to the second.
struct Passing {
    first: Session,
    second: Session,
    _containers: [Container; 2],
    mailbox: tempfile::TempDir,
    scene: Scene,
}

impl Passing {
    fn new(selector: &str, scene: Scene) -> Self {
        let containers = [scene.container("a"), scene.container("b")];
        let first = scene.session(&containers[0], selector, "a", "b");
        let mut second = scene.session(&containers[1], selector, "b", "a");
        let mailbox = tempfile::Builder::new().prefix("vcgroupfs-mailbox-").tempdir().expect("a temporary directory");
        second.expect(&Op::Mailbox { path: mailbox.path().join("box").display().to_string(), fd: "BOX".into() });
        Self { first, second, _containers: containers, mailbox, scene }
    }

    /// The first one opens, the second one has it as `$GIFT`.
    fn hand_over(&mut self, path: &str, flags: &[&str]) {
        self.first.expect(&open("GIFT", path, flags));
        let mailbox = self.mailbox.path().join("box").display().to_string();
        self.first.expect(&Op::Post { fd: "GIFT".into(), path: mailbox });
        self.second.expect(&Op::Fetch { mailbox: "BOX".into(), fd: "GIFT".into() });
    }

    fn is_refused(&mut self, op: &Op) {
        let outcome = self.second.run(op);
        assert_eq!(outcome.errno(), Some("ENOENT"), "{op:?}: {outcome:?}");
    }
}

#[test]
fn a_directory_that_was_handed_over_leads_nowhere() {
    if !is_possible() {
        return;
    }
    for &selector in hierarchies() {
        let mut passing = Passing::new(selector, Scene::new());
        passing.first.expect(&mkdir("$OWN/job"));
        for flags in [&["O_RDONLY", "O_DIRECTORY"][..], &["O_PATH", "O_DIRECTORY"]] {
            passing.hand_over("$OWN", flags);
            passing.is_refused(&Op::Fstat { fd: "GIFT".into() });
            for below in ["", "/", "/job", "/cgroup.procs", "/job/cgroup.procs", "/.", "/..", "/../a", "/job/.."] {
                let path = format!("/proc/self/fd/$FDGIFT{below}");
                passing.is_refused(&open("X", &path, &["O_RDONLY"]));
                if !below.is_empty() {
                    // The link alone is procfs'.
                    passing.is_refused(&stat(&path));
                }
                passing.is_refused(&readdir(&path));
                passing.is_refused(&Op::Getxattr { path: format!("{path}/"), name: "trusted.x".into() });
            }
            passing.is_refused(&mkdir("/proc/self/fd/$FDGIFT/new"));
            passing.is_refused(&rmdir("/proc/self/fd/$FDGIFT/job"));
            passing.is_refused(&write_file("/proc/self/fd/$FDGIFT/cgroup.procs", "0"));
            passing.is_refused(&write_file("/proc/self/fd/$FDGIFT/job/cgroup.procs", "0"));
            passing.is_refused(&rename("/proc/self/fd/$FDGIFT/job", "/proc/self/fd/$FDGIFT/other"));
            passing.is_refused(&chmod("/proc/self/fd/$FDGIFT", 0o777));
        }
        passing.hand_over("$OWN", &["O_RDONLY", "O_DIRECTORY"]);
        passing.is_refused(&Op::List { fd: "GIFT".into() });
        passing.is_refused(&Op::Fchmod { fd: "GIFT".into(), mode: 0o777 });
        // What both see is the receiver's own.
        passing.hand_over("$ABOVE", &["O_RDONLY", "O_DIRECTORY"]);
        let names = passing.second.expect(&Op::List { fd: "GIFT".into() });
        let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
        assert!(names.contains(&"b") && !names.contains(&"a"), "{names:?}");
        passing.second.expect(&Op::Fstat { fd: "GIFT".into() });
        passing.is_refused(&stat("/proc/self/fd/$FDGIFT/a"));
        passing.second.expect(&mkdir("/proc/self/fd/$FDGIFT/b/new"));
        assert!(passing.scene.real(selector, "b/new").is_dir());
        passing.first.expect(&stat("$OWN/job"));
    }
}

/// As in the kernel: who has an open file may use it. Numbers of processes are those of who writes, and both ends of a migration have to be in
/// the subtree of the container in which it was opened.
#[test]
fn a_file_that_was_handed_over_migrates_nobody() {
    if !is_possible() {
        return;
    }
    for &selector in hierarchies() {
        let mut passing = Passing::new(selector, Scene::new());
        passing.first.expect(&mkdir("$OWN/job"));
        passing.first.expect(&spawn("P"));
        passing.second.expect(&spawn("P"));
        passing.hand_over("$OWN/job/cgroup.procs", &["O_RDWR"]);
        for number in ["0", "$P"] {
            let outcome = passing.second.run(&write("GIFT", number));
            assert_eq!(outcome.errno(), Some("EACCES"), "{selector} {number}: {outcome:?}");
        }
        passing.first.expect(&write("GIFT", "$P"));
        let real = passing.scene.real(selector, "a/job/cgroup.procs");
        assert_eq!(std::fs::read_to_string(real).expect("a list").lines().count(), 1, "{selector}");
        // It can be read, but the process is none of the reader's.
        let list = passing.second.expect(&pread("GIFT", 100, 0));
        let number = passing.first.expect(&pread("GIFT", 100, 0));
        assert!(number.as_str().is_some_and(|number| number.trim().parse::<i32>().is_ok_and(|pid| pid > 0)));
        assert!(matches!(list.as_str(), Some("" | "0\n")), "{selector}: {list}");
        // What is asked of the file and not of the open one, the receiver isn't told.
        passing.is_refused(&Op::Fstat { fd: "GIFT".into() });
        passing.is_refused(&Op::Fchmod { fd: "GIFT".into(), mode: 0o666 });
        passing.is_refused(&Op::Ftruncate { fd: "GIFT".into(), len: 0 });
        passing.is_refused(&open("X", "/proc/self/fd/$FDGIFT", &["O_RDONLY"]));
        passing.is_refused(&open("X", "/proc/self/fd/$FDGIFT", &["O_WRONLY"]));
    }
}
