//! Language runtimes, which look for their limits.

use super::{MOUNT, STACK, lacking, mending};
use crate::cgroup::MountEntry;
use crate::cli::doctor::facts::{Answer, Facts, ROOT, join, join_below, point};
use crate::cli::doctor::finding::{Finding, Recognised};

/// The client finds the line; whether it also finds its cgroup, `own` says.
fn at(client: &'static str, facts: &Facts, why: String, own: Option<String>) -> Finding {
    match own {
        Some(own) if facts.exists(&own) => Finding::yes(client, format!("{why}; its cgroup is {own}")),
        Some(own) => Finding::no(client, format!("{why}; but {}", lacking(facts, &own)), mending(facts, &own)),
        None => Finding::no(
            client,
            format!("{why}; but its cgroup isn't below what is mounted there"),
            "bind the root of the real hierarchy beneath the view, or with a cgroup namespace the container's own cgroup",
        ),
    }
}

fn no_line(client: &'static str, facts: &Facts, what: &str) -> Finding {
    let is_view = facts.views().next().is_some();
    Finding::no(client, format!("mountinfo has no line {what}"), if is_view { STACK } else { MOUNT })
}

/// What is left of the path below the mount's root; the own path of another root isn't found (JDK 17: a null path).
fn own_by_line(facts: &Facts, line: &MountEntry, word: &str) -> Option<String> {
    join_below(line, facts.own_path(word)?)
}

/// hotspot 17 and later.
pub(super) fn jvm(facts: &Facts) -> Finding {
    let client = "JVM (hotspot)";
    if facts.is_v2() {
        let Some(line) = facts.line("unified") else { return no_line(client, facts, "of type cgroup2") };
        // On v2 the mount's root stays where it is (`CgroupV2Controller::construct_path`).
        let own = facts.own_path("unified").map(|path| join(&point(line), path));
        return at(client, facts, format!("{ROOT} is cgroup2"), own);
    }
    let mut own = None;
    for word in ["memory", "cpu", "cpuacct", "cpuset"] {
        if !facts.is_enabled(word) {
            let advice = "it needs memory, cpu, cpuacct and cpuset; a kernel without one gives it no container support";
            return Finding::no(client, format!("/proc/cgroups doesn't have {word} enabled"), advice);
        }
        let Some(line) = facts.line(word) else { return no_line(client, facts, &format!("'cgroup' with {word}")) };
        own = own_by_line(facts, line, word);
        if own.as_ref().is_none_or(|own| !facts.exists(own)) {
            break;
        }
    }
    at(client, facts, "mountinfo has 'cgroup' lines with memory, cpu, cpuacct and cpuset".to_owned(), own)
}

pub(super) fn automaxprocs(facts: &Facts) -> Finding {
    let client = "Go automaxprocs";
    let v2 = facts.line("unified").filter(|line| point(line) == ROOT);
    if v2.is_some() {
        let own = facts.own_path("unified").map(|path| join(ROOT, path));
        return at(client, facts, format!("mountinfo has cgroup2 on {ROOT}"), own);
    }
    let Some(line) = facts.line("cpu") else { return no_line(client, facts, "'cgroup' with cpu") };
    at(client, facts, "mountinfo has a 'cgroup' line with cpu".to_owned(), own_by_line(facts, line, "cpu"))
}

/// The runtime since 1.25. It adds the path to the mount point, whatever is mounted there.
pub(super) fn go(facts: &Facts) -> Finding {
    let client = "Go >= 1.25";
    let word = if facts.hierarchy("cpu").is_some() { "cpu" } else { "unified" };
    let what = if word == "cpu" { "'cgroup' with cpu" } else { "of type cgroup2" };
    let Some(line) = facts.line(word) else { return no_line(client, facts, what) };
    let own = facts.own_path(word).map(|path| join(&point(line), path));
    at(client, facts, format!("mountinfo has a line {what}"), own)
}

/// It takes the mount's root off the path where that stands in front of it, else it takes the whole path (`FindCGroupPath`).
pub(super) fn dotnet(facts: &Facts) -> Finding {
    const ADVICE: &str = "tell it the limit of memory (DOTNET_GCHeapHardLimit)";
    let client = ".NET";
    let has_no_memory = !facts.is_v2() && facts.hierarchy("memory").is_none() && facts.hierarchy("cpu").is_some();
    let (word, what) = match (facts.is_v2(), has_no_memory) {
        (true, _) => ("unified", "of type cgroup2"),
        (false, true) => ("cpu", "'cgroup' with cpu"),
        (false, false) => ("memory", "'cgroup' with memory"),
    };
    let Some(line) = facts.line(word) else { return no_line(client, facts, what) };
    let whole = || facts.own_path(word).map(|path| join(&point(line), path));
    let own = own_by_line(facts, line, word).or_else(whole);
    let found = at(client, facts, format!("{ROOT} {}, and mountinfo has a line {what}", facts.type_of(ROOT)), own);
    if has_no_memory && found.recognised == Recognised::Yes {
        let why = format!(
            "{}; but v1 has no memory here, so it sees how many CPUs it has, and no limit of memory",
            found.why
        );
        return Finding::partly(client, why, ADVICE);
    }
    found
}

