//! The parts of which the table consists.

use serde_json::Value;
use testkit::probe::Op;

/// A hierarchy that the suite runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    V2,
    Pids,
    Freezer,
    Cpuset,
    Systemd,
    /// Only in the cases about what this controller alone has.
    Memory,
}

/// All hierarchies but memory.
pub(crate) const ALL: &[Where] = &[Where::V2, Where::Pids, Where::Freezer, Where::Cpuset, Where::Systemd];

/// Those of cgroup v1.
pub(crate) const V1: &[Where] = &[Where::Pids, Where::Freezer, Where::Cpuset, Where::Systemd];

/// The hierarchies in which a view allows renames.
pub(crate) const NAMED: &[Where] = &[Where::Systemd];

/// Those with a file that nobody may write.
pub(crate) const WITH_READ_ONLY: &[Where] = &[Where::V2, Where::Pids, Where::Freezer, Where::Cpuset];

impl Where {
    /// The hierarchy's name on the command line.
    pub(crate) fn selector(self) -> &'static str {
        match self {
            Self::V2 => "unified",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
            Self::Cpuset => "cpuset",
            Self::Systemd => "name=systemd",
            Self::Memory => "memory",
        }
    }

    /// The controllers that have to be delegated so that the hierarchy's files may be written.
    pub(crate) fn controllers(self) -> &'static [&'static str] {
        match self {
            Self::Pids => &["pids"],
            Self::Freezer => &["freezer"],
            Self::Cpuset => &["cpuset"],
            Self::Memory => &["memory"],
            Self::V2 | Self::Systemd => &[],
        }
    }

    /// The variables of the scripts: the list of threads, a file that nobody may write, a file with a value, its initial
    /// content, another value and the content that it makes.
    pub(crate) fn variables(self) -> [(&'static str, &'static str); 6] {
        let [tasks, read_only, file, initial, other, content] = match self {
            Self::V2 => ["cgroup.threads", "cgroup.events", "cgroup.max.depth", "max\n", "7", "7\n"],
            Self::Pids => ["tasks", "pids.current", "pids.max", "max\n", "77", "77\n"],
            Self::Freezer => ["tasks", "freezer.self_freezing", "freezer.state", "THAWED\n", "FROZEN", "FROZEN\n"],
            Self::Cpuset => ["tasks", "cpuset.effective_mems", "cpuset.memory_migrate", "0\n", "1", "1\n"],
            Self::Systemd => ["tasks", "", "notify_on_release", "0\n", "1", "1\n"],
            Self::Memory => ["tasks", "memory.usage_in_bytes", "memory.swappiness", "60\n", "7", "7\n"],
        };
        [
            ("TASKS", tasks),
            ("RO", read_only),
            ("FILE", file),
            ("INITIAL", initial),
            ("OTHER", other),
            ("CONTENT", content),
        ]
    }
}

/// What the kernel answers. A view has to answer the same as the kernel, whatever that is; this makes sure that the step
/// tests what it means to test.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// Success, with any value.
    Success,
    /// Success with this value.
    Value(Value),
    /// Success with this text, in which variables are replaced.
    Text(&'static str),
    /// This error.
    Errno(&'static str),
    /// It depends on the kernel or the machine.
    Whatever,
}

/// An operation of a case.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) id: &'static str,
    pub(crate) op: Op,
    pub(crate) expect: Expect,
}

/// Turns an operation into a step.
pub(crate) trait IntoStep: Sized {
    fn into_step(self) -> Step;

    /// The step succeeds.
    fn ok(self) -> Step {
        Step { expect: Expect::Success, ..self.into_step() }
    }

    /// The step succeeds with a value.
    fn gives(self, value: impl Into<Value>) -> Step {
        Step { expect: Expect::Value(value.into()), ..self.into_step() }
    }

    /// The step succeeds with a text.
    fn text(self, text: &'static str) -> Step {
        Step { expect: Expect::Text(text), ..self.into_step() }
    }

    /// The step fails.
    fn errno(self, name: &'static str) -> Step {
        Step { expect: Expect::Errno(name), ..self.into_step() }
    }

    /// Its name in the table of differences.
    fn id(self, id: &'static str) -> Step {
        Step { id, ..self.into_step() }
    }
}

impl IntoStep for Op {
    fn into_step(self) -> Step {
        Step { id: "", op: self, expect: Expect::Whatever }
    }
}

impl IntoStep for Step {
    fn into_step(self) -> Step {
        self
    }
}

/// Operations in a fresh cgroup, `$CG`, by a process that is in `$HOME`, its sibling; both are in `$UP`.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) places: &'static [Where],
    pub(crate) steps: Vec<Step>,
    /// Whether it's also run by an unprivileged user who owns all of `$UP`.
    pub(crate) also_owner: bool,
}

/// A case for root.
pub(crate) fn case<S: IntoStep>(
    name: &'static str,
    places: &'static [Where],
    steps: impl IntoIterator<Item = S>,
) -> Case {
    Case { name, places, steps: steps.into_iter().map(IntoStep::into_step).collect(), also_owner: false }
}

impl Case {
    /// An unprivileged owner does the same.
    #[must_use]
    pub(crate) fn by_owner_too(mut self) -> Self {
        self.also_owner = true;
        self
    }
}
