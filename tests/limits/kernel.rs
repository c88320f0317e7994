//! The effective limits are where the kernel stops a process.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use testkit::{Need, Random, require};

use crate::scene::{Branch, Consumer, TREES, consume, events, limits, require_controller, row, some_limits, tightest};

const MIB: u64 = 1 << 20;

/// What a process uses besides: its page tables, its stack, and what a CPU has charged in advance (64 pages for each).
const MARGIN: u64 = 4 * MIB;

/// Memory below the effective limit is granted, and memory beyond it costs the process its life.
#[test]
fn memory() {
    require!(Need::Root);
    let selector = require_controller!("memory");
    let machine = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let has_swap = !machine.lines().any(|line| line.split_whitespace().take(2).eq(["SwapTotal:", "0"]));
    for seed in 0..TREES {
        let mut random = Random::new(seed, 1);
        let branch = Branch::new(selector, "memory", 1 + random.below(4));
        let (file, swap) = if branch.is_v2() {
            ("memory.max", "memory.swap.max")
        } else {
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        };
        let all = some_limits(&mut random, branch.depth(), 16, 48);
        for (index, limit) in all.iter().enumerate() {
            let Some(bytes) = limit.map(|limit| limit * MIB) else { continue };
            branch.set(index, file, &bytes.to_string());
            // What doesn't fit into memory would go to swap.
            if has_swap && branch.dir(index).join(swap).exists() {
                branch.set(index, swap, &if branch.is_v2() { 0 } else { bytes }.to_string());
            }
        }
        let (setter, limit) = tightest(&all);
        let bytes = limit * MIB;
        let sleeper = Consumer::start(&[branch.own()], &["--sleep"]);
        let answer = limits(&[&sleeper.pid()]);
        let found = row(&answer, "memory");
        let context = format!("tree {seed}: {all:?}: {found}");
        let by = branch.name(setter, file);
        assert_eq!(
            (found["effective"]["value"].as_u64(), found["effective"]["by"].as_str()),
            (Some(bytes), Some(&*by)),
            "{context}"
        );
        assert_eq!(found["own"].as_u64(), all.last().and_then(|own| own.map(|own| own * MIB)), "{context}");
        if !branch.is_v2() {
            // The kernel has its own word for it.
            let stat = fs::read_to_string(branch.own().join("memory.stat")).expect("memory.stat");
            let line = format!("hierarchical_memory_limit {bytes}");
            assert!(stat.lines().any(|one| one == line), "{context}: {stat}");
        }
        let below = consume(&[branch.own()], &["--allocate", &(bytes - MARGIN).to_string()]);
        assert!(below.status.success(), "{context}: {below:?}");
        let beyond = consume(&[branch.own()], &["--allocate", &(bytes + MARGIN).to_string()]);
        assert_eq!(beyond.status.signal(), Some(Signal::SIGKILL as i32), "{context}: {beyond:?}");
        // Not the sleeper, which is smaller.
        let answer = limits(&[&sleeper.pid()]);
        let after = row(&answer, "memory");
        // v1 asks the limit of memory and swap first, where that is set, and Linux 6.18 counts nothing then.
        assert!(has_swap || events(after, "hit_limit", &by) > 0, "{context}: {after}");
        let own = branch.name(branch.depth() - 1, file);
        assert!(events(after, "oom_kill", &own) > 0, "{context}: {after}");
    }
}

/// As many processes are granted as are left, with others in the cgroups above, and not one more.
#[test]
fn processes() {
    require!(Need::Root);
    let selector = require_controller!("pids");
    for seed in 0..TREES {
        let mut random = Random::new(seed, 2);
        let branch = Branch::new(selector, "pids", 1 + random.below(4));
        let all = some_limits(&mut random, branch.depth(), 8, 30);
        for (index, limit) in all.iter().enumerate() {
            branch.set(index, "pids.max", &limit.map_or("max".to_owned(), |limit| limit.to_string()));
        }
        let others: Vec<Consumer> = branch
            .sibling()
            .map(|sibling| {
                (0..random.below(4)).map(|_| Consumer::start(std::slice::from_ref(&sibling), &["--sleep"])).collect()
            })
            .unwrap_or_default();
        let process = Consumer::start(&[branch.own()], &["--start-all"]);
        let answer = limits(&[&process.pid()]);
        let found = row(&answer, "pids");
        let context = format!("tree {seed}: {all:?}, {} others: {found}", others.len());
        let (setter, limit) = tightest(&all);
        let by = branch.name(setter, "pids.max");
        assert_eq!(
            (found["effective"]["value"].as_u64(), found["effective"]["by"].as_str()),
            (Some(limit), Some(&*by)),
            "{context}"
        );
        assert_eq!(found["used"], 1, "{context}");
        let left = found["left"]["value"].as_u64().expect(&context);
        assert_eq!(process.go().trim().parse(), Ok(left), "{context}");
        if others.is_empty() {
            assert_eq!(left, limit - 1, "{context}");
        }
    }
}