/// libuv 1.44, which is in Node.js up to 20.2: one file at the top of v1's memory hierarchy, whatever `/proc/self/cgroup` says.
pub(super) fn old_node(facts: &Facts) -> Finding {
    const ADVICE: &str = "use Node.js 20.3 or later, or tell it the limit (--max-old-space-size); on v1, shape rooted with a cgroup namespace \
                          puts the own cgroup there";
    let client = "Node.js 18 (libuv 1.44)";
    let top = format!("{ROOT}/memory");
    let limit = format!("{top}/memory.limit_in_bytes");
    match facts.at(&limit) {
        Answer::Found(_) => {}
        Answer::Failed(libc::ENOTCONN) | Answer::Silent => {
            return Finding::no(client, lacking(facts, &limit), mending(facts, &limit));
        }
        Answer::Failed(_) => {
            let why = format!("{}, and it reads no other limit, wherever its cgroup is", lacking(facts, &limit));
            return Finding::no(client, why, ADVICE);
        }
    }
    let is_own = facts.own_path("memory").is_some_and(|path| {
        let line = facts.line("memory").filter(|line| point(line) == top);
        path.is_root() || line.and_then(|line| join_below(line, path)).as_ref() == Some(&top)
    });
    if is_own {
        return Finding::yes(client, format!("it reads {limit}, which is its own cgroup's"));
    }
    let why = format!("it reads {limit}, wherever its own cgroup is: that may be another one's limit");
    Finding::partly(client, why, ADVICE)
}

/// libuv 1.46: no check at all, files or nothing.
pub(super) fn node(facts: &Facts) -> Finding {
    let client = "Node.js 20 (libuv 1.46)";
    let (base, file, word) = if facts.process.cgroup.starts_with("0::/") {
        (ROOT.to_owned(), "memory.max", "unified")
    } else {
        (format!("{ROOT}/memory"), "memory.limit_in_bytes", "memory")
    };
    let Some(path) = facts.own_path(word) else {
        return Finding::no(client, format!("/proc/self/cgroup has no usable line for {word}"), MOUNT);
    };
    let own = join(&base, path);
    let limit = format!("{own}/{file}");
    if facts.exists(&limit) {
        return Finding::yes(client, format!("it reads {limit}"));
    }
    let fallback = format!("{base}/{file}");
    if word == "memory" && facts.exists(&fallback) {
        let why = format!("{}: it reads {fallback} instead", lacking(facts, &limit));
        return Finding::partly(client, why, mending(facts, &limit));
    }
    if word == "unified" && facts.exists(&own) {
        let why = format!("{own} is there, without {file}: no limit (the root cgroup, or no memory controller)");
        return Finding::partly(client, why, "enable the memory controller in the parent's cgroup.subtree_control");
    }
    Finding::no(client, lacking(facts, &limit), mending(facts, &limit))
}

/// std's available_parallelism.
pub(super) fn rust(facts: &Facts) -> Finding {
    let client = "Rust std";
    let Some(path) = facts.own_path("cpu") else {
        let Some(path) = facts.own_path("unified") else {
            return Finding::no(client, "/proc/self/cgroup has no usable line for cpu or cgroup2", MOUNT);
        };
        let controllers = format!("{}/cgroup.controllers", join(ROOT, path));
        return if facts.exists(&controllers) {
            Finding::yes(client, format!("{controllers} is there"))
        } else {
            Finding::no(client, lacking(facts, &controllers), mending(facts, &controllers))
        };
    };
    let usual = ["cpu", "cpu,cpuacct"].map(|name| join(&format!("{ROOT}/{name}"), path));
    if let Some(own) = usual.iter().find(|own| facts.exists(own)) {
        return Finding::yes(client, format!("{own} is there"));
    }
    let by_line = facts.line("cpu").and_then(|line| join_below(line, path));
    let [first, _] = usual;
    match by_line.filter(|own| facts.exists(own)) {
        Some(own) => Finding::yes(client, format!("mountinfo leads it to {own}")),
        None => Finding::no(client, lacking(facts, &first), mending(facts, &first)),
    }
}
