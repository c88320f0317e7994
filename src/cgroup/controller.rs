//! Sets of controllers.

use std::collections::BTreeSet;
use std::fmt;

/// A set of controllers. The kernel prints co-mounted controllers in an order that differs between files and releases
/// (Linux 3.10 prints `cpuacct,cpu` in `/proc/self/cgroup` for a mount of `cpu,cpuacct`). So comparisons ignore the
/// order, and only printing uses it.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ControllerSet {
    set: BTreeSet<String>,
    /// The controllers in the order in which they were written.
    written: Vec<String>,
}

impl From<String> for ControllerSet {
    fn from(list: String) -> Self {
        Self::parse(&list)
    }
}

impl From<ControllerSet> for String {
    fn from(set: ControllerSet) -> Self {
        set.to_string()
    }
}

impl PartialEq for ControllerSet {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
    }
}

impl Eq for ControllerSet {}

impl std::hash::Hash for ControllerSet {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.set.hash(state);
    }
}

impl ControllerSet {
    /// Parses a list such as `cpu,cpuacct`; empty words are ignored.
    pub fn parse(list: &str) -> Self {
        list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
    }

    /// The word for every controller.
    pub const ALL: &str = "all";

    /// Replaces [`ControllerSet::ALL`] by all of `known`.
    #[must_use]
    pub fn expanded(&self, known: &Self) -> Self {
        if !self.contains(Self::ALL) {
            return self.clone();
        }
        self.iter().filter(|controller| *controller != Self::ALL).chain(known.iter()).collect()
    }

    /// Whether `controller` is in the set.
    pub fn contains(&self, controller: &str) -> bool {
        self.set.contains(controller)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The number of controllers.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether it shares a controller with `other`.
    pub fn intersects(&self, other: &Self) -> bool {
        self.iter().any(|controller| other.contains(controller))
    }

    /// The controllers in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.set.iter().map(String::as_str)
    }

    /// Adds a controller.
    pub fn insert(&mut self, controller: &str) {
        if self.set.insert(controller.to_owned()) {
            self.written.push(controller.to_owned());
        }
    }
}

impl<'a> FromIterator<&'a str> for ControllerSet {
    fn from_iter<I: IntoIterator<Item = &'a str>>(controllers: I) -> Self {
        let mut all = Self::default();
        controllers.into_iter().for_each(|controller| all.insert(controller));
        all
    }
}

/// Prints the controllers in the order in which they were written.
impl fmt::Display for ControllerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, controller) in self.written.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{controller}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_empty_words_do_not_count() {
        assert_eq!(ControllerSet::parse("cpuacct,cpu"), ControllerSet::parse("cpu, cpuacct,"));
        assert_eq!(ControllerSet::parse("cpuacct,cpu,cpuacct").to_string(), "cpuacct,cpu");
        assert_eq!(ControllerSet::parse("cpuacct,cpu").iter().collect::<Vec<_>>(), ["cpu", "cpuacct"]);
        assert!(ControllerSet::parse("").is_empty());
        assert!(!ControllerSet::parse("cpuset").contains("cpu"));
        let known = ControllerSet::parse("cpu,pids");
        for (asked, expanded) in [("all", "cpu,pids"), ("x,all,cpu", "cpu,x,pids"), ("cpu", "cpu"), ("", "")] {
            assert_eq!(ControllerSet::parse(asked).expanded(&known).to_string(), expanded, "{asked}");
        }
    }
}
