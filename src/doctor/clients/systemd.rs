//! systemd: `cg_unified_cached` in its versions, and `cg_is_ready` since 258.

use crate::doctor::advice::{NAMESPACE, describe_missing, remedy_for};
use crate::doctor::facts::{Facts, FsType, ROOT, SYSTEMD, UNIFIED, join};
use crate::doctor::finding::Finding;

/// The setup that systemd recognises.
pub(crate) enum Tree {
    Unified,
    /// cgroup2 on `unified`, or on `systemd` as 232 had it.
    Hybrid(&'static str),
    Legacy,
    /// `systemd` has an unknown type: legacy since 236, a failure before.
    Odd(FsType),
    /// The setup can't be determined, for this reason, which has to be fixed at this path.
    Unknown(String, &'static str),
}

impl Tree {
    /// The decision since 233. 236 continues if `systemd` has an unknown type (systemd#6477).
    pub(crate) fn of(facts: &Facts) -> Self {
        match facts.type_of(ROOT) {
            FsType::Cgroup2 => return Self::Unified,
            FsType::Tmpfs => {}
            other => return Self::Unknown(format!("{ROOT} {other}, neither cgroup2 nor tmpfs"), ROOT),
        }
        if facts.type_of(UNIFIED) == FsType::Cgroup2 {
            return Self::Hybrid(UNIFIED);
        }
        match facts.type_of(SYSTEMD) {
            FsType::Cgroup2 => Self::Hybrid(SYSTEMD),
            FsType::Cgroup => Self::Legacy,
            failed @ (FsType::Failed(_) | FsType::Silent) => {
                Self::Unknown(format!("{ROOT} is tmpfs, but {SYSTEMD} {failed}"), SYSTEMD)
            }
            odd => Self::Odd(odd),
        }
    }

    fn why(&self) -> String {
        match self {
            Self::Unified => format!("{ROOT} is cgroup2"),
            Self::Hybrid(at) => format!("{ROOT} is tmpfs and {at} is cgroup2: hybrid"),
            Self::Legacy => format!("{ROOT} is tmpfs and {SYSTEMD} is cgroup: legacy"),
            Self::Odd(odd) => format!("{ROOT} is tmpfs and {SYSTEMD} {odd}: it assumes legacy"),
            Self::Unknown(why, _) => why.clone(),
        }
    }
}

pub(crate) const NOT_V2_ALONE: &str = "use 'vcgroupfs attach': on a unified host it keeps a real cgroup2 on /sys/fs/cgroup and puts the view on the \
                            container's own path only, on others it puts a read-only tmpfs there, and the view's \
                            hierarchies on its directories";

/// A note about cgroup2 that FUSE serves.
const NO_BPF: &str = "DeviceAllow= and IPAddressDeny= are silently not enforced there, since BPF programs can't be \
                      attached by a view's directory";

/// Whether systemd can work in its own cgroup as PID 1, after it has recognised the tree.
pub(crate) fn as_pid1(client: &'static str, facts: &Facts, tree: &Tree) -> Finding {
    in_own_cgroup(client, facts, tree, tree.why())
}

fn in_own_cgroup(client: &'static str, facts: &Facts, tree: &Tree, why: String) -> Finding {
    let (base, word) = match tree {
        Tree::Unified => (ROOT, "unified"),
        Tree::Hybrid(at) => (*at, "unified"),
        _ => (SYSTEMD, "name=systemd"),
    };
    let Some(path) = facts.own_path(word) else {
        let advice = "start it in a cgroup of that hierarchy, inside its cgroup namespace";
        return Finding::partly(client, format!("{why}; but it has no cgroup of its own in {word}"), advice);
    };
    let own = join(base, path);
    if !facts.exists(&own) {
        return Finding::no(client, format!("{why}; but {}", describe_missing(facts, &own)), remedy_for(facts, &own));
    }
    let finding = if facts.is_writable(&own) {
        Finding::yes(client, why)
    } else {
        let why = format!("{why}; as PID 1 it can't make cgroups in {own}, which it may not write");
        Finding::partly(client, why, "delegate its own cgroup in that hierarchy to the container")
    };
    if word == "unified" && facts.is_view(&own) { finding.with_note(NO_BPF) } else { finding }
}

fn unrecognised(client: &'static str, facts: &Facts, tree: &Tree) -> Finding {
    let advice = match tree {
        Tree::Unknown(_, at) if !facts.exists(at) => remedy_for(facts, at),
        _ => NOT_V2_ALONE,
    };
    Finding::no(client, format!("{}: as PID 1 it gives up", tree.why()), advice)
}

/// These versions know only v1: on a unified host they try to mount `name=systemd`, and freeze if they can't.
pub(crate) fn from_215_to_229(facts: &Facts) -> Finding {
    let client = "systemd 215-229";
    if facts.type_of(ROOT) == FsType::Tmpfs {
        return in_own_cgroup(client, facts, &Tree::Legacy, format!("{ROOT} is tmpfs: legacy"));
    }
    if facts.is_v2() {
        let why = format!(
            "{ROOT} is cgroup2, which these versions don't know: as PID 1 they can't mount cgroup v1, and freeze"
        );
        return Finding::no(client, why, "use a guest with a newer systemd, or a host with cgroup v1");
    }
    unrecognised(client, facts, &Tree::of(facts))
}

/// tmpfs means legacy, whatever is in it; 232 checks `systemd` for cgroup2.
pub(crate) fn from_230_to_232(facts: &Facts) -> Finding {
    let client = "systemd 230-232";
    match Tree::of(facts) {
        tree @ Tree::Unified => as_pid1(client, facts, &tree),
        _ if facts.type_of(ROOT) == FsType::Tmpfs => {
            in_own_cgroup(client, facts, &Tree::Legacy, format!("{ROOT} is tmpfs: legacy"))
        }
        tree => unrecognised(client, facts, &tree),
    }
}

pub(crate) fn from_233_to_235(facts: &Facts) -> Finding {
    let client = "systemd 233-235";
    match Tree::of(facts) {
        Tree::Odd(odd) => {
            let why = format!("{SYSTEMD} {odd}, which these versions don't know (systemd#6477): as PID 1 it gives up");
            Finding::no(client, why, "use another version: 236 and later assume legacy there, 232 doesn't look")
        }
        tree @ Tree::Unknown(..) => unrecognised(client, facts, &tree),
        tree => as_pid1(client, facts, &tree),
    }
}

pub(crate) fn from_236_to_255(facts: &Facts) -> Finding {
    current("systemd 236-255", facts)
}

fn current(client: &'static str, facts: &Facts) -> Finding {
    match Tree::of(facts) {
        tree @ Tree::Unknown(..) => unrecognised(client, facts, &tree),
        tree => as_pid1(client, facts, &tree),
    }
}

pub(crate) fn versions_256_and_257(facts: &Facts) -> Finding {
    let client = "systemd 256, 257";
    match Tree::of(facts) {
        Tree::Unified | Tree::Unknown(..) => current(client, facts),
        tree => {
            let why = format!("{}; as PID 1 these versions refuse v1, or wait for 30 s first", tree.why());
            let advice = "put SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 on the kernel's command line, or take an older one";
            Finding::partly(client, why, advice)
        }
    }
}

pub(crate) fn from_258(facts: &Facts) -> Finding {
    let client = "systemd >= 258";
    match Tree::of(facts) {
        tree @ Tree::Unified => as_pid1(client, facts, &tree),
        _ => {
            let why = format!("{ROOT} {}, and nothing but cgroup2 will do", facts.type_of(ROOT));
            Finding::no(client, why, format!("it needs a unified host; there, {NAMESPACE}"))
        }
    }
}

/// They decide as systemd 236 and later do, and read `cgroup.procs`.
pub(crate) fn cgls_and_cgtop(facts: &Facts) -> Finding {
    let client = "systemd-cgls, systemd-cgtop";
    let tree = Tree::of(facts);
    let directory = match tree {
        Tree::Unified => ROOT,
        Tree::Hybrid(at) => at,
        Tree::Legacy | Tree::Odd(_) => SYSTEMD,
        Tree::Unknown(..) => {
            return Finding { why: tree.why(), ..unrecognised(client, facts, &tree) };
        }
    };
    if facts.exists(directory) {
        Finding::yes(client, tree.why())
    } else {
        Finding::no(client, describe_missing(facts, directory), remedy_for(facts, directory))
    }
}
