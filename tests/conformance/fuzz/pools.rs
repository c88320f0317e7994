//! The words of which operations are made: few names, so that operations meet.

use crate::case::Where;

/// A group of interface files that take the same values.
pub(super) struct Files {
    pub(super) names: &'static [&'static str],
    pub(super) values: &'static [&'static str],
}

/// What is written to lists of processes. `$PID` and `0` are the probe; `$C0` and `$C1` its children, if there are any.
pub(super) const MEMBERS: &[&str] = &[
    "0",
    "$PID",
    "$T0",
    "$C0",
    "$C1",
    "$C0\n",
    "$C1",
    "$DEAD",
    "2147483647",
    "4294967296",
    "-1",
    "-0",
    "",
    "x",
    "0x0",
    "00",
    " 0\n",
    "0 0",
    "0\u{0}",
    "0\u{0}1",
    "0\n\n",
    "+0",
    "0x",
    "\n",
    "0;",
    "$PID $C0",
];

/// Of those, what can't name the probe or process 1 of its container.
pub(super) const OTHERS: &[&str] =
    &["$C0", "$C1", "$C0\n", " $C1", "$DEAD", "2147483647", "4294967296", "-1", "", "x", "\n", "$C0 $C1", "0x", "0 0"];

/// Files of lists.
pub(super) fn lists(place: Where) -> &'static [&'static str] {
    match place {
        Where::V2 => &["cgroup.procs", "cgroup.threads"],
        _ => &["cgroup.procs", "tasks"],
    }
}

/// Files that the policy lets be written, other than lists. What stops processes comes only with `freezes`.
pub(super) fn writable(place: Where, freezes: bool) -> Vec<Files> {
    let flag = &["0", "1", "2", "-1", "", "x", "1\n", " 0", "01", "0x1", "18446744073709551616", "0 1"];
    let named = Files { names: &["notify_on_release", "cgroup.clone_children"], values: flag };
    match place {
        Where::V2 => {
            let mut all = vec![
                Files {
                    names: &["cgroup.max.depth", "cgroup.max.descendants"],
                    values: &[
                        "0",
                        "1",
                        "2",
                        "3",
                        "max",
                        "max\n",
                        " max",
                        "-1",
                        "-2147483649",
                        "99999999999",
                        "",
                        "x",
                        "0x2",
                        "1 1",
                    ],
                },
                Files {
                    names: &["cgroup.subtree_control"],
                    values: &[
                        "+hugetlb",
                        "-hugetlb",
                        "+hugetlb\n",
                        "+hugetlb -hugetlb",
                        "+cpu",
                        "-cpu",
                        "+nope",
                        "hugetlb",
                        "",
                        " ",
                        "+",
                        "+hugetlb +hugetlb",
                    ],
                },
                Files { names: &["cgroup.type"], values: &["threaded", "threaded\n", "domain", "", "x", "threaded x"] },
                Files { names: &["cgroup.pressure"], values: &["0", "1", "1\n", "2", "-1", "", "x"] },
                Files {
                    names: &["cpu.pressure", "io.pressure", "memory.pressure"],
                    values: &[
                        "some 150000 1000000",
                        "full 150000 2000000",
                        "some 150000 20000000",
                        "some 0 1000000",
                        "",
                        "x",
                        "some 1000000 1000000\n",
                        "half 150000 1000000",
                    ],
                },
                Files {
                    names: &["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"],
                    values: &["0", "max", "2097152", "1", "4M", "-1", "", "x", "max\n"],
                },
                Files {
                    names: &["cgroup.events", "cgroup.stat", "cgroup.controllers", "cpu.stat", "hugetlb.2MB.current"],
                    values: &["", "0", "1", "x"],
                },
            ];
            if freezes {
                all.push(Files { names: &["cgroup.freeze"], values: &["0", "1", "1\n", "2", "-1", "", "x"] });
                all.push(Files { names: &["cgroup.kill"], values: &["1", "1\n", "0", "2", "-1", "", "x"] });
            } else {
                all.push(Files { names: &["cgroup.freeze"], values: &["0", "2", "-1", "", "x"] });
                all.push(Files { names: &["cgroup.kill"], values: &["0", "2", "", "x"] });
            }
            all
        }
        Where::Pids => vec![
            Files {
                names: &["pids.max"],
                values: &["0", "1", "5", "max", "max\n", "-1", " 7 ", "99999999999", "", "x", "1\n2"],
            },
            Files { names: &["pids.current", "pids.events", "pids.peak"], values: &["", "0", "1", "x"] },
        ],
        Where::Freezer => vec![
            Files {
                names: &["freezer.state"],
                values: if freezes {
                    &["FROZEN", "THAWED", "FROZEN\n", "frozen", "", "FREEZING", "THAWED "]
                } else {
                    &["THAWED", "frozen", "", "FREEZING", "THAWED\n"]
                },
            },
            Files { names: &["freezer.self_freezing", "freezer.parent_freezing"], values: &["", "0", "1"] },
        ],
        Where::Cpuset => vec![
            Files {
                names: &["cpuset.cpus", "cpuset.mems"],
                values: &["0", "0-1", "1", "0,1", "", "\n", "9", "x", "0-", "1-0", "0-1:1/2", "4096"],
            },
            Files {
                names: &[
                    "cpuset.cpu_exclusive",
                    "cpuset.mem_exclusive",
                    "cpuset.mem_hardwall",
                    "cpuset.memory_migrate",
                    "cpuset.memory_spread_page",
                    "cpuset.memory_spread_slab",
                    "cgroup.clone_children",
                ],
                values: flag,
            },
            Files { names: &["cpuset.sched_load_balance"], values: &["1", "x", ""] },
            Files { names: &["cpuset.sched_relax_domain_level"], values: &["-1", "0", "1", "6", "-2", "x", ""] },
            Files { names: &["cpuset.effective_cpus", "cpuset.memory_pressure"], values: &["", "0", "x"] },
        ],
        Where::Systemd => vec![named],
        // Not fuzzed: what it counts moves by itself.
        Where::Memory => Vec::new(),
    }
}

