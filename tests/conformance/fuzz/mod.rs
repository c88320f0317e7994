//! Random sequences of operations on the kernel's cgroupfs and on a view, every outcome compared, and in the end the whole tree.
//!
//! ```text
//! VCGROUPFS_FUZZ_OPERATIONS=100000 cargo test --release --test conformance fuzz -- --nocapture
//! VCGROUPFS_FUZZ_SEED=7 VCGROUPFS_FUZZ_SEQUENCE=12 cargo test --test conformance fuzz::view::pids
//! ```
//!
//! `VCGROUPFS_FUZZ_OPERATIONS` is for each hierarchy, with and without files passed through, and is shared out among callers and seeds.
//! Without a seed these are two fixed ones, and, where the number of operations is given, one that is new each time. After `VCGROUPFS_FUZZ_DIFFERENCES` a run is over.
//!
//! A difference is told with the shortest sequence that still shows it, whose lines are a script for `vcgroupfs-probe`. It's a bug, or one
//! of the rows of `differences`; in either case it becomes a case of the table (`table::found`).
//!
//! What is asked is what the policy allows below the boundary: rejections are the business of `tests/containment`.

mod generate;
mod normal;
mod pools;
mod twins;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use testkit::probe::{Op, Outcome};
use testkit::{Caller, Need, Random, TestCgroup, View, ViewOptions, hierarchy, require};

use self::generate::{Setting, Step};
use self::normal::{Normal, is_list};
use self::twins::Twin;
use crate::case::Where;
use crate::differences::{Seen, is_explained, passes_through};
use crate::{options, told};

/// Who runs the sequences, and whether from inside a pid namespace.
const CALLERS: &[(Caller, bool)] =
    &[(Caller::Root, true), (Caller::Owner, true), (Caller::DockerRoot, true), (Caller::Root, false)];

/// Operations per hierarchy when nobody says otherwise.
const OPERATIONS: usize = 3000;

/// Seeds that are always run.
const SEEDS: &[u64] = &[1, 2];

/// For how long a v1 hierarchy keeps a list of processes that was read, and goes on with it (`CGROUP_PIDLIST_DESTROY_DELAY`). When that ends in
/// the middle of a sequence, on a machine that does much else, is chance.
const LIST_KEPT: Duration = Duration::from_secs(1);

/// After so many differences a run is over.
const ENOUGH: u64 = 8;

struct Pair {
    setting: Setting,
    passed_through: bool,
    kernel: Twin,
    view: Twin,
    made: usize,
}

/// An operation of a sequence whose outcomes differ.
#[derive(Debug)]
struct Found {
    /// The step that it belongs to.
    step: usize,
    op: Op,
    kernel: Outcome,
    view: Outcome,
}

