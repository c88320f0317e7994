//! Programs that read limits, and what they say.

use std::io::{self, Write as _};

use testkit::Need;

use crate::containers::{Scene, others};

/// Where a program is from.
#[derive(Clone, Copy)]
enum From {
    /// Debian's packages; this is its file.
    Package(&'static str),
    /// The folder that has what they haven't.
    Elsewhere(&'static str),
    /// This project.
    Here,
}

/// A program.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    from: From,
    /// What `doctor` calls it, if it has a model of it.
    client: Option<&'static str>,
    command: fn(&Scene) -> Vec<String>,
    /// Makes of what was printed the numbers that it means, `2 CPUs` for instance.
    read: fn(&str) -> String,
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn cpus(text: &str) -> String {
    format!("{} CPUs", text.trim())
}

fn bytes(text: &str) -> String {
    format!("{} bytes", text.trim())
}

/// The last number after a text in the JVM's log.
fn after<'a>(log: &'a str, text: &str) -> &'a str {
    let line = log.lines().rev().find(|line| line.contains(text)).unwrap_or_default();
    line.rsplit(text).next().unwrap_or_default().split_whitespace().next().unwrap_or("?")
}

fn jvm(log: &str) -> String {
    format!("{} CPUs, {} bytes", after(log, "active_processor_count: "), after(log, "Memory Limit is: "))
}

const CONTAINER_LOG: &str = "-Xlog:os+container=trace -version";

const PROGRAMS: [Program; 13] = [
    Program {
        name: "Rust",
        from: From::Here,
        client: Some("Rust"),
        command: |_| words("/probe --parallelism"),
        read: cpus,
    },
    Program {
        name: "nproc",
        from: From::Package("nproc"),
        client: Some("nproc"),
        command: |_| words("nproc"),
        read: cpus,
    },
    Program {
        name: "Python",
        from: From::Package("python3"),
        client: Some("Python"),
        // What os.process_cpu_count() is from 3.13 on.
        command: |_| python("import os; print(len(os.sched_getaffinity(0)))"),
        read: cpus,
    },
    Program {
        name: "psutil",
        from: From::Package("python3"),
        client: Some("psutil"),
        command: |_| {
            python("import psutil; print(psutil.cpu_count(), 'CPUs,', psutil.virtual_memory().total, 'bytes')")
        },
        read: |text| text.trim().to_owned(),
    },
    Program {
        name: "Node.js",
        from: From::Package("node"),
        client: Some("Node.js"),
        command: |_| words("node -p process.constrainedMemory()"),
        read: bytes,
    },
    Program {
        name: "Node.js 20",
        from: From::Elsewhere("node20"),
        client: Some("Node.js"),
        command: |_| words("/readers/node20 -p process.constrainedMemory()"),
        read: bytes,
    },
    Program {
        name: "JVM",
        from: From::Package("java"),
        client: Some("JVM"),
        command: |_| words(&format!("java {CONTAINER_LOG}")),
        read: jvm,
    },
    Program {
        name: "JVM 21",
        from: From::Elsewhere("jdk21/bin/java"),
        client: Some("JVM"),
        command: |_| words(&format!("/readers/jdk21/bin/java {CONTAINER_LOG}")),
        read: jvm,
    },
    Program {
        name: "Go 1.25",
        from: From::Elsewhere("go-limits"),
        client: Some("Go"),
        command: |_| words("/readers/go-limits"),
        read: |text| cpus(text.split(' ').next().unwrap_or_default()),
    },
    Program {
        name: ".NET 8",
        from: From::Elsewhere("dotnet/dotnet"),
        client: Some(".NET"),
        command: |_| words("/readers/dotnet/dotnet /readers/dotnet/limits.dll"),
        read: |text| {
            let mut lines = text.lines();
            format!("{} CPUs, {} bytes", lines.next().unwrap_or_default(), lines.next().unwrap_or_default())
        },
    },
    Program {
        name: "libcgroup",
        from: From::Package("cgget"),
        client: None,
        command: |scene| {
            // Whichever name the container's own cgroup has there.
            let ask = "cgget -n -v -r pids.max \"$1\" 2>/dev/null || cgget -n -v -r pids.max /";
            let own = scene.path_in("pids").or_else(|| scene.path_in("")).unwrap_or_default();
            ["sh", "-c", ask, "sh", &own].map(str::to_owned).to_vec()
        },
        read: |text| format!("{} processes", text.trim()),
    },
    Program {
        name: "busybox cat",
        from: From::Package("busybox"),
        client: None,
        command: |scene| busybox(scene, "cat \"$file\""),
        read: |text| text.split_whitespace().collect::<Vec<_>>().join(" "),
    },
    Program {
        name: "busybox cp",
        from: From::Package("busybox"),
        client: None,
        command: |scene| busybox(scene, "cp \"$file\" /proc/self/fd/1"),
        read: |text| text.split_whitespace().collect::<Vec<_>>().join(" "),
    },
];

fn python(script: &str) -> Vec<String> {
    ["python3", "-Ic", script].map(str::to_owned).to_vec()
}

/// What is at the root of a hierarchy, where monitors look that know no cgroups, or else in the container's own cgroup.
fn busybox(scene: &Scene, command: &str) -> Vec<String> {
    let mut script = String::from("cd /sys/fs/cgroup\n");
    for (directory, controller, names) in [
        ("memory", "memory", "memory.limit_in_bytes"),
        ("cpu", "cpu", "cpu.cfs_quota_us"),
        ("pids", "pids", "pids.max"),
        (".", "", "memory.max cpu.max pids.max"),
    ] {
        let own = scene.path_in(controller).unwrap_or_default();
        for name in names.split(' ') {
            script.push_str(&format!(
                "for file in {directory}/{name} {directory}{own}/{name}; do \
                 if [ -e \"$file\" ]; then busybox {command}; break; fi; done\n"
            ));
        }
    }
    vec!["busybox".into(), "sh".into(), "-ec".into(), script]
}

impl Program {
    fn is_here(&self) -> bool {
        match self.from {
            From::Here => true,
            From::Package(name) => testkit::missing(&[Need::Program(name)]).is_none(),
            From::Elsewhere(name) => others().is_some_and(|folder| {
                assert!(folder.join(name).exists(), "{} has no {name}", folder.display());
                true
            }),
        }
    }

    /// What it reads in a container.
    pub(crate) fn ask(&self, scene: &Scene) -> String {
        let command = (self.command)(scene);
        let said = scene.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let (text, wrong) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{command:?}: {wrong}");
        (self.read)(&text)
    }

    /// What `doctor` says that it reads. `None` if it has no model of it.
    pub(crate) fn expected(&self, doctor: &serde_json::Value) -> Option<String> {
        let _ = (self.client, doctor);
        None
    }
}

/// Those that can be asked here. What is left out is said.
pub(crate) fn here() -> Vec<&'static Program> {
    let (here, absent): (Vec<&Program>, Vec<&Program>) = PROGRAMS.iter().partition(|program| program.is_here());
    if !absent.is_empty() {
        let names: Vec<&str> = absent.iter().map(|program| program.name).collect();
        let _ = writeln!(io::stderr(), "left out: {} (tests/vm/run --suite readers has them)", names.join(", "));
    }
    here
}