/// Files that the kernel lets be written and the policy doesn't: they are only read.
pub(crate) fn rejected(place: Where) -> &'static [&'static str] {
    match place {
        Where::V2 | Where::Systemd => &[],
        Where::Cpuset => &["notify_on_release"],
        Where::Pids | Where::Freezer | Where::Memory => &["notify_on_release", "cgroup.clone_children"],
    }
}

/// Names that no file has.
pub(super) const NOTHING: &[&str] =
    &["none", "cgroup.none", "release_agent", "memory.max", "cgroup.procs.", "Cgroup.procs", "cgroup.sane_behavior"];

/// Cgroups below the case's own, which is the empty name.
pub(super) const PLACES: &[&str] = &["", "/a", "/b", "/a/b", "", "/a", "/b", "/a/b", "", "/a", "/a/c", "/a/b/a"];

/// The last part of cgroups with odd names. `L` stands for a long one.
pub(super) const ODD: &[&str] = &[
    "L254",
    "L255",
    "L256",
    "L4095",
    "n\nl",
    "\n",
    "sp ace",
    "é",
    ".hidden",
    "cgroup.x",
    "tasks.d",
    "\u{1}",
    "a\\b",
    "-",
    "~",
    "cgroup.procs",
    "hugetlb.2MB.max",
    "pids.x",
    "..a",
    "%s",
];

/// The possible ends of a path.
pub(super) const ENDS: &[&str] = &["/", "/.", "//", "/./", "/../a", "/.."];

pub(super) const MODES: &[u32] = &[0o644, 0o444, 0o600, 0o000, 0o755, 0o700, 0o1777, 0o222, 0o500];

/// Modes of directories only: a file's set-user bit is one of the known differences.
pub(super) const DIRECTORY_MODES: &[u32] = &[0o4755, 0o2755, 0o7777];

pub(super) const XATTRS: &[&str] = &[
    "user.a",
    "user.a",
    "user.a",
    "user.a",
    "user.b",
    "user.b",
    "user.",
    "trusted.a",
    "trusted.a",
    "security.a",
    "system.posix_acl_access",
    "system.a",
    "a",
    "user.\n",
    "security.capability",
];

pub(super) const FLAGS: &[&str] = &[
    "O_TRUNC",
    "O_APPEND",
    "O_DIRECT",
    "O_PATH",
    "O_NOFOLLOW",
    "O_CREAT",
    "O_EXCL",
    "O_DIRECTORY",
    "O_NONBLOCK",
    "O_SYNC",
    "O_NOATIME",
];
