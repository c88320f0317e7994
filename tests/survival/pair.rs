//! Two processes that do the same: one by a view, the other one on the kernel's own cgroupfs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::Session;
use testkit::probe::{Op, Outcome};

use crate::normal::Normal;
use crate::scene::{Kind, Place};
use crate::steps::{self, Setting};

/// After this time an operation counts as hung.
const HANG_TIMEOUT: Duration = Duration::from_secs(20);

/// How many operations a report shows.
const SHOWN: usize = 12;

/// One of the two.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) session: Session,
    /// The path of its cgroup in the hierarchy.
    pub(crate) path: String,
    /// Where the process finds its cgroup.
    pub(crate) top: PathBuf,
    /// Where the host has it.
    pub(crate) real: PathBuf,
}

/// A process that uses a view, and its twin.
#[derive(Debug)]
pub(crate) struct Pair {
    setting: Setting,
    kind: Kind,
    kernel: Side,
    view: Side,
    /// The number of the next sequence.
    next: u64,
    pub(crate) statistics: Statistics,
}

/// What a pair has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    pub(crate) operations: usize,
    /// The longest that a sequence took on the view.
    pub(crate) longest: Duration,
}

impl Pair {
    pub(crate) fn new(setting: Setting, kind: Kind, kernel: Side, view: Side) -> Self {
        let statistics = Statistics::default();
        Self { setting, kind, kernel, view, next: 0, statistics }
    }

    /// Does a sequence of operations on both sides, and compares.
    ///
    /// # Errors
    /// Describes the first difference, or who hangs.
    pub(crate) fn run(&mut self, seed: u64) -> Result<(), String> {
        let number = self.next;
        self.next += 1;
        let stream = number << 8 | (self.setting.place as u64) << 4 | self.kind as u64;
        let ops = steps::sequence(self.setting, seed, stream);
        let name = format!("s{number}");
        let kernel_ops = self.kernel.begin(self.setting.place, &name, &ops);
        let view_ops = self.view.begin(self.setting.place, &name, &ops);
        let begun = Instant::now();
        let what =
            |side: &str| format!("{:?} {:?}, seed {seed}, sequence {number}: {side}", self.setting.place, self.kind);
        let view = self.view.session.finish_within(&view_ops, 2 * HANG_TIMEOUT);
        let view = view.map_err(|error| format!("{} {error}", what("the view has")))?;
        let took = begun.elapsed();
        let kernel = self.kernel.session.finish_within(&kernel_ops, 2 * HANG_TIMEOUT);
        let kernel = kernel.map_err(|error| format!("{} {error}", what("the kernel has")))?;
        self.statistics.longest = self.statistics.longest.max(took);
        self.statistics.operations += ops.len();
        // The first one is what prepares the process.
        self.compare(&view_ops, kernel, view).map_err(|difference| what(&difference))?;
        if took > HANG_TIMEOUT {
            return Err(what(&format!("the sequence took {took:?} on the view")));
        }
        for side in [&self.kernel, &self.view] {
            let left = side.real.join(&name);
            if left.exists() {
                return Err(what(&format!("{} is still there", left.display())));
            }
        }
        Ok(())
    }

    fn compare(&self, ops: &[Op], kernel: Vec<Outcome>, view: Vec<Outcome>) -> Result<(), String> {
        let normal = |side: &Side| Normal::new(self.setting.place, side.path.clone());
        let (mut left, mut right) = (normal(&self.kernel), normal(&self.view));
        for (number, ((op, kernel), seen)) in ops.iter().zip(kernel).zip(&view).enumerate() {
            if matches!(op, Op::Reset { .. }) {
                continue;
            }
            let (kernel, view_normal) = (left.of(op, kernel), right.of(op, seen.clone()));
            if kernel == view_normal {
                continue;
            }
            let (kernel, view_normal) = only_different(kernel, view_normal);
            let first = (number + 1).saturating_sub(SHOWN);
            let before = ops.iter().zip(&view).take(number + 1).skip(first);
            let before: Vec<String> = before.map(|(op, outcome)| format!("    {op:?}: {}", told(outcome))).collect();
            return Err(format!(
                "operation {number}\n{}\n  kernel {}\n  view   {}",
                before.join("\n"),
                told(&kernel),
                told(&view_normal)
            ));
        }
        Ok(())
    }
}

impl Side {
    /// Has the process begin, after what makes it as at its start.
    fn begin(&mut self, place: Place, name: &str, ops: &[Op]) -> Vec<Op> {
        let set = |name: &str, value: PathBuf| (name.to_owned(), value.display().to_string());
        let mut variables = vec![
            set("HOME", self.top.join(place.home())),
            set("CG", self.top.join(name)),
            set("REAL", self.real.join(name)),
        ];
        variables.extend(["C0", "C1"].map(|child| (child.to_owned(), "none".to_owned())));
        let mut all = vec![Op::Reset { set: variables }];
        all.extend_from_slice(ops);
        self.session.begin(&all);
        all
    }
}

/// Of two trees, what differs.
fn only_different(mut kernel: Outcome, mut view: Outcome) -> (Outcome, Outcome) {
    if let (Outcome::Ok(Value::Object(left)), Outcome::Ok(Value::Object(right))) = (&mut kernel, &mut view) {
        let (all_left, all_right) = (left.clone(), right.clone());
        left.retain(|key, value| all_right.get(key) != Some(value));
        right.retain(|key, value| all_left.get(key) != Some(value));
    }
    (kernel, view)
}

fn told(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Ok(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    if text.chars().count() > 600 { text.chars().take(600).collect::<String>() + "..." } else { text }
}
