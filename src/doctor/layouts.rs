//! Facts of the layouts that containers have, made from recorded mountinfo. The container's own cgroup is always
//! `/c1`.

use std::cell::RefCell;

use super::facts::{FS_TYPES, Facts, FsType, PathProbe, ProbeOutcome, ProbeResults, Process, ROOT, mount_of, point};
use super::limits::{HostFiles, Limit, Limits};
use super::paths::paths_to_probe;
use super::reading::Files;
use super::verdict::readings;
use crate::cgroup::{CgroupPath, HierarchyKind, Membership, MountEntry, parse_memberships, parse_mountinfo};

/// How a layout differs from its own kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Variant {
    /// Whether the controllers of a view are read-only.
    pub(crate) is_strict: bool,
    /// Whether `/docker` leads into the own cgroup.
    pub(crate) has_alias: bool,
    /// Whether a view passes `devices.allow` on, which it never does today.
    pub(crate) passes_devices: bool,
    /// Whether the view's server has ended, or doesn't answer.
    pub(crate) is_dead: bool,
    pub(crate) is_hung: bool,
    /// Whether the kernel is older than Linux 5.6.
    pub(crate) has_no_openat2: bool,
    pub(crate) has_cgroup_namespace: bool,
    pub(crate) may_mount: bool,
    pub(crate) has_writable_tmpfs: bool,
    /// Where a tmpfs of somebody else's covers what was there.
    pub(crate) tmpfs_over: Option<&'static str>,
}

const CONTROLLERS: [&str; 7] = ["cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];

/// How the container's v1 hierarchies are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel's own hierarchies: a read-only root, and the own cgroup writable.
    Real,
    /// A view on each hierarchy's directory.
    Fuse,
    /// The same view, with the kernel's hierarchy beneath.
    Stack,
    /// The kernel's hierarchy, a view on the own cgroup.
    SkeletonA,
    /// The same with an empty cgroup `/empty`, which has an empty child `c1`, in place of the hierarchy's root.
    SkeletonB,
    /// The layout of `attach` on a unified host: such an empty cgroup, with two files of the view in place of its
    /// own.
    Sentinel,
    /// One view on `/sys/fs/cgroup`.
    Plain,
    /// Only a cgroup namespace.
    Namespace,
}

/// The layouts of a legacy host, and of a unified one.
pub(crate) const LEGACY: [Kind; 6] =
    [Kind::Real, Kind::Fuse, Kind::Stack, Kind::SkeletonA, Kind::SkeletonB, Kind::Plain];
pub(crate) const UNIFIED: [Kind; 7] =
    [Kind::Real, Kind::Fuse, Kind::Stack, Kind::SkeletonA, Kind::SkeletonB, Kind::Sentinel, Kind::Namespace];

/// The files of the view that cover those of a sentinel.
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
pub(crate) fn legacy(kind: Kind, variant: Variant) -> Facts {
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
pub(crate) fn unified(kind: Kind, variant: Variant) -> Facts {
    let mut table = Table(Vec::new());
    table.add("/", "/", "rw", "ext4 /dev/vda rw");
    table.hierarchy(kind, ROOT, "cgroup2 cgroup2 rw,nsdelegate", "");
    let own = if kind == Kind::Namespace { "0::/\n" } else { "0::/c1\n" };
    facts(kind, variant, table, own.to_owned(), 0)
}

fn facts(kind: Kind, variant: Variant, mut table: Table, cgroup: String, number: u32) -> Facts {
    if let Some(at) = variant.tmpfs_over {
        table.add("/", at, "rw", "tmpfs over rw");
    }
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
        affinity: 8,
        online: 8,
        memory: 16 << 30,
    };
    let mounts = parse_mountinfo(process.mountinfo.as_bytes());
    let asked = paths_to_probe(&parse_memberships(process.cgroup.as_bytes()), &mounts);
    let fake = Fake { kind, variant, mounts: &mounts, found: RefCell::default() };
    for path in &asked {
        fake.place(path);
    }
    let system = Facts::new(process.clone(), ProbeResults::default()).system();
    readings(&system, &fake);
    let found = fake.found.into_inner();
    Facts::new(process, found)
}

/// Returns the effective limits of all layouts: those of the container's own cgroup.
pub(crate) fn limits() -> Limits {
    let limit = |value| Some(Limit { value, by: "/c1".to_owned() });
    let quota = Some(Limit { value: (100_000, 100_000), by: "/c1".to_owned() });
    Limits { quota, cpus: 8, memory: limit(512 << 20), memory_high: None, pids: limit(100) }
}

/// Returns the content of a file, in the container's own cgroup or an ancestor.
fn text(file: &str, is_own: bool) -> &'static str {
    match (file, is_own) {
        ("cpu.cfs_quota_us", true) | ("cpu.cfs_period_us", _) => "100000",
        ("cpu.cfs_quota_us", false) => "-1",
        ("cpu.max", true) => "100000 100000",
        ("memory.limit_in_bytes" | "memory.max", true) => "536870912",
        ("memory.limit_in_bytes", false) | ("memory.soft_limit_in_bytes", _) => "9223372036854771712",
        ("memory.use_hierarchy", _) => "1",
        ("memory.stat", true) => "hierarchical_memory_limit 536870912",
        ("memory.stat", false) => "hierarchical_memory_limit 9223372036854771712",
        ("pids.max", true) => "100",
        ("cpuset.cpus" | "cpuset.cpus.effective", _) => "0-7",
        ("cgroup.controllers", _) => "cpuset cpu io memory pids",
        _ => "max",
    }
}

/// The host of all of them.
pub(crate) struct Host;

