//! One table of operations, two subjects: the kernel's cgroupfs, and a view of a cgroup like it. Everything that the view
//! allows has to have the kernel's result, errno and content.
//!
//! [`fuzz`] does the same with operations that nobody thought of.
//!
//! The table is also run with the kernel as both subjects, which tests the table, and with a subject that is wrong on
//! purpose, which tests that it can fail.

mod case;
mod differences;
mod fuzz;
mod reading;
mod run;
mod table;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use testkit::probe::{Op, Outcome};
use testkit::{Caller, Need, TestCgroup, View, ViewOptions, hierarchy, require};

use case::{Case, Where};
use differences::{KNOWN_DIFFERENCES, is_known, passes_through};
use run::{Record, Subject, surprises};

/// What differs between two runs of a case, told in one line each; and the listed differences that don't differ.
fn compare(case: &Case, kernel: &[Record], view: &[Record], how: How) -> Vec<String> {
    let mut found = Vec::new();
    for (number, (a, b)) in kernel.iter().zip(view).enumerate() {
        let known = is_known(case.name, a.id, how.passed_through)
            || how.has_lists_made_at_open && shows_when_it_was_opened(case.name, &a.op);
        // The list is of one kernel; in a virtual machine with another one (tests/vm) something listed may not differ.
        let may_be_equal = known && std::env::var_os("VCGROUPFS_VM").is_some();
        // FUSE never asks about a write of nothing.
        if differences::is_asked_about_nothing(&a.op, &a.outcome, &b.outcome) {
            continue;
        }
        if (a.outcome != b.outcome) != known && !may_be_equal {
            let what = if known { "is a known difference, but doesn't differ" } else { "differs" };
            found.push(format!(
                "{} {number} {:?} {what}:\n    kernel {}\n    view   {}",
                case.name,
                a.op,
                told(&a.outcome),
                told(&b.outcome)
            ));
        }
    }
    found
}

/// Whether the case is about who opened, on a kernel that asks for the rights of whoever writes (before Linux 5.16 and the stable releases of then). A
/// view is as later kernels on all of them, which is what the table expects.
fn judges_writers(case: &Case, place: Where, kernel: &[Record]) -> bool {
    case.name.starts_with("opened-by-") && !surprises(case, place, kernel).is_empty()
}

/// How the kernel serves the view.
#[derive(Clone, Copy)]
struct How {
    passed_through: bool,
    has_lists_made_at_open: bool,
}

/// Where a list is read that was opened when it was another one. A kernel that makes lists when they're opened shows that.
fn shows_when_it_was_opened(case: &str, op: &Op) -> bool {
    match case.strip_suffix("-by-owner").unwrap_or(case) {
        "removed-cgroup" => matches!(op, Op::Read { fd, .. } if fd == "f"),
        "one-handle-many-writes" => matches!(op, Op::Pread { fd, .. } if fd == "list"),
        _ => false,
    }
}

fn told(outcome: &Outcome) -> String {
    let text = format!("{outcome:?}");
    if text.chars().count() > 1500 { text.chars().take(1500).collect::<String>() + "..." } else { text }
}

/// Whether `VCGROUPFS_CASE`, a part of a name, is absent or fits.
fn is_wanted(case: &Case) -> bool {
    std::env::var("VCGROUPFS_CASE").map_or(true, |part| case.name.contains(&part))
}

/// What the kernel answers is what a view has to answer. The table's own expectations are of the kernels that it was written on: where
/// somebody brings another one (tests/vm), they are told, and decide nothing.
fn expected(surprises: Vec<String>, found: &mut Vec<String>) {
    match std::env::var_os("VCGROUPFS_NOTES") {
        Some(notes) => {
            let notes = fs::File::options().append(true).create(true).open(notes);
            let text: String = surprises.iter().map(|surprise| format!("another kernel: {surprise}\n")).collect();
            notes.and_then(|mut notes| notes.write_all(text.as_bytes())).expect("the notes");
        }
        None => found.extend(surprises),
    }
}

