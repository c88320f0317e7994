//! The report against a model of the kernel, over random trees of cgroups.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::amount::Amount;
use super::cgroup::HostFiles;
use super::report::{Machine, report};
use super::row::{Resource, Row, State};
use crate::cgroup::{CgroupPath, HierarchyKind, parse_memberships};

const PAGE: u64 = 4096;
const CPUS: u64 = 8;
const NO_LIMIT_OF_V1: u64 = i64::MAX as u64 & !(PAGE - 1);

/// Files by `HIERARCHY:PATH FILE`, and the cgroups that exist.
#[derive(Clone, Debug, Default)]
struct Fake {
    files: BTreeMap<String, String>,
    unreadable: Vec<String>,
    cgroups: Vec<String>,
}

impl HostFiles for Fake {
    fn read(&self, kind: &HierarchyKind, path: &CgroupPath, file: &str) -> Option<String> {
        self.files.get(&format!("{kind}:{path} {file}")).cloned()
    }

    fn exists(&self, kind: &HierarchyKind, path: &CgroupPath, file: Option<&str>) -> bool {
        let cgroup = format!("{kind}:{path}");
        match file {
            None => self.cgroups.contains(&cgroup),
            Some(file) => {
                let name = format!("{cgroup} {file}");
                self.files.contains_key(&name) || self.unreadable.contains(&name)
            }
        }
    }
}

/// One cgroup's settings. Numbers of pages, processes and so on are small, so that they can be counted.
#[derive(Clone, Debug)]
struct Node {
    memory: Option<u64>,
    high: Option<u64>,
    /// On v1 this much more for memory and swap.
    swap: Option<u64>,
    pids: Option<u64>,
    huge: Option<u64>,
    /// In milliseconds of 10, 50 or 100.
    quota: Option<(u64, u64)>,
    rate: Option<u64>,
    /// What others use here.
    others: u64,
    use_hierarchy: bool,
    /// Its CPUs are the first of its parent's.
    cpus: u64,
    has_controllers: bool,
}

fn node() -> impl Strategy<Value = Node> {
    let small = || prop_oneof![Just(None), (0..30_u64).prop_map(Some)];
    let quota = prop_oneof![
        Just(None),
        (1..200_u64, prop::sample::select(vec![10_u64, 50, 100])).prop_map(|(quota, period)| Some((quota, period)))
    ];
    let limits = (small(), small(), small(), small(), small(), small(), quota);
    (limits, 0..5_u64, any::<bool>(), 1..=CPUS, prop::bool::weighted(0.9)).prop_map(
        |((memory, high, swap, pids, huge, rate, quota), others, use_hierarchy, cpus, has_controllers)| Node {
            memory,
            high,
            swap,
            pids,
            huge,
            quota,
            rate,
            others,
            use_hierarchy,
            cpus,
            has_controllers,
        },
    )
}

/// The cgroups from below the root down to the own one.
fn tree() -> impl Strategy<Value = Vec<Node>> {
    prop::collection::vec(node(), 1..6)
}

/// A tree as the kernel shows it.
struct Kernel {
    nodes: Vec<Node>,
    is_v2: bool,
}

impl Kernel {
    fn path(&self, index: usize) -> String {
        (0..=index).map(|number| format!("/c{number}")).collect()
    }

    /// The CPUs of a cgroup: the least on the way from the root.
    fn cpus(&self, index: usize) -> u64 {
        self.nodes[..=index].iter().map(|node| node.cpus).min().unwrap()
    }

