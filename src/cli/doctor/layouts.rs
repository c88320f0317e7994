//! Facts of layouts that containers have, made up from their mountinfo as it was recorded. The container's own cgroup is `/c1` everywhere.

use std::collections::BTreeMap;

use super::facts::{Answer, Facts, Place, Process, ROOT, TYPES, Type, mount_of, places, point};
use crate::cgroup::{MountEntry, parse_memberships, parse_mountinfo};

/// How a layout differs from its own kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Variant {
    /// The controllers of a view are read-only.
    pub(super) is_strict: bool,
    /// `/docker` leads into the own cgroup.
    pub(super) has_alias: bool,
    /// A view passes `devices.allow` on, which it never does today.
    pub(super) passes_devices: bool,
    /// The view's server: it has ended, or it doesn't answer.
    pub(super) is_dead: bool,
    pub(super) is_hung: bool,
    /// Linux before 5.6.
    pub(super) has_no_openat2: bool,
    pub(super) has_cgroup_namespace: bool,
    pub(super) may_mount: bool,
    pub(super) has_writable_tmpfs: bool,
}

const CONTROLLERS: [&str; 7] = ["cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];

/// How the container's v1 hierarchies are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The kernel's own: a read-only root, the own cgroup writable.
    Real,
    /// A view on each hierarchy's directory.
    Fuse,
    /// The same, with the kernel's hierarchy beneath.
    Stack,
    /// The kernel's hierarchy, a view on the own cgroup.
    SkeletonA,
    /// The same with an empty cgroup `/empty`, which has an empty child `c1`, in place of the hierarchy's root.
    SkeletonB,
    /// What `attach` makes on a unified host: such an empty cgroup, with two files of the view in place of its own.
    Sentinel,
    /// One view on `/sys/fs/cgroup`.
    Plain,
    /// Nothing but a cgroup namespace.
    Namespace,
}

/// Those of a legacy host, and those of a unified one.
pub(super) const LEGACY: [Kind; 6] =
    [Kind::Real, Kind::Fuse, Kind::Stack, Kind::SkeletonA, Kind::SkeletonB, Kind::Plain];
pub(super) const UNIFIED: [Kind; 7] =
    [Kind::Real, Kind::Fuse, Kind::Stack, Kind::SkeletonA, Kind::SkeletonB, Kind::Sentinel, Kind::Namespace];

/// The files of the view that lie on those of a sentinel.
const FILES: &[&str] = &["cgroup.controllers", "cgroup.subtree_control"];

struct Table(Vec<String>);

impl Table {
    fn add(&mut self, root: &str, at: &str, options: &str, kind: &str) {
        let id = self.0.len() + 20;
        let device = match kind {
            kind if kind.starts_with("fuse") => 90,
            kind => 30 + kind.len(),
        };
        self.0.push(format!("{id} 19 0:{device} {root} {at} {options},nosuid,relatime - {kind}"));
    }

    /// One hierarchy, mounted at a directory.
    fn hierarchy(&mut self, kind: Kind, at: &str, real: &str, name: &str) {
        let view = "fuse.vcgroupfs vcgroupfs rw,user_id=0,group_id=0,default_permissions,allow_other";
        let inside = if name.is_empty() { String::new() } else { format!("/{name}") };
        match kind {
            Kind::Real => {
                self.add("/", at, "ro", real);
                self.add("/c1", &format!("{at}/c1"), "rw", real);
            }
            Kind::Namespace => self.add("/", at, "rw", real),
            Kind::Fuse | Kind::Plain => self.add(&format!("/{name}"), at, "rw", view),
            Kind::Stack => {
                self.add("/", at, "ro", real);
                self.add(&format!("/{name}"), at, "rw", view);
            }
            Kind::SkeletonA | Kind::SkeletonB | Kind::Sentinel => {
                self.add(if kind == Kind::SkeletonA { "/" } else { "/empty" }, at, "ro", real);
                self.add(&format!("{inside}/c1"), &format!("{at}/c1"), "rw", view);
                let files = if kind == Kind::Sentinel { FILES } else { &[] };
                for file in files {
                    self.add(&format!("/{file}"), &format!("{at}/{file}"), "rw", view);
                }
            }
        }
    }
}

/// A legacy host's container.
pub(super) fn legacy(kind: Kind, variant: Variant) -> Facts {
    let mut table = Table(Vec::new());
    table.add("/", "/", "rw", "ext4 /dev/vda rw");
    let mode = if variant.has_writable_tmpfs { "rw" } else { "ro" };
    table.add("/", ROOT, mode, "tmpfs tmpfs rw,mode=755");
    if kind == Kind::Plain {
        table.hierarchy(kind, ROOT, "", "");
    } else {
        for name in CONTROLLERS {
            table.hierarchy(kind, &format!("{ROOT}/{name}"), &format!("cgroup cgroup rw,{name}"), name);
        }
        table.hierarchy(kind, &format!("{ROOT}/systemd"), "cgroup cgroup rw,xattr,name=systemd", "systemd");
    }
    let mut cgroup: String = (2..).zip(CONTROLLERS).map(|(id, name)| format!("{id}:{name}:/c1\n")).collect();
    cgroup.push_str("1:name=systemd:/c1\n");
    facts(kind, variant, table, cgroup, 1)
}