/// The container's cgroups, by the host's paths.
pub(crate) fn members(facts: &Facts) -> Vec<Membership> {
    parse_memberships(facts.process.cgroup.replace("0::/\n", "0::/c1\n").as_bytes())
}

impl HostFiles for Host {
    fn read(&self, kind: &HierarchyKind, path: &CgroupPath, file: &str) -> Option<String> {
        self.exists(kind, path, Some(file)).then(|| format!("{}\n", text(file, !path.is_root())))
    }

    fn exists(&self, kind: &HierarchyKind, path: &CgroupPath, file: Option<&str>) -> bool {
        let is_there = path.is_root() || path.to_string() == "/c1";
        let has = |file: &str| match (kind, file.split_once('.').map_or("", |(controller, _)| controller)) {
            (_, "cgroup") => true,
            (HierarchyKind::Unified, "memory" | "cpu" | "pids") => !path.is_root() && !file.ends_with("_in_bytes"),
            (HierarchyKind::Unified, "cpuset") => true,
            (_, controller) => kind.controllers().is_some_and(|all| all.contains(controller)),
        };
        is_there && file.is_none_or(has)
    }
}

/// Records the queries.
struct Fake<'a> {
    kind: Kind,
    variant: Variant,
    mounts: &'a [MountEntry],
    found: RefCell<ProbeResults>,
}

impl Fake<'_> {
    fn place(&self, path: &str) -> ProbeOutcome {
        let answer = answer(self.kind, self.variant, self.mounts, path);
        self.found.borrow_mut().places.insert(path.to_owned(), answer.clone());
        answer
    }
}

impl Files for Fake<'_> {
    fn read(&self, path: &str) -> Option<String> {
        let is_there = matches!(answer(self.kind, self.variant, self.mounts, path), ProbeOutcome::Found(_));
        let (directory, file) = path.rsplit_once('/')?;
        let is_own = directory.ends_with("/c1") || self.kind == Kind::Namespace;
        let text = text(file, is_own);
        let content = is_there.then(|| format!("{text}\n"));
        self.found.borrow_mut().contents.insert(path.to_owned(), content.clone());
        content
    }

    fn exists(&self, path: &str) -> bool {
        matches!(self.place(path), ProbeOutcome::Found(_))
    }

    fn is_cgroup2(&self, path: &str) -> bool {
        matches!(self.place(path), ProbeOutcome::Found(place) if FsType::of(place.magic) == FsType::Cgroup2)
    }
}

const ABSENT: ProbeOutcome = ProbeOutcome::Failed(libc::ENOENT);

fn answer(kind: Kind, variant: Variant, mounts: &[MountEntry], path: &str) -> ProbeOutcome {
    // Distributions make a symlink for each of the co-mounted controllers.
    let is_joint = |word: &&str| {
        path.strip_prefix(&format!("{ROOT}/{word}")).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
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
        _ if is_fuse && variant.is_dead => return ProbeOutcome::Failed(libc::ENOTCONN),
        _ if is_fuse && variant.is_hung => return ProbeOutcome::Silent,
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
    // The mount's root determines how much of the path is left.
    let is_own = at.ends_with("/c1") || below == "c1" || below.starts_with("c1/") || kind == Kind::Namespace;
    let below = below.strip_prefix("c1").unwrap_or(&below).trim_start_matches('/');
    let has = |file: &str| match file {
        "" | "cgroup.procs" => true,
        "docker" => variant.has_alias,
        "cgroup.controllers" | "cgroup.subtree_control" => name.is_empty() || name == "c1",
        "memory.max" | "memory.high" | "cpu.max" | "pids.max" if is_own && (name.is_empty() || name == "c1") => true,
        "cpuset.cpus.effective" | "cpu.stat" => name.is_empty() && !is_fuse,
        // Such a view shows no limits of the own cgroup's ancestors.
        _ if is_fuse && !is_own => false,
        "memory.limit_in_bytes"
        | "memory.soft_limit_in_bytes"
        | "memory.use_hierarchy"
        | "memory.stat"
        | "memory.usage_in_bytes" => name.starts_with("memory"),
        "cpu.cfs_quota_us" | "cpu.cfs_period_us" | "cpuacct.usage" => name.starts_with("cpu,cpuacct"),
        "cpuset.cpus" => name.starts_with("cpuset"),
        "pids.max" => name.starts_with("pids"),
        "devices.allow" => name.starts_with("devices"),
        _ => false,
    };
    if mount.fstype != "tmpfs" && !has(below) {
        return ABSENT;
    }
    let name_of = |mount: &MountEntry| match mount.fstype.as_str() {
        "tmpfs" => FsType::Tmpfs,
        "cgroup" => FsType::Cgroup,
        "cgroup2" => FsType::Cgroup2,
        _ => FsType::Fuse,
    };
    let magic = FS_TYPES.iter().find(|(_, name)| *name == name_of(mount)).map_or(0, |(magic, _)| *magic);
    let is_v1_controller =
        !path.starts_with(&format!("{ROOT}/systemd")) && mounts.iter().any(|one| one.fstype == "tmpfs");
    let is_mine = is_own || below == "docker";
    let writable =
        mount.options.starts_with("rw") && (!is_fuse || (is_mine && !(variant.is_strict && is_v1_controller)));
    let writable = writable && (below != "devices.allow" || !is_fuse || variant.passes_devices);
    let root = mount_of(mounts, ROOT).map(|mount| mount.id);
    ProbeOutcome::Found(PathProbe {
        magic,
        directory: !FILES.iter().any(|file| path.ends_with(file)),
        writable,
        one_mount: root == Some(mount.id),
    })
}