impl Pair {
    fn new(setting: Setting, legacy: bool) -> Self {
        // The kernel beside it makes lists when they're read.
        Self::with(setting, legacy, |cgroup| {
            let options = options(setting.place, cgroup).without_later_calls(legacy);
            View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options)
        })
    }

    fn with(setting: Setting, legacy: bool, mount: impl FnOnce(&TestCgroup) -> View) -> Self {
        let hierarchy = hierarchy(setting.place.selector()).expect("the hierarchy that was required");
        let kernel = Twin::new(setting, |_| None);
        let view = Twin::new(setting, |cgroup| {
            let view = mount(cgroup);
            let path = view.hierarchy(&hierarchy);
            Some((view, path))
        });
        Self { setting, passed_through: !legacy && passes_through(), kernel, view, made: 0 }
    }

    /// Runs a sequence on both, and returns the first difference that isn't known.
    fn run(&mut self, steps: &[Step], counts: &mut BTreeMap<String, [usize; 2]>) -> Option<Found> {
        self.made += 1;
        let name = format!("s{}", self.made);
        let ops: Vec<Op> = steps.iter().flatten().cloned().collect();
        let begun = Instant::now();
        self.kernel.begin(&name, &ops);
        self.view.begin(&name, &ops);
        let (left, right) = (self.kernel.finish(&name, &ops), self.view.finish(&name, &ops));
        let lists_are_chance = self.setting.place != Where::V2 && begun.elapsed() >= LIST_KEPT;
        let normal =
            |twin: &Twin| Normal::new(self.setting.place, twin.top(), self.setting.pid_namespace, twin.numbers());
        let (mut left_normal, mut right_normal) = (normal(&self.kernel), normal(&self.view));
        let step_of = steps.iter().enumerate().flat_map(|(number, step)| vec![number; step.len()]);
        for (((op, left), right), step) in ops.iter().zip(left).zip(right).zip(step_of) {
            let file = left_normal.file(op);
            let kernel = left_normal.normalise(op, left);
            let view = right_normal.normalise(op, right);
            let count = counts.entry(kind(op)).or_default();
            count[usize::from(!kernel.is_ok())] += 1;
            let seen = Seen { op, file: &file, kernel: &kernel, view: &view };
            let is_chance = lists_are_chance && is_list(&file);
            if kernel != view && !is_chance && !is_explained(&seen, self.passed_through) {
                let (kernel, view) = only_different(kernel, view);
                return Some(Found { step, op: op.clone(), kernel, view });
            }
        }
        None
    }

    fn differs(&mut self, steps: &[Step]) -> Option<Found> {
        self.run(steps, &mut BTreeMap::new())
    }

    /// Leaves out what a difference doesn't need.
    fn minimise(&mut self, mut steps: Vec<Step>, mut found: Found) -> (Vec<Step>, Found) {
        steps.truncate(found.step + 1);
        let mut size = steps.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + size).min(steps.len()));
                match self.differs(&fewer) {
                    Some(still) => {
                        fewer.truncate(still.step + 1);
                        (steps, found) = (fewer, still);
                    }
                    None => at += size,
                }
            }
            size /= 2;
        }
        (steps, found)
    }
}

/// The name of an operation's system call.
fn kind(op: &Op) -> String {
    let text = format!("{op:?}");
    text.split(' ').next().unwrap_or_default().into()
}

fn report(seed: u64, number: u64, setting: Setting, steps: &[Step], found: &Found, again: bool) -> String {
    let lines: Vec<String> =
        steps.iter().flatten().map(|op| serde_json::to_string(op).expect("an operation has a JSON form")).collect();
    format!(
        "VCGROUPFS_FUZZ_SEED={seed} VCGROUPFS_FUZZ_SEQUENCE={number}: {:?} in {:?}, pid namespace {}, operation {} {:?}{}\n    \
         kernel {}\n    view   {}\n    {}",
        setting.caller,
        setting.place,
        setting.pid_namespace,
        found.step,
        found.op,
        if again { "" } else { " (not the second time)" },
        told(&found.kernel),
        told(&found.view),
        lines.join("\n    "),
    )
}

