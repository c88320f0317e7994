//! What a view uses of the host.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;
use testkit::{ViewProcesses, comes_true};

use crate::live_view::LiveView;

/// How long a server may take to let go of what nobody needs any more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How many descriptors more are none that are leaked: directories and files that are kept for the next who asks.
const SPARE_DESCRIPTORS: usize = 16;

/// How many watches more are of directories that are kept.
const SPARE_WATCHES: usize = 32;

/// How much more memory, in KiB, is none that is leaked, however long the load was.
const SPARE_MEMORY: u64 = 8 * 1024;

/// What the processes of a view use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    server_descriptors: usize,
    keeper_descriptors: usize,
    /// Of both, in KiB.
    memory: u64,
    /// The watches of inotify.
    watches: usize,
}

impl Usage {
    pub(crate) fn of(view: &LiveView) -> Self {
        let ViewProcesses { keeper, server } = view.when_live();
        let others = keeper.into_iter();
        Self {
            server_descriptors: descriptors(server).len(),
            keeper_descriptors: others.clone().map(|keeper| descriptors(keeper).len()).sum(),
            memory: others.chain([server]).map(memory).sum(),
            watches: descriptors(server).iter().map(|fd| watches(server, fd)).sum(),
        }
    }

    /// Whether it's no more than before, but for what is kept for a while.
    fn is_level_with(&self, before: &Self) -> bool {
        self.server_descriptors <= before.server_descriptors + SPARE_DESCRIPTORS
            && self.keeper_descriptors <= before.keeper_descriptors + SPARE_DESCRIPTORS
            && self.memory <= before.memory + SPARE_MEMORY
            && self.watches <= before.watches + SPARE_WATCHES
    }

    /// Waits until a view uses no more than before.
    #[track_caller]
    pub(crate) fn settles(view: &LiveView, before: &Self) {
        let mut last = *before;
        let is_level = comes_true(SETTLE_TIMEOUT, || {
            last = Self::of(view);
            last.is_level_with(before)
        });
        let more = || [opened(view), mapped(view)].join("\n");
        assert!(is_level, "before the load {before:?}\nafter it {last:?}\n{}", more());
    }
}

fn descriptors(process: Pid) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The memory of a process in KiB, where what it shares with others counts in part.
fn memory(process: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn watches(process: Pid, descriptor: &str) -> usize {
    let text = fs::read_to_string(format!("/proc/{process}/fdinfo/{descriptor}")).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("inotify wd:")).count()
}

/// What a view's processes have open, for the message of a failure.
fn opened(view: &LiveView) -> String {
    let ViewProcesses { keeper, server } = view.when_live();
    let of = |process: Pid| {
        let link = |fd: &String| fs::read_link(format!("/proc/{process}/fd/{fd}")).unwrap_or_default();
        let all: Vec<String> = descriptors(process).iter().map(|fd| link(fd).display().to_string()).collect();
        format!("{process}: {}", all.join(" "))
    };
    keeper.into_iter().chain([server]).map(of).collect::<Vec<_>>().join("\n")
}

/// The largest mappings of a view's processes, for the message of a failure.
fn mapped(view: &LiveView) -> String {
    let ViewProcesses { keeper, server } = view.when_live();
    let of = |process: Pid| {
        let text = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap_or_default();
        let (mut mappings, mut name) = (Vec::new(), "");
        for line in text.lines() {
            match line.strip_prefix("Pss:").and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok()) {
                Some(size) => mappings.push((size, name)),
                None if line.split(' ').next().is_some_and(|range| range.contains('-')) => name = line,
                None => {}
            }
        }
        mappings.sort_unstable_by(|one, other| other.cmp(one));
        let largest = mappings.iter().take(6).map(|(size, name)| format!("{size} KiB {name}"));
        format!("{process}: {}", largest.collect::<Vec<_>>().join("; "))
    };
    keeper.into_iter().chain([server]).map(of).collect::<Vec<_>>().join("\n")
}