/// A process that wants all of a CPU gets no more than the quota, and is throttled by the cgroup that sets it.
#[test]
fn cpu_time() {
    require!(Need::Root);
    let selector = require_controller!("cpu");
    for seed in 0..TREES / 2 {
        let mut random = Random::new(seed, 3);
        let branch = Branch::new(selector, "cpu", 1 + random.below(4));
        // v1 refuses a cgroup more than the one above has.
        let mut all = some_limits(&mut random, branch.depth(), 5, 40);
        let mut least = u64::MAX;
        for limit in all.iter_mut().flatten() {
            *limit = (*limit).min(least);
            least = *limit;
        }
        for (index, percent) in all.iter().enumerate() {
            let Some(percent) = percent else { continue };
            // In periods of 20 ms, so that some pass.
            if branch.is_v2() {
                branch.set(index, "cpu.max", &format!("{} 20000", percent * 200));
            } else {
                branch.set(index, "cpu.cfs_period_us", "20000");
                branch.set(index, "cpu.cfs_quota_us", &(percent * 200).to_string());
            }
        }
        let (setter, percent) = tightest(&all);
        let sleeper = Consumer::start(&[branch.own()], &["--sleep"]);
        let answer = limits(&[&sleeper.pid()]);
        let found = row(&answer, "cpu_time");
        let context = format!("tree {seed}: {all:?}: {found}");
        let by = branch.name(setter, if branch.is_v2() { "cpu.max" } else { "cpu.cfs_quota_us" });
        let quota = serde_json::json!({"quota_us": percent * 200, "period_us": 20_000});
        assert_eq!(
            (&found["effective"]["value"], found["effective"]["by"].as_str()),
            (&quota, Some(&*by)),
            "{context}"
        );
        // On a busy machine it may not get its quota.
        testkit::wait_until("a throttled process", || {
            let output = consume(&[branch.own()], &["--compute", "700"]);
            let had: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("thousandths");
            // What each CPU took in advance (sched_cfs_bandwidth_slice_us, 5 ms) comes on top.
            assert!(had <= percent * 10 * 3 / 2 + 50, "{had} thousandths: {context}");
            let answer = limits(&[&sleeper.pid()]);
            let after = row(&answer, "cpu_time");
            events(after, "throttled", &by) > 0 && events(after, "throttled_us", &by) > 0
        });
    }
}

/// The CPUs of a cpuset, by the cgroup that takes the others away.
#[test]
fn cpus() {
    require!(Need::Root);
    let selector = require_controller!("cpuset");
    let branch = Branch::new(selector, "cpuset", 3);
    let online = fs::read_to_string("/sys/devices/system/cpu/online").expect("CPUs");
    if !online.contains(['-', ',']) {
        eprintln!("skipped: one CPU can't be divided");
        return;
    }
    for index in if branch.is_v2() { vec![1] } else { vec![2, 1] } {
        branch.set(index, "cpuset.cpus", "0");
    }
    let own = branch.own();
    let sleeper = Consumer::start(&[own], &["--sleep"]);
    let answer = limits(&[&sleeper.pid()]);
    let found = row(&answer, "cpus");
    let file = if branch.is_v2() { "cpuset.cpus.effective" } else { "cpuset.effective_cpus" };
    assert_eq!(found["effective"]["value"], serde_json::json!({"list": "0", "count": 1}), "{found}");
    assert_eq!(found["effective"]["by"].as_str(), Some(&*branch.name(1, file)), "{found}");
}
