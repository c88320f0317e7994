//! Sets of controllers.

use std::collections::BTreeSet;
use std::fmt;

/// Controllers as a set: the order in which the kernel prints co-mounted ones differs between files and releases (Linux 3.10 says
/// `cpuacct,cpu` in `/proc/self/cgroup` for a mount of `cpu,cpuacct`), so it must never count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ControllerSet(BTreeSet<String>);

impl ControllerSet {
    /// Reads a list such as `cpu,cpuacct`; empty words don't count.
    pub fn parse(list: &str) -> Self {
        list.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
    }

    /// The word for every controller.
    pub const ALL: &str = "all";

    /// The same, with all of `known` in place of [`ControllerSet::ALL`].
    #[must_use]
    pub fn expanded(&self, known: &Self) -> Self {
        if !self.contains(Self::ALL) {
            return self.clone();
        }
        self.iter().filter(|controller| *controller != Self::ALL).chain(known.iter()).collect()
    }

    /// Whether `controller` is in it.
    pub fn contains(&self, controller: &str) -> bool {
        self.0.contains(controller)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it shares a controller with `other`.
    pub fn intersects(&self, other: &Self) -> bool {
        self.iter().any(|controller| other.contains(controller))
    }

    /// The controllers in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Adds one.
    pub fn insert(&mut self, controller: &str) {
        self.0.insert(controller.to_owned());
    }
}

impl<'a> FromIterator<&'a str> for ControllerSet {
    fn from_iter<I: IntoIterator<Item = &'a str>>(controllers: I) -> Self {
        Self(controllers.into_iter().map(str::to_owned).collect())
    }
}

impl fmt::Display for ControllerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, controller) in self.iter().enumerate() {
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
        assert_eq!(ControllerSet::parse("cpuacct,cpu").to_string(), "cpu,cpuacct");
        assert!(ControllerSet::parse("").is_empty());
        assert!(!ControllerSet::parse("cpuset").contains("cpu"));
        let known = ControllerSet::parse("cpu,pids");
        for (asked, expanded) in [("all", "cpu,pids"), ("x,all,cpu", "cpu,pids,x"), ("cpu", "cpu"), ("", "")] {
            assert_eq!(ControllerSet::parse(asked).expanded(&known).to_string(), expanded, "{asked}");
        }
    }
}