/// A unified host's container.
pub(super) fn unified(kind: Kind, variant: Variant) -> Facts {
    let mut table = Table(Vec::new());
    table.add("/", "/", "rw", "ext4 /dev/vda rw");
    table.hierarchy(kind, ROOT, "cgroup2 cgroup2 rw,nsdelegate", "");
    let own = if kind == Kind::Namespace { "0::/\n" } else { "0::/c1\n" };
    facts(kind, variant, table, own.to_owned(), 0)
}

fn facts(kind: Kind, variant: Variant, table: Table, cgroup: String, number: u32) -> Facts {
    let words = CONTROLLERS.iter().flat_map(|names| names.split(','));
    let controllers = words.map(|word| format!("{word}\t{number}\t9\t1\n")).collect();
    let process = Process {
        command: "init".to_owned(),
        mountinfo: table.0.join("\n"),
        cgroup,
        controllers,
        cgroup_namespace: Some(variant.has_cgroup_namespace || kind == Kind::Namespace),
        may_mount: variant.may_mount,
        openat2: !variant.has_no_openat2,
    };
    let mounts = parse_mountinfo(process.mountinfo.as_bytes());
    let asked = places(&parse_memberships(process.cgroup.as_bytes()), &mounts);
    let answers = asked.into_iter().map(|path| {
        let answer = answer(kind, variant, &mounts, &path);
        (path, answer)
    });
    Facts::new(process, answers.collect::<BTreeMap<_, _>>())
}

const ABSENT: Answer = Answer::Failed(libc::ENOENT);

fn answer(kind: Kind, variant: Variant, mounts: &[MountEntry], path: &str) -> Answer {
    // Distributions make a symlink for each of the co-mounted controllers.
    let is_joint =
        |word: &&str| path.strip_prefix(&format!("{ROOT}/{word}")).is_some_and(|rest| !rest.starts_with(','));
    let path =
        match ["cpuacct", "cpu"].iter().find(|word| is_joint(word) && !path.starts_with(&format!("{ROOT}/cpuset"))) {
            Some(word) => path.replacen(word, "cpu,cpuacct", 1),
            None => path.to_owned(),
        };
    let Some(mount) = mount_of(mounts, &path) else { return ABSENT };
    let at = point(mount);
    let mut below = path.strip_prefix(&at).unwrap_or_default().trim_start_matches('/').to_owned();
    let is_fuse = mount.fstype.starts_with("fuse");
    match mount.fstype.as_str() {
        "ext4" => return ABSENT,
        "tmpfs" if !below.is_empty() => return ABSENT,
        _ if is_fuse && variant.is_dead => return Answer::Failed(libc::ENOTCONN),
        _ if is_fuse && variant.is_hung => return Answer::Silent,
        _ => {}
    }
    let mut name = at.strip_prefix(ROOT).unwrap_or_default().trim_start_matches('/').to_owned();
    if kind == Kind::Plain {
        let (first, rest) = below.split_once('/').unwrap_or((below.as_str(), ""));
        (name, below) = (first.to_owned(), rest.to_owned());
        if !name.is_empty() && name != "systemd" && !CONTROLLERS.contains(&name.as_str()) {
            return ABSENT;
        }
    }
    // Where the mount begins decides how much of the path is left.
    let is_own = at.ends_with("/c1") || below == "c1" || below.starts_with("c1/") || kind == Kind::Namespace;
    let below = below.strip_prefix("c1").unwrap_or(&below).trim_start_matches('/');
    let has = |file: &str| match file {
        "" | "cgroup.procs" => true,
        "docker" => variant.has_alias,
        "cgroup.controllers" | "cgroup.subtree_control" | "memory.max" => name.is_empty() || name == "c1",
        // Of the cgroups above the own one, a view shows no limits.
        "memory.limit_in_bytes" => name.starts_with("memory") && (is_own || !is_fuse),
        "devices.allow" => name.starts_with("devices") && (is_own || !is_fuse),
        _ => false,
    };
    if mount.fstype != "tmpfs" && !has(below) {
        return ABSENT;
    }
    let name_of = |mount: &MountEntry| match mount.fstype.as_str() {
        "tmpfs" => Type::Tmpfs,
        "cgroup" => Type::Cgroup,
        "cgroup2" => Type::Cgroup2,
        _ => Type::Fuse,
    };
    let magic = TYPES.iter().find(|(_, name)| *name == name_of(mount)).map_or(0, |(magic, _)| *magic);
    let is_v1_controller =
        !path.starts_with(&format!("{ROOT}/systemd")) && mounts.iter().any(|one| one.fstype == "tmpfs");
    let is_mine = is_own || below == "docker";
    let writable =
        mount.options.starts_with("rw") && (!is_fuse || (is_mine && !(variant.is_strict && is_v1_controller)));
    let writable = writable && (below != "devices.allow" || !is_fuse || variant.passes_devices);
    let root = mount_of(mounts, ROOT).map(|mount| mount.id);
    Answer::Found(Place {
        magic,
        directory: !FILES.iter().any(|file| path.ends_with(file)),
        writable,
        one_mount: root == Some(mount.id),
    })
}
