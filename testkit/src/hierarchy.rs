//! The cgroup hierarchies of this machine, from /proc/self/mountinfo.

use std::path::{Path, PathBuf};

/// The kind of a hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// cgroup v2.
    Unified,
    /// cgroup v1 with these controllers.
    Controllers(Vec<String>),
    /// cgroup v1 with a name and no controllers.
    Named(String),
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The kind of the hierarchy.
    pub kind: Kind,
    /// Where its root is mounted.
    pub mountpoint: PathBuf,
    /// Whether there are v1 hierarchies on this machine, so that a view has one directory per hierarchy.
    pub split: bool,
}

impl Hierarchy {
    /// The name of the hierarchy on the command line: `unified`, `cpu,cpuacct`, `name=systemd`.
    pub fn selector(&self) -> String {
        match &self.kind {
            Kind::Unified => "unified".into(),
            Kind::Controllers(list) => list.join(","),
            Kind::Named(name) => format!("name={name}"),
        }
    }

    /// The key of its line in /proc/PID/cgroup, as the probe reports it.
    pub fn membership_key(&self) -> String {
        self.selector()
    }

    /// Whether the hierarchy is cgroup v2.
    pub fn is_unified(&self) -> bool {
        self.kind == Kind::Unified
    }

    /// The directory of the hierarchy in a view that is mounted on `view`.
    pub fn in_view(&self, view: &Path) -> PathBuf {
        match self.mountpoint.file_name() {
            Some(name) if self.split => view.join(name),
            _ => view.to_path_buf(),
        }
    }
}

fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mount: Vec<&str> = mount.split(' ').collect();
        let filesystem: Vec<&str> = filesystem.split(' ').collect();
        let (&[_, _, _, root, mountpoint, ..], &[fstype, _, options]) = (mount.as_slice(), filesystem.as_slice())
        else {
            continue;
        };
        // A bind mount of a single cgroup isn't the hierarchy.
        if root != "/" {
            continue;
        }
        let kind = match fstype {
            "cgroup2" => Kind::Unified,
            "cgroup" => {
                let words = || options.split(',');
                match words().find_map(|word| word.strip_prefix("name=")) {
                    Some(name) => Kind::Named(name.into()),
                    None => Kind::Controllers(
                        words()
                            .filter(|word| !matches!(*word, "rw" | "ro" | "xattr" | "noprefix" | "clone_children"))
                            .filter(|word| !word.contains('='))
                            .map(String::from)
                            .collect(),
                    ),
                }
            }
            _ => continue,
        };
        if !found.iter().any(|known| known.kind == kind) {
            found.push(Hierarchy { kind, mountpoint: unescape(mountpoint).into(), split: false });
        }
    }
    let split = found.iter().any(|hierarchy| hierarchy.kind != Kind::Unified);
    for hierarchy in &mut found {
        hierarchy.split = split;
    }
    found
}

/// All hierarchies of this machine.
pub fn hierarchies() -> Vec<Hierarchy> {
    std::fs::read_to_string("/proc/self/mountinfo").map(|text| parse(&text)).unwrap_or_default()
}

/// The hierarchy with this selector, or with this single controller.
pub fn hierarchy(selector: &str) -> Option<Hierarchy> {
    hierarchies().into_iter().find(|found| match &found.kind {
        Kind::Controllers(list) => found.selector() == selector || list.iter().any(|name| name == selector),
        _ => found.selector() == selector,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mountinfo() {
        let found = parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:29 /x /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/a,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        let selectors: Vec<_> = found.iter().map(Hierarchy::selector).collect();
        assert_eq!(selectors, ["cpu,cpuacct", "name=systemd", "unified"]);
        assert_eq!(found[0].in_view(Path::new("/v")), Path::new("/v/cpu,cpuacct"));
        assert_eq!(found[2].mountpoint, Path::new("/sys/fs/cgroup/uni fied"));
    }

    #[test]
    fn unified_mountinfo_has_one_tree() {
        let found = parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].in_view(Path::new("/v")), Path::new("/v"));
    }
}