/// Runs every case of a place on the kernel and on what `second` makes of a sibling cgroup.
fn run_table(
    place: Where,
    second: impl FnOnce(&TestCgroup) -> (Option<View>, std::path::PathBuf),
    check: impl Fn(&Case, &[Record], &[Record]) -> Vec<String>,
) -> Vec<String> {
    let selectors = [place.selector()];
    let (a, b) = (TestCgroup::new(&selectors), TestCgroup::new(&selectors));
    let (_view, path) = second(&b);
    let kernel = Subject::new(place, &a, a.dir(place.selector()));
    let view = Subject::new(place, &b, path);
    let mut found = Vec::new();
    for case in table::table().iter().filter(|case| case.places.contains(&place) && is_wanted(case)) {
        let callers: &[Caller] = if case.also_owner { &[Caller::Root, Caller::Owner] } else { &[Caller::Root] };
        for caller in callers {
            let mut case = case.clone();
            let owner_case = format!("{}-by-owner", case.name);
            if *caller == Caller::Owner {
                case.name = owner_case.leak();
            }
            let left = kernel.run(&case, *caller);
            let right = view.run(&case, *caller);
            if *caller == Caller::Root {
                expected(surprises(&case, place, &left), &mut found);
            } else if !left.iter().any(|record| record.outcome.is_ok()) {
                found.push(format!("{}: nothing succeeds", case.name));
            }
            found.extend(check(&case, &left, &right));
        }
    }
    found
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

fn strictly_equal(case: &Case, a: &[Record], b: &[Record]) -> Vec<String> {
    a.iter()
        .zip(b)
        .filter(|(a, b)| a.outcome != b.outcome)
        .map(|(a, b)| {
            format!("{} {:?} isn't reproducible: {} and {}", case.name, a.op, told(&a.outcome), told(&b.outcome))
        })
        .collect()
}

fn kernel_on_kernel(place: Where) {
    require!(Need::Root, Need::Hierarchy(place.selector()));
    report(&run_table(place, |cgroup| (None, cgroup.dir(place.selector())), strictly_equal));
}

fn mount(place: Where, legacy: bool, cgroup: &TestCgroup) -> View {
    View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options(place, cgroup).legacy(legacy))
}

/// How views of this suite are mounted.
pub(crate) fn options(place: Where, cgroup: &TestCgroup) -> ViewOptions {
    let options = ViewOptions::new().cgroup(cgroup).shape("rooted").policy("delegate");
    options.delegate_controllers(place.controllers())
}

fn kernel_and_view(place: Where, legacy: bool) {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(place.selector()));
    if legacy {
        require!(Need::LegacySyscalls);
    }
    let hierarchy = hierarchy(place.selector()).expect("the hierarchy that was required");
    let second = |cgroup: &TestCgroup| {
        let view = mount(place, legacy, cgroup);
        let path = view.hierarchy(&hierarchy);
        (Some(view), path)
    };
    let how = How { passed_through: !legacy && passes_through(), has_lists_made_at_open: legacy && place != Where::V2 };
    report(&run_table(place, second, |case, kernel, view| {
        if judges_writers(case, place, kernel) {
            return surprises(case, place, view);
        }
        compare(case, kernel, view, how)
    }));
}

