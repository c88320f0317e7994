//! The programs that `doctor` knows: one table, made from their sources.
//!
//! To add a client, write its model (what it reads, in its order, with its roundings) or its judgement (whether it
//! works at all) beside the others, and add a row that names its source. Models make no system calls: they query
//! [`System`] and [`Files`].

mod affinity;
mod dotnet;
mod fixed;
mod go;
mod init;
mod jvm;
mod libuv;
mod lxc;
mod runtimes;
mod rust;
mod sendfile;
mod systemd;
mod tools;

pub(crate) use fixed::FILES as FIXED_PATHS;

use super::facts::Facts;
use super::finding::{Finding, Source};
use super::reading::{Files, LimitReading, Rounding, System};

/// How a program is modelled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Model {
    /// The program reads limits.
    Reads(fn(&System, &dyn Files) -> LimitReading, Rounding),
    /// The program works with the tree.
    Works(fn(&Facts) -> Finding),
}

/// A program, in the versions that behave the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) model: Model,
    pub(crate) source: Source,
}

const fn reads(
    name: &'static str,
    model: fn(&System, &dyn Files) -> LimitReading,
    rounding: Rounding,
    source: [&'static str; 4],
) -> Client {
    Client { name, model: Model::Reads(model, rounding), source: source_of(source) }
}

const fn works(name: &'static str, model: fn(&Facts) -> Finding, source: [&'static str; 4]) -> Client {
    Client { name, model: Model::Works(model), source: source_of(source) }
}

