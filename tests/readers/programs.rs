//! Programs that read limits, and what they say.

use std::io::{self, Write as _};
use std::process::Command;

use testkit::Need;

use crate::containers::{Kind, Scene, others};
use crate::limits::Where;

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
    /// What `doctor` calls it, by what it says of its version.
    client: Client,
    command: fn(&Scene) -> Vec<String>,
    /// What was printed, as numbers.
    read: fn(&str) -> Numbers,
}

/// What `doctor` calls a program.
#[derive(Clone, Copy)]
enum Client {
    /// It has no model of it.
    None,
    Is(&'static str),
    /// By the version that a command prints.
    ByVersion(&'static [&'static str], fn(&str) -> &'static str),
}

/// What a program takes; `None` for what it doesn't ask for.
#[derive(Clone, Debug, Default)]
struct Numbers {
    cpus: Option<u64>,
    /// Bytes; all that the machine has, or more, is no limit.
    memory: Option<u64>,
    pids: Option<String>,
    text: Option<String>,
}

impl Numbers {
    fn shown(&self) -> String {
        let memory = self.memory.map(|bytes| {
            if bytes >= memory_of_the_machine() { "no limit".to_owned() } else { format!("{bytes} bytes") }
        });
        let parts = [self.cpus.map(|count| format!("{count} CPUs")), memory, self.pids.clone(), self.text.clone()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// The same as `doctor` has it.
    fn of(&self, finding: &serde_json::Value) -> String {
        let taken = |quantity: &str| {
            let mut numbers = finding["numbers"].as_array().into_iter().flatten();
            let number = numbers.find(|number| number["quantity"] == quantity)?;
            Some(number["value"].as_u64().unwrap_or(u64::MAX))
        };
        let cpus = self.cpus.and_then(|_| taken("cpus"));
        let memory = self.memory.and_then(|_| taken("memory"));
        Self { cpus, memory, ..Self::default() }.shown()
    }
}

fn memory_of_the_machine() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("MemTotal");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024
}

/// A number, as some print it: Node.js has no whole ones beyond 2^53.
fn number(text: &str) -> u64 {
    let text = text.trim();
    text.parse::<f64>().unwrap_or_else(|_| panic!("{text:?} is no number")) as u64
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn cpus(text: &str) -> Numbers {
    Numbers { cpus: Some(number(text)), ..Numbers::default() }
}

fn memory(text: &str) -> Numbers {
    Numbers { memory: Some(number(text)), ..Numbers::default() }
}

/// Bytes. Node.js has no number, or 0, where it knows of no limit.
fn constrained(text: &str) -> Numbers {
    let is_unknown = matches!(text.trim(), "undefined" | "0");
    if is_unknown { Numbers { memory: Some(u64::MAX), ..Numbers::default() } } else { memory(text) }
}

/// CPUs and bytes, with whitespace between.
fn both(text: &str) -> Numbers {
    let (cpus, bytes) = text.trim().split_once(char::is_whitespace).expect("two numbers");
    Numbers { cpus: Some(number(cpus)), memory: Some(number(bytes)), ..Numbers::default() }
}

fn words_of(text: &str) -> Numbers {
    let words: Vec<&str> = text.split_whitespace().collect();
    Numbers { text: Some(words.join(" ")), ..Numbers::default() }
}

/// The last number after a text in the JVM's log.
fn after<'a>(log: &'a str, text: &str) -> &'a str {
    let line = log.lines().rev().find(|line| line.contains(text)).unwrap_or_default();
    line.rsplit(text).next().unwrap_or_default().split_whitespace().next().unwrap_or("?")
}

fn jvm(log: &str) -> Numbers {
    let has_found_nothing = ["is_containerized() = false", "No relevant cgroup controllers mounted"];
    if has_found_nothing.iter().any(|text| log.contains(text)) {
        // It takes what the machine has.
        let cpus = std::thread::available_parallelism().expect("a number of CPUs").get() as u64;
        return Numbers { cpus: Some(cpus), memory: Some(u64::MAX), ..Numbers::default() };
    }
    assert!(log.contains("active_processor_count: "), "no number of CPUs in the JVM's log:\n{log}");
    let memory = match after(log, "Memory Limit is: ") {
        "Unlimited" => u64::MAX,
        bytes => number(bytes),
    };
    Numbers { cpus: Some(number(after(log, "active_processor_count: "))), memory: Some(memory), ..Numbers::default() }
}

/// Without a limit it's all that the machine has, else three quarters.
fn dotnet(text: &str) -> Numbers {
    let numbers = both(text);
    let limit = |bytes| if bytes >= memory_of_the_machine() { bytes } else { bytes / 3 * 4 };
    Numbers { memory: numbers.memory.map(limit), ..numbers }
}

fn node(version: &str) -> &'static str {
    match version.trim().trim_start_matches('v').split('.').next() {
        Some("18") => "Node.js 18 (libuv 1.44)",
        Some("20") => "Node.js 20 (libuv 1.46)",
        _ => "Node.js 24 (libuv 1.50)",
    }
}

fn nproc(version: &str) -> &'static str {
    let version = version.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let is_new = (number(major), number(minor)) >= (9, 8);
    if is_new { "nproc (coreutils >= 9.8)" } else { "nproc (coreutils < 9.8)" }
}

const HOTSPOT: Client = Client::Is("JVM (hotspot) 8u372 to 21");

const CONTAINER_LOG: &str = "-Xlog:os+container=trace -version";

