//! Memberships: `/proc/PID/cgroup`, the cgroup of a process in each hierarchy.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{CgroupPath, HierarchyKind};

/// One line of `/proc/PID/cgroup`: the cgroup of a process in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The hierarchy's number; 0 for cgroup2.
    pub id: u32,
    /// The hierarchy.
    pub kind: HierarchyKind,
    /// The cgroup, as the reader's cgroup namespace shows it.
    pub location: CgroupLocation,
}

/// The location of a cgroup, as a cgroup namespace shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupLocation {
    /// Inside the reader's cgroup namespace. The kernel prints a removed v2 cgroup with " (deleted)" after its name.
    /// The path keeps it, since a name can end like this.
    At(CgroupPath),
    /// Outside of the namespace: the path begins with `/..`.
    OutsideNamespace,
}

impl CgroupLocation {
    /// The path, if it can be named.
    pub fn path(&self) -> Option<&CgroupPath> {
        match self {
            Self::At(path) => Some(path),
            Self::OutsideNamespace => None,
        }
    }
}

/// Parses the text of `/proc/PID/cgroup`. Lines that aren't of the form `ID:LIST:PATH` are skipped.
pub fn parse_memberships(text: &[u8]) -> Vec<Membership> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Membership> {
    // A path may contain ':', the first two fields can't.
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let list = std::str::from_utf8(fields.next()?).ok()?;
    let path = fields.next()?;
    let kind = match (id, list) {
        (0, "") => HierarchyKind::Unified,
        (_, "") => return None,
        (_, list) => HierarchyKind::v1(list),
    };
    let location = if path == b"/.." || path.starts_with(b"/../") {
        CgroupLocation::OutsideNamespace
    } else {
        CgroupLocation::At(CgroupPath::parse(OsStr::from_bytes(path)).ok()?)
    };
    Some(Membership { id, kind, location })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<(String, Option<String>)> {
        let line = |m: &Membership| (m.kind.to_string(), m.location.path().map(ToString::to_string));
        parse_memberships(text.as_bytes()).iter().map(line).collect()
    }

    fn expected(lines: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let path = |path: &str| (path != "-").then(|| path.to_owned());
        lines.iter().map(|(kind, place)| ((*kind).to_owned(), path(place))).collect()
    }

    #[test]
    fn real_samples() {
        // systemd-nspawn on a v1 host, without a cgroup namespace: the paths differ from hierarchy to hierarchy.
        let nspawn = "11:cpuacct,cpu:/machine.slice/c1.scope\n10:cpuset:/\n\
                      1:name=systemd:/machine.slice/c1.scope/payload\n";
        assert_eq!(
            parsed(nspawn),
            expected(&[
                ("cpuacct,cpu", "/machine.slice/c1.scope"),
                ("cpuset", "/"),
                ("name=systemd", "/machine.slice/c1.scope/payload")
            ])
        );
        let docker = "12:pids:/docker/4f3e\n1:name=systemd:/docker/4f3e\n0::/system.slice/containerd.service\n";
        assert_eq!(
            parsed(docker),
            expected(&[
                ("pids", "/docker/4f3e"),
                ("name=systemd", "/docker/4f3e"),
                ("unified", "/system.slice/containerd.service")
            ])
        );
        assert_eq!(parsed("0::/user.slice/a:b (deleted)\n"), expected(&[("unified", "/user.slice/a:b (deleted)")]));
    }

    #[test]
    fn outside_the_namespace() {
        assert_eq!(parsed("0::/..\n"), expected(&[("unified", "-")]));
        assert_eq!(parsed("0::/../../x\n"), expected(&[("unified", "-")]));
        assert_eq!(parsed("0::/..x\n"), expected(&[("unified", "/..x")]));
    }

    #[test]
    fn nonsense_is_skipped() {
        assert_eq!(parsed("\nx::/\n1:cpu\n5::/a\n0::relative\n0::/a/../b\n-1:cpu:/\n"), expected(&[]));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_memberships(&bytes);
        }

        #[test]
        fn a_line_comes_back(id in 1u32..100, name in "[a-z]{1,8}", path in "(/[a-z0-9:. ]{1,10}){1,4}") {
            prop_assume!(!path.split('/').any(|part| part == "." || part == ".."));
            let line = format!("{id}:{name}:{path}\n");
            let memberships = parse_memberships(line.as_bytes());
            prop_assert_eq!(memberships.len(), 1);
            prop_assert_eq!(memberships[0].location.path().unwrap().to_string(), path);
        }
    }
}