const fn source_of([repository, files, version, read]: [&'static str; 4]) -> Source {
    Source { repository, files, version, read }
}

const SYSTEMD: &str = "systemd/systemd";
const CGROUP_UTIL: &str = "src/basic/cgroup-util.c";
const MEASURED: &str = "measured";
const HOTSPOT: &str =
    "src/hotspot/os/linux/cgroupSubsystem_linux.cpp, cgroupV1Subsystem_linux.cpp, cgroupV2Subsystem_linux.cpp";
const CORECLR: &str = "src/coreclr/pal/src/misc/cgroup.cpp, src/coreclr/gc/unix/cgroup.cpp";

/// All programs, in the order in which they are shown.
pub(crate) const CLIENTS: &[Client] = &[
    works("systemd 215-229", systemd::from_215_to_229, [SYSTEMD, CGROUP_UTIL, "v219, measured", "2026-11"]),
    works("systemd 230-232", systemd::from_230_to_232, [SYSTEMD, CGROUP_UTIL, "v232", "2026-10"]),
    works("systemd 233-235", systemd::from_233_to_235, [SYSTEMD, CGROUP_UTIL, "v234", "2026-10"]),
    works("systemd 236-255", systemd::from_236_to_255, [SYSTEMD, CGROUP_UTIL, "v247, v252, measured", "2026-10"]),
    works("systemd 256, 257", systemd::versions_256_and_257, [SYSTEMD, CGROUP_UTIL, "v257", "2026-10"]),
    works("systemd >= 258", systemd::from_258, [SYSTEMD, CGROUP_UTIL, "v258", "2026-10"]),
    works(
        "systemd-cgls, systemd-cgtop",
        systemd::cgls_and_cgtop,
        [SYSTEMD, "src/cgls, src/cgtop", "v252, measured", "2026-10"],
    ),
    works("elogind", init::elogind, ["elogind/elogind", CGROUP_UTIL, "v252", "2026-11"]),
    works("OpenRC", init::openrc, ["OpenRC/openrc", "sh/rc-cgroup.sh", "0.54", "2026-11"]),
    works(
        "runc, kubelet, cadvisor",
        runtimes::runc,
        ["opencontainers/runc", "libcontainer/cgroups", "v1.1.5, measured", "2026-10"],
    ),
    works("containerd", runtimes::containerd, ["containerd/cgroups", "utils.go", "v3", "2026-10"]),
    works("dockerd", runtimes::dockerd, ["moby/moby", "pkg/sysinfo, daemon", "v20.10.24, measured", "2026-10"]),
    works("crun", runtimes::crun, ["containers/crun", "src/libcrun/cgroup-utils.c", "1.8.1, measured", "2026-10"]),
    works("podman", runtimes::podman, ["containers/common", "pkg/cgroups", "v4.3.1 of podman, measured", "2026-10"]),
    works("youki", runtimes::youki, ["youki-dev/youki", "crates/libcgroups", "v0.3", "2026-10"]),
    works("LXC >= 4", lxc::from_4, ["lxc/lxc", "src/lxc/cgroups/cgfsng.c", "5.0, measured", "2026-10"]),
    works("LXC 2", lxc::version_2, ["lxc/lxc", "src/lxc/cgroups/cgfs.c", "2.0", "2026-10"]),
    works(
        "lxc-checkconfig",
        lxc::checkconfig,
        ["lxc/lxc", "src/lxc/cmd/lxc-checkconfig.in", "5.0, measured", "2026-10"],
    ),
    reads(
        "JVM (hotspot) 8u372 to 21",
        jvm::hotspot,
        Rounding::Up,
        ["openjdk/jdk21u-dev", HOTSPOT, "877967fbd823", "2026-11"],
    ),
    reads(
        "JVM (hotspot) 25",
        jvm::hotspot_25,
        Rounding::Up,
        [
            "openjdk/jdk",
            "src/hotspot/os/linux/cgroupSubsystem_linux.cpp, cgroupUtil_linux.cpp",
            "25, 050815c41362",
            "2026-11",
        ],
    ),
    reads(
        "Go automaxprocs",
        go::automaxprocs,
        Rounding::Down,
        ["uber-go/automaxprocs", "internal/cgroups/cgroups.go, cgroups2.go", "1.6", "2026-11"],
    ),
    reads(
        "Go >= 1.25",
        go::runtime,
        Rounding::UpFromTwo,
        ["golang/go", "src/internal/runtime/cgroup, src/runtime/cgroup_linux.go", "go1.25", "2026-11"],
    ),
    reads(".NET 8", dotnet::version_8, Rounding::Up, ["dotnet/runtime", CORECLR, "8.0.4, measured", "2026-11"]),
    reads(".NET >= 9", dotnet::version_9, Rounding::Up, ["dotnet/runtime", CORECLR, "0204545b4f69", "2026-11"]),
    reads(
        "Node.js 18 (libuv 1.44)",
        libuv::version_1_44,
        Rounding::Down,
        ["libuv/libuv", "src/unix/linux-core.c", "v1.44.2", "2026-10"],
    ),
    reads(
        "Node.js 20 (libuv 1.46)",
        libuv::version_1_46,
        Rounding::Down,
        ["libuv/libuv", "src/unix/linux.c", "v1.46.0", "2026-11"],
    ),
    reads(
        "Node.js 24 (libuv 1.50)",
        libuv::version_1_50,
        Rounding::Down,
        ["libuv/libuv", "src/unix/linux.c, src/unix/core.c", "012029ab4a77", "2026-11"],
    ),
    reads(
        "Rust std",
        rust::std,
        Rounding::Down,
        ["rust-lang/rust", "library/std/src/sys/thread/unix.rs", "1.95, measured", "2026-11"],
    ),
    reads("Rust num_cpus", rust::num_cpus, Rounding::Up, ["seanmonstar/num_cpus", "src/linux.rs", "1.17.0", "2026-11"]),
    reads(
        "nproc (coreutils >= 9.8)",
        affinity::nproc,
        Rounding::Nearest,
        ["coreutils/gnulib", "lib/nproc.c", "of coreutils 9.8", "2026-11"],
    ),
    reads(
        "nproc (coreutils < 9.8)",
        affinity::alone,
        Rounding::Up,
        ["coreutils/gnulib", "lib/nproc.c", "0481ab520336, measured", "2026-11"],
    ),
    reads(
        "Python os.process_cpu_count",
        affinity::alone,
        Rounding::Up,
        ["python/cpython", "Modules/posixmodule.c", "3.13, measured", "2026-11"],
    ),
    reads(
        "Python psutil",
        affinity::psutil,
        Rounding::Up,
        ["giampaolo/psutil", "psutil/_pslinux.py", "7.0", "2026-11"],
    ),
    reads(
        "Docker sysinfo",
        affinity::docker,
        Rounding::NoQuota,
        ["moby/moby", "pkg/sysinfo/sysinfo_linux.go, cgroup2_linux.go", "v20.10", "2026-11"],
    ),
    works(
        "monitors at fixed paths",
        fixed::monitors,
        ["prometheus/node_exporter, google/cadvisor, DataDog/datadog-agent", MEASURED, MEASURED, "2026-11"],
    ),
    works(
        "busybox, Alpine (sendfile)",
        sendfile::copies,
        ["mirror/busybox", "libbb/copyfd.c", "1.35, measured", "2026-11"],
    ),
    works("libcgroup", tools::libcgroup, ["libcgroup/libcgroup", "src/api.c", "2.0.2, measured", "2026-10"]),
    works("shell scripts", tools::shell, ["", "[ -f /sys/fs/cgroup/cgroup.controllers ]", MEASURED, "2026-10"]),
];