/// Of two trees, what differs.
fn only_different(kernel: Outcome, view: Outcome) -> (Outcome, Outcome) {
    let (Outcome::Ok(Value::Object(mut left)), Outcome::Ok(Value::Object(mut right))) = (kernel.clone(), view.clone())
    else {
        return (kernel, view);
    };
    let same: Vec<String> =
        left.iter().filter(|(key, value)| right.get(*key) == Some(value)).map(|(key, _)| key.clone()).collect();
    for key in same {
        left.remove(&key);
        right.remove(&key);
    }
    (Outcome::Ok(left.into()), Outcome::Ok(right.into()))
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = variable("VCGROUPFS_FUZZ_SEED") {
        return vec![seed];
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    let new =
        Random::new(now.as_secs() ^ u64::from(now.subsec_nanos()), u64::from(std::process::id())).next_u64() >> 32;
    // A long run looks for what is new; a short one, that what is known stays mended.
    let is_long = variable("VCGROUPFS_FUZZ_OPERATIONS").is_some();
    SEEDS.iter().copied().chain(is_long.then_some(new)).collect()
}

fn fuzz(place: Where, legacy: bool) {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(place.selector()));
    if legacy {
        require!(Need::LegacySyscalls);
    }
    let seeds = seeds();
    let only = variable("VCGROUPFS_FUZZ_SEQUENCE");
    let total = variable("VCGROUPFS_FUZZ_OPERATIONS")
        .map_or(OPERATIONS, |number| usize::try_from(number).unwrap_or(usize::MAX));
    let share = total / CALLERS.len() / seeds.len();
    println!("seeds {seeds:?}");
    let begun = Instant::now();
    let mut counts = BTreeMap::new();
    let mut reports = Vec::new();
    let mut done = 0;
    'all: for (caller, pid_namespace) in CALLERS.iter().copied() {
        let setting = Setting { place, caller, pid_namespace };
        let mut pair = Pair::new(setting, legacy);
        for seed in &seeds {
            let mut count = 0;
            for number in only.map_or(0..=u64::MAX, |only| only..=only) {
                if count >= share {
                    break;
                }
                let steps = generate::sequence(setting, *seed, number);
                count += steps.len();
                let Some(found) = pair.run(&steps, &mut counts) else {
                    continue;
                };
                let again = pair.differs(&steps);
                let reproduced = again.is_some();
                let (fewer, found) = match again {
                    Some(again) => pair.minimise(steps, again),
                    None => (steps[..=found.step].to_vec(), found),
                };
                let report = report(*seed, number, setting, &fewer, &found, reproduced);
                // What happens only once may come of something that the server has noticed.
                let report = if reproduced { report } else { format!("{report}\n    {}", pair.view.log()) };
                println!("{report}");
                reports.push(report);
                if reports.len() as u64 >= variable("VCGROUPFS_FUZZ_DIFFERENCES").unwrap_or(ENOUGH) {
                    break 'all;
                }
            }
            done += count;
        }
    }
    println!("{place:?}: {done} operations in {:?}; succeeded, failed: {counts:?}", begun.elapsed());
    assert!(reports.is_empty(), "{} differences:\n{}", reports.len(), reports.join("\n"));
}

macro_rules! places {
    ($($name:ident: $place:ident),+ $(,)?) => {
        mod view {
            $(#[test] fn $name() { super::fuzz(crate::case::Where::$place, false); })+
        }
        mod view_on_an_old_kernel {
            $(#[test] fn $name() { super::fuzz(crate::case::Where::$place, true); })+
        }
    };
}

places! { v2: V2, pids: Pids, freezer: Freezer, cpuset: Cpuset, systemd: Systemd }

/// A view that rejects what the kernel does is found out, and by few operations.
#[test]
fn a_wrong_view_is_found() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("unified"));
    let setting = Setting { place: Where::V2, caller: Caller::Root, pid_namespace: true };
    let mut pair = Pair::with(setting, false, |cgroup| {
        // Without `delegate`, nobody may write `cpu.stat`, and root may open it on the kernel.
        let options = ViewOptions::new().cgroup(cgroup).shape("rooted").policy("strict");
        View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options)
    });
    // Where cgroups have controllers, any tree differs, by the modes of their files.
    let is_tree = |step: &Step| step.iter().any(|op| matches!(op, Op::Tree { .. }));
    let sequence = |number| generate::sequence(setting, 1, number).into_iter().filter(|step| !is_tree(step)).collect();
    let mut sequences = (0..50).map(sequence);
    let found = sequences.find_map(|steps: Vec<Step>| pair.differs(&steps).map(|found| (steps, found)));
    let (steps, found) = found.expect("a difference in 50 sequences");
    let (fewer, found) = pair.minimise(steps, found);
    assert!(fewer.len() <= 4, "{}", report(1, 0, setting, &fewer, &found, true));
    assert_eq!(found.view.errno(), Some("EACCES"), "{found:?}");
}

/// What a sequence is depends on nothing but the seed.
#[test]
fn sequences_are_repeatable() {
    let setting = Setting { place: Where::Pids, caller: Caller::Owner, pid_namespace: true };
    let of = |seed, number| generate::sequence(setting, seed, number);
    assert_eq!(of(1, 5), of(1, 5));
    assert_ne!(of(1, 5), of(1, 6));
    assert_ne!(of(1, 5), of(2, 5));
}
