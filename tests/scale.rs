//! The cost of a server with many cgroups, and of many idle servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use testkit::{Need, TestCgroup, View, ViewOptions, processor_ticks, require, resident_kib, thread_states, wait_until};

const PIDS: &str = "pids";

fn mount(cgroup: &TestCgroup) -> (View, PathBuf) {
    let view =
        View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &ViewOptions::new().cgroup(cgroup).shape("rooted"));
    let path = view.hierarchy(&testkit::hierarchy(PIDS).expect("a required hierarchy"));
    (view, path)
}

/// How many cgroups and files a walk finds, each of which it stats.
fn walk(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let count = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let is_directory =
            fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).is_dir();
        1 + if is_directory { walk(&path) } else { 0 }
    };
    entries.map(count).sum()
}

#[test]
fn memory_grows_with_the_tree_and_not_with_use() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(PIDS));
    let cgroup = TestCgroup::new(&[PIDS]);
    let grow = |from: usize, to: usize| {
        for number in from..to {
            if number.is_multiple_of(100) {
                cgroup.child(PIDS, &format!("{}", number / 100));
            }
            cgroup.child(PIDS, &format!("{}/{number}", number / 100));
        }
    };
    let (view, path) = mount(&cgroup);
    let memory = || resident_kib(view.server());
    grow(0, 500);
    walk(&path);
    let few = memory();
    grow(500, 3000);
    let found = walk(&path);
    let many = memory();
    assert!(found > 3000 * 5, "only {found}");
    let each = many.saturating_sub(few) / 2500;
    assert!(each < 16, "{each} KiB for each cgroup: {few} KiB with 500, {many} KiB with 3000");
    for _ in 0..3 {
        assert_eq!(walk(&path), found);
    }
    let again = memory();
    assert!(again < many + many / 8, "{many} KiB after one walk, {again} KiB after four");
    let fds = fs::read_dir(format!("/proc/{}/fd", view.server())).expect("the server's descriptors").count();
    assert!(fds < 200, "{fds} descriptors");
}

#[test]
fn idle_views_cost_only_a_little_memory() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(PIDS));
    let cgroups: Vec<_> = (0..25).map(|_| TestCgroup::new(&[PIDS])).collect();
    let views: Vec<_> = cgroups.iter().map(mount).collect();
    for (view, path) in &views {
        walk(path);
        let (memory, threads) = (resident_kib(view.server()), thread_states(view.server()).len());
        assert!(memory < 16 * 1024, "{memory} KiB resident");
        assert!(threads <= 14, "{threads} threads");
    }
    let all = || views.iter().map(|(view, _)| processor_ticks(view.server())).sum::<u64>();
    // What follows the walk, such as the end of an agent's second, may take one more round.
    // Others may mount and unmount meanwhile, and each server then checks whether its view is still there.
    wait_until("three seconds in which all idle servers together take less than ten ticks", || {
        let before = all();
        // The time is what is measured.
        thread::sleep(Duration::from_secs(3));
        all() - before < 10
    });
}