    fn files(&self) -> Fake {
        let mut fake = Fake::default();
        let names: &[&str] =
            if self.is_v2 { &["unified"] } else { &["memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "hugetlb"] };
        fake.cgroups.extend(names.iter().map(|name| format!("{name}:/")));
        for (index, node) in self.nodes.iter().enumerate() {
            let path = self.path(index);
            fake.cgroups.extend(names.iter().map(|name| format!("{name}:{path}")));
            let mut set = |hierarchy: &str, file: &str, text: String| {
                let hierarchy = if self.is_v2 { "unified" } else { hierarchy };
                fake.files.insert(format!("{hierarchy}:{path} {file}"), text + "\n");
            };
            let or_max = |number: Option<u64>| number.map_or_else(|| "max".to_owned(), |number| number.to_string());
            let bytes = |pages: Option<u64>| pages.map(|pages| pages * PAGE);
            let usage = (node.others * PAGE).to_string();
            let all = format!("0-{}", self.cpus(index) - 1);
            if self.is_v2 {
                set("", "cgroup.procs", String::new());
                if !node.has_controllers {
                    continue;
                }
                set("", "memory.max", or_max(bytes(node.memory)));
                set("", "memory.high", or_max(bytes(node.high)));
                set("", "memory.current", usage.clone());
                set("", "memory.swap.max", or_max(bytes(node.swap)));
                set("", "memory.swap.current", usage.clone());
                set("", "memory.events", format!("low 0\nhigh {index}\nmax 1\noom 2\noom_kill 3\noom_group_kill 0"));
                set("", "hugetlb.2MB.max", or_max(bytes(node.huge)));
                set("", "hugetlb.2MB.current", usage);
                set("", "cpuset.cpus.effective", all);
                let quota = node.quota.map(|(quota, period)| (quota * 1000, period * 1000));
                let (quota, period) = quota.map_or((None, 100_000), |(quota, period)| (Some(quota), period));
                set("", "cpu.max", format!("{} {period}", or_max(quota)));
                let rate = node.rate.map(|rate| format!("8:16 rbps={rate} wbps=max riops=max wiops=max"));
                set("", "io.max", rate.unwrap_or_default());
            } else {
                let limit = |pages: Option<u64>| bytes(pages).unwrap_or(NO_LIMIT_OF_V1).to_string();
                let both = node.swap.zip(node.memory).map(|(swap, memory)| swap + memory);
                set("memory", "memory.limit_in_bytes", limit(node.memory));
                set("memory", "memory.memsw.limit_in_bytes", limit(both));
                set("memory", "memory.usage_in_bytes", usage.clone());
                set("memory", "memory.memsw.usage_in_bytes", usage.clone());
                set("memory", "memory.use_hierarchy", u8::from(node.use_hierarchy).to_string());
                set("memory", "memory.failcnt", "1".to_owned());
                set("memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3".to_owned());
                set("hugetlb", "hugetlb.2MB.limit_in_bytes", limit(node.huge));
                set("hugetlb", "hugetlb.2MB.usage_in_bytes", usage);
                set("cpuset", "cpuset.effective_cpus", all.clone());
                set("cpuset", "cpuset.cpus", all);
                let (quota, period) = node.quota.map_or((-1, 100), |(quota, period)| (quota as i64 * 1000, period));
                set("cpu", "cpu.cfs_quota_us", quota.to_string());
                set("cpu", "cpu.cfs_period_us", (period * 1000).to_string());
                let rate = node.rate.map(|rate| format!("8:16 {rate}"));
                set("blkio", "blkio.throttle.read_bps_device", rate.unwrap_or_default());
            }
            set("pids", "pids.max", or_max(node.pids));
            set("pids", "pids.current", node.others.to_string());
        }
        fake
    }

    fn memberships(&self) -> String {
        let own = self.path(self.nodes.len() - 1);
        if self.is_v2 {
            return format!("0::{own}\n");
        }
        let names = ["memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "hugetlb"];
        names.iter().enumerate().map(|(id, name)| format!("{}:{name}:{own}\n", id + 1)).collect()
    }

    fn rows(&self) -> Vec<Row> {
        let machine = Machine {
            online: format!("0-{}", CPUS - 1),
            affinity: format!("0-{}", self.cpus(self.nodes.len() - 1) - 1),
            memory: 1 << 40,
            swap: 0,
            huge_page_sizes: vec!["2MB".to_owned()],
        };
        report(&self.files(), &parse_memberships(self.memberships().as_bytes()), &machine)
    }

    /// Charges one after another to the own cgroup and to all that count it, as the kernel does, until it's refused. Says how many
    /// were granted, `None` for any number.
    fn charges(&self, limit: impl Fn(&Node) -> Option<u64>, with_others: bool, is_memory: bool) -> Option<u64> {
        let mut counters: Vec<u64> = self.nodes.iter().map(|node| if with_others { node.others } else { 0 }).collect();
        for granted in 0..100 {
            let mut index = self.nodes.len();
            loop {
                index -= 1;
                let is_counted = !self.is_v2 || self.nodes[index].has_controllers;
                if is_counted && limit(&self.nodes[index]).is_some_and(|limit| counters[index] + 1 > limit) {
                    return Some(granted);
                }
                counters[index] += 1;
                let is_passed_on = index > 0 && (self.is_v2 || !is_memory || self.nodes[index - 1].use_hierarchy);
                if !is_passed_on {
                    break;
                }
            }
        }
        None
    }
}

fn row(rows: &[Row], resource: Resource) -> &Row {
    rows.iter().find(|row| row.resource == resource).unwrap_or_else(|| panic!("no {resource:?}"))
}

fn effective(rows: &[Row], resource: Resource) -> Option<u64> {
    row(rows, resource).effective.as_ref().and_then(|limit| limit.value.number())
}

fn left(rows: &[Row], resource: Resource) -> Option<u64> {
    row(rows, resource).left.as_ref().map(|left| left.value)
}

/// How much is granted where the limits of memory and swap are both charged.
fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

proptest! {
    #[test]
    fn effective_limits_are_where_the_kernel_refuses(nodes in tree(), is_v2: bool) {
        let kernel = Kernel { nodes, is_v2 };
        let rows = kernel.rows();
        let bytes = |pages: Option<u64>| pages.map(|pages| pages * PAGE);
        prop_assert_eq!(effective(&rows, Resource::Memory), bytes(kernel.charges(|node| node.memory, false, true)));
        // What others leave can be less than any limit, but each cgroup with a limit is asked.
        let granted = kernel.charges(|node| node.memory, true, true);
        prop_assert_eq!(left(&rows, Resource::Memory), bytes(granted));
        prop_assert_eq!(effective(&rows, Resource::Pids), kernel.charges(|node| node.pids, false, false));
        prop_assert_eq!(left(&rows, Resource::Pids), kernel.charges(|node| node.pids, true, false));
        prop_assert_eq!(effective(&rows, Resource::Hugetlb), bytes(kernel.charges(|node| node.huge, false, false)));
        if is_v2 {
            prop_assert_eq!(effective(&rows, Resource::MemoryHigh), bytes(kernel.charges(|node| node.high, false, true)));
            prop_assert_eq!(effective(&rows, Resource::Swap), bytes(kernel.charges(|node| node.swap, false, true)));
        } else {
            let both = |node: &Node| node.swap.zip(node.memory).map(|(swap, memory)| swap + memory);
            let both = kernel.charges(both, false, true);
            prop_assert_eq!(effective(&rows, Resource::MemoryAndSwap), bytes(both));
            // Of what both allow, memory takes as much as it may, and swap has the rest.
            let memory = least(kernel.charges(|node| node.memory, false, true), both);
            let swap = both.zip(memory).map(|(both, memory)| both - memory);
            prop_assert_eq!(effective(&rows, Resource::Swap), bytes(swap));
        }
    }

    #[test]
    fn the_nearest_of_the_tightest_sets_a_limit(nodes in tree(), is_v2: bool) {
        let kernel = Kernel { nodes, is_v2 };
        for row in kernel.rows() {
            let Some(limit) = &row.effective else { continue };
            if row.resource == Resource::Cpus || (row.resource == Resource::Swap && !is_v2) {
                continue;
            }
            let setter = row.levels.iter().position(|level| level.name() == limit.by).expect("one of the levels");
            for (index, level) in row.levels.iter().enumerate().filter(|(_, level)| level.binds) {
                let Some(other) = &level.limit else { continue };
                prop_assert!(!other.is_tighter_than(&limit.value), "{:?}", row);
                prop_assert!(index >= setter || limit.value.is_tighter_than(other), "{:?}", row);
            }
            prop_assert!(row.events.iter().all(|event| {
                event.cgroup == row.levels[0].cgroup || event.cgroup == row.levels[setter].cgroup
            }), "{:?}", row);
        }
    }

    #[test]
    fn cpus_and_rates(nodes in tree(), is_v2: bool) {
        let kernel = Kernel { nodes, is_v2 };
        let rows = kernel.rows();
        let counted = || kernel.nodes.iter().filter(|node| !is_v2 || node.has_controllers);
        // In 100 ms a cgroup gets so many microseconds; the shares are exact, as all periods divide that.
        let in_a_while = |quota: u64, period: u64| quota * (100_000 / period);
        let least = counted().filter_map(|node| node.quota).map(|(quota, period)| in_a_while(quota * 1000, period * 1000)).min();
        let found = row(&rows, Resource::CpuTime).effective.as_ref().map(|limit| match limit.value {
            Amount::Quota { quota, period } => in_a_while(quota, period),
            _ => panic!("{limit:?}"),
        });
        prop_assert_eq!(found, least);
        // From the root down: who takes away the last CPU sets the limit.
        let (mut cpus, mut setter) = (CPUS, None);
        for index in 0..kernel.nodes.len() {
            if kernel.cpus(index) < cpus && (!is_v2 || kernel.nodes[index].has_controllers) {
                cpus = kernel.cpus(index);
                setter = Some(kernel.path(index));
            }
        }
        let found = row(&rows, Resource::Cpus).effective.as_ref();
        let all_have_controllers = counted().count() == kernel.nodes.len();
        if all_have_controllers {
            prop_assert_eq!(found.map_or(CPUS, |limit| limit.value.number().unwrap()), cpus);
            let file = if is_v2 { "cpuset.cpus.effective" } else { "cpuset.effective_cpus" };
            let hierarchy = if is_v2 { "unified" } else { "cpuset" };
            prop_assert_eq!(found.map(|limit| limit.by.clone()), setter.map(|path| format!("{hierarchy}:{path}/{file}")));
        }
        // v1 throttles by the own cgroup alone.
        let own = kernel.nodes.last().unwrap();
        let rate = if is_v2 { counted().filter_map(|node| node.rate).min() } else { own.rate };
        prop_assert_eq!(effective(&rows, Resource::Io), rate);
    }

    /// Whatever files there are, and whatever is in them.
    #[test]
    fn nothing_panics(
        nodes in tree(),
        is_v2: bool,
        texts in prop::collection::vec((any::<prop::sample::Index>(), "(max|-1|[0-9]{1,22}|[0-9]+:[0-9]+ |rbps=|\\PC|\n| ){0,6}"), 0..12),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        unreadable in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        memberships in prop_oneof![Just(None), "(0::|[0-9]:[a-z,]{0,9}:)(/[a-z.]{0,4}){0,3}\n".prop_map(Some)],
        online in "([0-9]{1,20}|-|,){0,5}",
    ) {
        let kernel = Kernel { nodes, is_v2 };
        let mut files = kernel.files();
        let names: Vec<String> = files.files.keys().cloned().collect();
        for (index, text) in texts {
            files.files.insert(index.get(&names).clone(), text);
        }
        for index in lost {
            files.files.remove(index.get(&names));
        }
        for index in unreadable {
            files.files.remove(index.get(&names));
            files.unreadable.push(index.get(&names).clone());
        }
        let text = memberships.unwrap_or_else(|| kernel.memberships());
        let machine = Machine { online, huge_page_sizes: vec!["2MB".to_owned()], ..Machine::default() };
        let rows = report(&files, &parse_memberships(text.as_bytes()), &machine);
        for row in &rows {
            if let Some(limit) = &row.effective {
                prop_assert!(row.levels.iter().all(|level| {
                    !level.binds || level.limit.as_ref().is_none_or(|other| row.resource == Resource::Cpus || !other.is_tighter_than(&limit.value))
                }), "{:?}", row);
            }
        }
        prop_assert!(serde_json::to_string(&rows).is_ok());
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    let kernel = Kernel { nodes: Vec::new(), is_v2: true };
    let mut files = kernel.files();
    files.cgroups.extend(["unified:/a".to_owned(), "unified:/a/b".to_owned()]);
    files.files.insert("unified:/a/b/c memory.max".to_owned(), "4096\n".to_owned());
    files.files.insert("unified:/a/b memory.max".to_owned(), "lots\n".to_owned());
    files.unreadable.push("unified:/a memory.max".to_owned());
    files.cgroups.push("unified:/a/b/c".to_owned());
    files.cgroups.retain(|cgroup| cgroup != "unified:/");
    let rows = report(&files, &parse_memberships(b"0::/a/b/c\n"), &Machine::default());
    let memory = row(&rows, Resource::Memory);
    let states: Vec<State> = memory.levels.iter().map(|level| level.state).collect();
    assert_eq!(states, [State::Limited, State::Malformed, State::Unreadable, State::Hidden]);
    assert!(memory.is_incomplete() && memory.notes.len() == 3, "{memory:?}");
    assert_eq!(memory.effective.as_ref().map(|limit| limit.by.as_str()), Some("unified:/a/b/c/memory.max"));
    let nowhere = report(&files, &parse_memberships(b"1:name=x:/\n"), &Machine::default());
    assert!(nowhere.iter().all(|row| row.effective.is_none() && !row.notes.is_empty()), "{nowhere:?}");
}

/// `sched_setaffinity` can leave a process less than its cpuset.
#[test]
fn a_process_can_limit_itself() {
    let mut files = Fake::default();
    files.files.insert("unified:/a cpuset.cpus.effective".to_owned(), "0-3\n".to_owned());
    files.files.insert("unified:/ cpuset.cpus.effective".to_owned(), "0-7\n".to_owned());
    let of = |affinity: &str| {
        let machine = Machine { online: "0-7".to_owned(), affinity: affinity.to_owned(), ..Machine::default() };
        let rows = report(&files, &parse_memberships(b"0::/a\n"), &machine);
        let limit = row(&rows, Resource::Cpus).effective.clone().expect("a limit");
        (limit.value.number(), limit.by)
    };
    assert_eq!(of("0-3"), (Some(4), "unified:/a/cpuset.cpus.effective".to_owned()));
    assert_eq!(of("1,2"), (Some(2), "sched_setaffinity".to_owned()));
}