macro_rules! places {
    ($($name:ident: $place:expr),+ $(,)?) => {
        mod kernel {
            $(#[test] fn $name() { super::kernel_on_kernel($place); })+
        }
        mod view {
            $(#[test] fn $name() { super::kernel_and_view($place, false); })+
        }
        mod view_on_an_old_kernel {
            $(#[test] fn $name() { super::kernel_and_view($place, true); })+
        }
    };
}

use Where::{Cpuset, Freezer, Memory, Pids, Systemd, V2};

places! {
    v2: super::V2,
    pids: super::Pids,
    freezer: super::Freezer,
    cpuset: super::Cpuset,
    systemd: super::Systemd,
}

/// Events of memory can't be had by an old kernel's system calls, so that isn't a place like the others.
#[test]
fn kernel_memory() {
    kernel_on_kernel(Memory);
}

#[test]
fn view_memory() {
    require!(Need::FetchedDescriptors);
    kernel_and_view(Memory, false);
}

/// A subject that is a plain directory has to differ in nearly every case.
#[test]
fn a_wrong_subject_fails() {
    require!(Need::Root, Need::Hierarchy(Where::Pids.selector()));
    let folder = tempfile::tempdir().unwrap();
    for case in table::table().iter().filter(|case| case.places.contains(&Where::Pids)) {
        fs::create_dir_all(folder.path().join(case.name)).unwrap();
    }
    let found = run_table(Where::Pids, |_| (None, folder.path().to_path_buf()), strictly_equal);
    let names: std::collections::BTreeSet<_> = found.iter().filter_map(|line| line.split(' ').next()).collect();
    let all = table::table().iter().filter(|case| case.places.contains(&Where::Pids)).count();
    assert!(
        names.len() * 10 >= all * 9,
        "only {} of {all} cases see that a directory isn't a cgroup: {names:?}",
        names.len()
    );
}

/// A subject whose answers are the kernel's, except for one errno, fails.
#[test]
fn one_wrong_errno_fails() {
    require!(Need::Root, Need::Hierarchy(Where::Pids.selector()));
    let cgroup = TestCgroup::new(&[Where::Pids.selector()]);
    let subject = Subject::new(Where::Pids, &cgroup, cgroup.dir(Where::Pids.selector()));
    let table = table::table();
    let case = table.iter().find(|case| case.name == "no-other-nodes").expect("the case");
    let right = subject.run(case, Caller::Root);
    let mut wrong = right.clone();
    wrong[0].outcome = Outcome::Err { errno: "EPERM".into(), stage: "open".into() };
    let how = How { passed_through: false, has_lists_made_at_open: false };
    assert_eq!(compare(case, &right, &right, how), Vec::<String>::new());
    assert_eq!(compare(case, &right, &wrong, how).len(), 1);
    assert_eq!(surprises(case, Where::Pids, &wrong).len(), 1);
}

/// Every listed difference belongs to steps of the table.
#[test]
fn differences_are_of_the_table() {
    let table = table::table();
    for known in KNOWN_DIFFERENCES {
        let steps: usize = table
            .iter()
            .filter(|case| case.name == known.case)
            .map(|case| case.steps.iter().filter(|step| step.id == known.step).count())
            .sum();
        assert!(steps > 0, "{known:?}");
    }
    let mut names: Vec<_> = table.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), table.len(), "two cases have one name");
}

/// The inode number of a node is the backing node's.
fn inode_numbers(legacy: bool) {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let cgroup = TestCgroup::new(&["pids", "unified"]);
    let view = View::mount(
        Path::new(env!("CARGO_BIN_EXE_vcgroupfs")),
        &ViewOptions::new().cgroup(&cgroup).shape("rooted").policy("delegate").legacy(legacy),
    );
    for hierarchy in cgroup.hierarchies() {
        let child = cgroup.child(&hierarchy.selector(), "a");
        for below in ["a", "a/cgroup.procs"] {
            let real = fs::metadata(child.with_file_name(below)).unwrap().ino();
            let seen = fs::metadata(view.hierarchy(hierarchy).join(below)).unwrap().ino();
            assert_eq!(seen, real, "{below} in {}", hierarchy.selector());
        }
    }
}

#[test]
fn inode_numbers_are_the_kernels() {
    inode_numbers(false);
}

#[test]
fn inode_numbers_are_the_kernels_on_an_old_kernel() {
    require!(Need::LegacySyscalls);
    inode_numbers(true);
}
