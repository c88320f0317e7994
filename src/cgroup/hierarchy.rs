//! The kinds of cgroup hierarchies and of setups.

use std::fmt;

use super::ControllerSet;

/// The kind of a hierarchy, which distinguishes it from others of the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum HierarchyKind {
    /// The cgroup2 tree.
    Unified,
    /// A v1 tree: its controllers, its name (`name=systemd`), or both.
    V1 {
        /// The controllers bound to it; none for a purely named hierarchy.
        controllers: ControllerSet,
        /// The name behind `name=` in its mount options.
        name: Option<String>,
    },
}

/// The class of a hierarchy, as the policy distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HierarchyClass {
    /// The cgroup2 tree.
    Unified,
    /// v1 with at least one controller: not safe to delegate.
    V1Controllers,
    /// v1 without a controller, such as `name=systemd`.
    V1Named,
}

/// The setup of a host: which hierarchies it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setup {
    /// v1 only.
    Legacy,
    /// v1 and v2.
    Hybrid,
    /// v2 only.
    Unified,
}

impl HierarchyKind {
    /// Parses a v1 hierarchy from the kernel's list of controllers and names: `cpu,cpuacct`, `name=systemd`.
    pub fn v1(list: &str) -> Self {
        let (names, controllers): (Vec<&str>, Vec<&str>) =
            list.split(',').filter(|word| !word.is_empty()).partition(|word| word.starts_with("name="));
        let name = names.first().and_then(|word| word.strip_prefix("name=")).map(str::to_owned);
        Self::V1 { controllers: controllers.into_iter().collect(), name }
    }

    /// Parses a printed hierarchy: `unified`, or a list for [`HierarchyKind::v1`].
    pub fn parse(text: &str) -> Self {
        if text == "unified" { Self::Unified } else { Self::v1(text) }
    }

    /// The same hierarchy, printed like the directory on which it's mounted, if that is a list of its controllers in any order.
    #[must_use]
    pub fn mounted_on(self, directory: &str) -> Self {
        match (self, ControllerSet::parse(directory)) {
            (Self::V1 { controllers, name }, listed) if controllers == listed => Self::V1 { controllers: listed, name },
            (kind, _) => kind,
        }
    }

    /// The class of the hierarchy.
    pub fn class(&self) -> HierarchyClass {
        match self {
            Self::Unified => HierarchyClass::Unified,
            Self::V1 { controllers, .. } if controllers.is_empty() => HierarchyClass::V1Named,
            Self::V1 { .. } => HierarchyClass::V1Controllers,
        }
    }

    /// The controllers of a v1 hierarchy; `None` for cgroup2, whose controllers differ from cgroup to cgroup.
    pub fn controllers(&self) -> Option<&ControllerSet> {
        match self {
            Self::Unified => None,
            Self::V1 { controllers, .. } => Some(controllers),
        }
    }

    /// Whether a user's `word` means this hierarchy: `unified`, a controller (`cpu`), the whole list in any order, or
    /// `name=systemd`.
    pub fn matches(&self, word: &str) -> bool {
        match self {
            Self::Unified => matches!(word, "unified" | "cgroup2" | "v2"),
            Self::V1 { controllers, name } => {
                let asked = ControllerSet::parse(word);
                name.as_deref().is_some_and(|name| word.strip_prefix("name=") == Some(name))
                    || (!asked.is_empty() && asked.iter().all(|controller| controllers.contains(controller)))
            }
        }
    }
}

impl Setup {
    /// Returns the setup that these hierarchies form; `None` without any hierarchy.
    pub fn of<'a>(kinds: impl IntoIterator<Item = &'a HierarchyKind>) -> Option<Self> {
        let (mut v1, mut v2) = (false, false);
        for kind in kinds {
            match kind {
                HierarchyKind::Unified => v2 = true,
                HierarchyKind::V1 { .. } => v1 = true,
            }
        }
        match (v1, v2) {
            (true, true) => Some(Self::Hybrid),
            (true, false) => Some(Self::Legacy),
            (false, true) => Some(Self::Unified),
            (false, false) => None,
        }
    }
}

impl fmt::Display for HierarchyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unified => f.write_str("unified"),
            Self::V1 { controllers, name: None } => write!(f, "{controllers}"),
            Self::V1 { controllers, name: Some(name) } if controllers.is_empty() => write!(f, "name={name}"),
            Self::V1 { controllers, name: Some(name) } => write!(f, "{controllers},name={name}"),
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Hybrid => "hybrid",
            Self::Unified => "unified",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (list, class, printed) in [
            ("cpuacct,cpu", HierarchyClass::V1Controllers, "cpuacct,cpu"),
            ("name=systemd", HierarchyClass::V1Named, "name=systemd"),
            ("pids,name=x", HierarchyClass::V1Controllers, "pids,name=x"),
        ] {
            let kind = HierarchyKind::v1(list);
            assert_eq!((kind.class(), kind.to_string().as_str()), (class, printed), "{list}");
        }
    }

    #[test]
    fn one_set_named_as_it_is_mounted() {
        let kind = HierarchyKind::v1("cpuacct,cpu");
        assert_eq!(kind, HierarchyKind::v1("cpu,cpuacct"));
        for (directory, name) in [
            ("cpu,cpuacct", "cpu,cpuacct"),
            ("cpuacct,cpu", "cpuacct,cpu"),
            ("cpu", "cpuacct,cpu"),
            ("", "cpuacct,cpu"),
        ] {
            let mounted = kind.clone().mounted_on(directory);
            assert_eq!((&mounted, mounted.to_string().as_str()), (&kind, name), "{directory}");
        }
        for kind in [kind, HierarchyKind::Unified, HierarchyKind::v1("name=systemd")] {
            assert_eq!(HierarchyKind::parse(&kind.to_string()), kind);
            assert_eq!(kind.clone().mounted_on("systemd").to_string(), kind.to_string());
        }
    }

    #[test]
    fn words_of_users_match_hierarchies() {
        let cpu = HierarchyKind::v1("cpu,cpuacct");
        for (word, matches) in [
            ("cpu", true),
            ("cpuacct,cpu", true),
            ("cpuset", false),
            ("cpu,memory", false),
            ("", false),
            ("unified", false),
        ] {
            assert_eq!(cpu.matches(word), matches, "{word}");
        }
        assert!(HierarchyKind::v1("name=systemd").matches("name=systemd"));
        assert!(!HierarchyKind::v1("name=systemd").matches("name="));
        assert!(HierarchyKind::Unified.matches("unified"));
    }

    #[test]
    fn setups() {
        let (v1, v2) = (HierarchyKind::v1("cpu"), HierarchyKind::Unified);
        assert_eq!(Setup::of([&v1, &v2]), Some(Setup::Hybrid));
        assert_eq!(Setup::of([&v1]), Some(Setup::Legacy));
        assert_eq!(Setup::of([&v2]), Some(Setup::Unified));
        assert_eq!(Setup::of([]), None);
    }
}
