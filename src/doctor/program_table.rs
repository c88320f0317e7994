//! By what each program is found in a container.

/// A program by which clients are recognised.
pub(crate) struct Program {
    /// Its name.
    pub(crate) name: &'static str,
    /// The names of its rows in the table of clients begin with one of these.
    pub(crate) clients: &'static [&'static str],
    /// Names of the executable file.
    pub(crate) executables: &'static [&'static str],
    /// Beginnings of the names of libraries. A version may follow.
    pub(crate) libraries: &'static [&'static str],
    /// Files that are there if it's installed.
    pub(crate) files: &'static [&'static str],
}

/// All programs, in the order in which they are shown.
pub(crate) const PROGRAMS: [Program; 16] = [
    Program {
        name: "systemd",
        clients: &["systemd "],
        executables: &["systemd"],
        libraries: &["libsystemd-shared-"],
        files: &["/usr/lib/systemd/systemd", "/lib/systemd/systemd"],
    },
    Program {
        name: "elogind",
        clients: &["elogind"],
        executables: &["elogind", "elogind-daemon"],
        libraries: &[],
        files: &["/usr/lib/elogind/elogind", "/lib/elogind/elogind", "/usr/libexec/elogind/elogind"],
    },
    Program {
        name: "OpenRC",
        clients: &["OpenRC"],
        executables: &["openrc-init", "openrc", "supervise-daemon"],
        libraries: &[],
        files: &["/sbin/openrc", "/usr/bin/openrc"],
    },
    Program {
        name: "runc",
        clients: &["runc, "],
        executables: &["runc", "kubelet", "cadvisor"],
        libraries: &[],
        files: &["/usr/bin/runc", "/usr/sbin/runc", "/usr/local/bin/runc", "/usr/local/sbin/runc", "/usr/bin/kubelet"],
    },
    Program {
        name: "containerd",
        clients: &["containerd"],
        executables: &["containerd", "containerd-shim", "containerd-shim-runc-v2"],
        libraries: &[],
        files: &["/usr/bin/containerd", "/usr/local/bin/containerd"],
    },
    Program {
        name: "dockerd",
        clients: &["dockerd", "Docker "],
        executables: &["dockerd"],
        libraries: &[],
        files: &["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"],
    },
    Program {
        name: "crun",
        clients: &["crun"],
        executables: &["crun"],
        libraries: &[],
        files: &["/usr/bin/crun", "/usr/local/bin/crun"],
    },
    Program {
        name: "podman",
        clients: &["podman"],
        executables: &["podman", "conmon"],
        libraries: &[],
        files: &["/usr/bin/podman", "/usr/local/bin/podman"],
    },
    Program {
        name: "youki",
        clients: &["youki"],
        executables: &["youki"],
        libraries: &[],
        files: &["/usr/bin/youki", "/usr/local/bin/youki"],
    },
    Program {
        name: "LXC",
        clients: &["LXC ", "lxc-checkconfig"],
        executables: &["lxc-start", "lxc-monitord", "lxd", "incusd"],
        libraries: &["liblxc.so"],
        files: &["/usr/bin/lxc-start"],
    },
    Program {
        name: "JVM",
        clients: &["JVM "],
        executables: &["java"],
        libraries: &["libjvm.so"],
        files: &["/usr/bin/java", "/usr/local/openjdk/bin/java", "/opt/java/openjdk/bin/java"],
    },
    Program { name: "Go", clients: &["Go "], executables: &[], libraries: &[], files: &[] },
    Program {
        name: ".NET",
        clients: &[".NET "],
        executables: &["dotnet"],
        libraries: &["libcoreclr.so"],
        files: &["/usr/bin/dotnet", "/usr/share/dotnet/dotnet"],
    },
    Program {
        name: "Node.js",
        clients: &["Node.js "],
        executables: &["node", "nodejs"],
        libraries: &["libnode.so"],
        files: &["/usr/bin/node", "/usr/local/bin/node"],
    },
    Program {
        name: "busybox",
        clients: &["busybox"],
        executables: &["busybox"],
        libraries: &[],
        files: &["/bin/busybox", "/etc/alpine-release"],
    },
    Program {
        name: "monitor",
        clients: &["monitors "],
        executables: &["node_exporter", "cadvisor", "agent", "datadog-agent"],
        libraries: &[],
        files: &[],
    },
];

/// The programs that run Python or a shell are too many, and nothing says what they read. So these clients are shown
/// only if they are named.
#[cfg(test)]
pub(crate) const ONLY_BY_NAME: [&str; 7] =
    ["Rust ", "nproc ", "Python ", "libcgroup", "shell scripts", "Python psutil", "systemd-cgls"];