const PROGRAMS: [Program; 13] = [
    Program {
        name: "Rust",
        from: From::Here,
        client: Client::Is("Rust std"),
        command: |_| words("/probe --parallelism"),
        read: cpus,
    },
    Program {
        name: "nproc",
        from: From::Package("nproc"),
        client: Client::ByVersion(&["nproc", "--version"], nproc),
        command: |_| words("nproc"),
        read: cpus,
    },
    Program {
        name: "Python",
        from: From::Package("python3"),
        client: Client::Is("Python os.process_cpu_count"),
        // What os.process_cpu_count() is from 3.13 on.
        command: |_| python("import os; print(len(os.sched_getaffinity(0)))"),
        read: cpus,
    },
    Program {
        name: "psutil",
        from: From::Package("python3"),
        client: Client::Is("Python psutil"),
        command: |_| python("import psutil; print(psutil.cpu_count(), psutil.virtual_memory().total)"),
        read: both,
    },
    Program {
        name: "Node.js",
        from: From::Package("node"),
        client: Client::ByVersion(&["node", "--version"], node),
        command: |_| words("node -p process.constrainedMemory()"),
        read: constrained,
    },
    Program {
        name: "Node.js 20",
        from: From::Elsewhere("node20"),
        client: Client::Is("Node.js 20 (libuv 1.46)"),
        command: |_| words("/readers/node20 -p process.constrainedMemory()"),
        read: constrained,
    },
    Program {
        name: "JVM",
        from: From::Package("java"),
        client: HOTSPOT,
        command: |_| words(&format!("java {CONTAINER_LOG}")),
        read: jvm,
    },
    Program {
        name: "JVM 21",
        from: From::Elsewhere("jdk21/bin/java"),
        client: HOTSPOT,
        command: |_| words(&format!("/readers/jdk21/bin/java {CONTAINER_LOG}")),
        read: jvm,
    },
    Program {
        name: "Go 1.25",
        from: From::Elsewhere("go-limits"),
        client: Client::Is("Go >= 1.25"),
        command: |_| words("/readers/go-limits"),
        read: |text| cpus(text.split(' ').next().unwrap_or_default()),
    },
    Program {
        name: ".NET 8",
        from: From::Elsewhere("dotnet/dotnet"),
        client: Client::Is(".NET 8"),
        command: |_| words("/readers/dotnet/dotnet /readers/dotnet/limits.dll"),
        read: dotnet,
    },
    Program {
        name: "libcgroup",
        from: From::Package("cgget"),
        client: Client::None,
        command: |scene| {
            // Whichever name the container's own cgroup has there.
            let ask = "cgget -n -v -r pids.max \"$1\" 2>/dev/null || cgget -n -v -r pids.max /";
            let own = scene.path_in("pids").or_else(|| scene.path_in("")).unwrap_or_default();
            ["sh", "-c", ask, "sh", &own].map(str::to_owned).to_vec()
        },
        read: |text| Numbers { pids: Some(format!("{} processes", text.trim())), ..Numbers::default() },
    },
    Program {
        name: "busybox cat",
        from: From::Package("busybox"),
        client: Client::None,
        command: |scene| busybox(scene, "cat \"$file\""),
        read: words_of,
    },
    Program {
        name: "busybox cp",
        from: From::Package("busybox"),
        client: Client::None,
        command: |scene| busybox(scene, "cp \"$file\" /proc/self/fd/1"),
        read: words_of,
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
        // Not everywhere is there a link `cpu`.
        ("cpu*", "cpu", "cpu.cfs_quota_us"),
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
    pub(crate) fn ask(&self, scene: &Scene) -> Reading {
        let command = (self.command)(scene);
        let said = scene.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let (text, wrong) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{command:?}: {wrong}");
        Reading((self.read)(&text))
    }

    /// What `doctor` says that it reads. `None` if it has no model of it.
    pub(crate) fn expected(&self, reading: &Reading, doctor: &serde_json::Value) -> Option<String> {
        let client = match self.client {
            Client::None => return None,
            Client::Is(name) => name,
            Client::ByVersion(command, name) => {
                let said = Command::new(command[0]).args(&command[1..]).output().expect("a version");
                name(&String::from_utf8_lossy(&said.stdout))
            }
        };
        let clients = doctor["clients"].as_array().expect("clients");
        let finding = clients.iter().find(|finding| finding["client"] == client);
        Some(reading.0.of(finding.unwrap_or_else(|| panic!("doctor doesn't know {client}"))))
    }
}

impl Program {
    /// What it reads in a view, if it doesn't find it natively: Go joins a v1 mount point and what /proc/self/cgroup says, and strips no mount's
    /// root. A view shows that path, too, beside its root. On v2 nspawn mounts the container's own cgroup once more below the tree, and Go takes
    /// that mount.
    pub(crate) fn finds(&self, kind: Kind, limits: Where) -> Option<&'static str> {
        let is_bound = matches!(kind, Kind::Oci { cgroup_namespace: false, .. } | Kind::Podman);
        let is_go = matches!(self.client, Client::Is("Go >= 1.25"));
        let misses_it = if hierarchy_is_unified("cpu") { matches!(kind, Kind::Nspawn) } else { is_bound };
        // One CPU, of which Go makes two at least.
        (is_go && misses_it && limits == Where::Container).then_some("2 CPUs")
    }
}

fn hierarchy_is_unified(controller: &str) -> bool {
    testkit::hierarchy(controller).is_none_or(|found| found.is_unified())
}

/// What a program reads.
#[derive(Clone, Debug)]
pub(crate) struct Reading(Numbers);

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.shown())
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
