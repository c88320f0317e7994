//! Every way to read a file × every file of a cgroup in each hierarchy × views of every kind: what comes is what the kernel gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::copying::{CALLS, copy_open};
use testkit::probe::Op;
use testkit::{
    Caller, Container, ContainerOptions, Hierarchy, Need, Programs, TIMEOUT, TestCgroup, View, ViewOptions,
    hierarchies, require, run_to_end,
};

use crate::differences::{passes_through, splice_ends_at_size};

/// A program that copies files: its name, and a script that copies `"$@"` into `$INTO`.
struct Program {
    name: &'static str,
    needs: &'static str,
    script: &'static str,
    /// The program relies on the size: it stops there, and fills the rest with zeros.
    by_size: bool,
}

/// THE list of programs. The system calls are in `testkit::copying`.
const PROGRAMS: &[Program] = &[
    program("cat", "cat", r#"for file; do cat "$file" > "$INTO/${file##*/}"; done"#),
    program("cp", "cp", r#"cp --no-preserve=all "$@" "$INTO""#),
    program("cp --sparse=auto --reflink=auto", "cp", r#"cp --sparse=auto --reflink=auto "$@" "$INTO""#),
    program("busybox cat", "busybox", r#"for file; do busybox cat "$file" > "$INTO/${file##*/}"; done"#),
    program("busybox cp", "busybox", r#"busybox cp "$@" "$INTO""#),
    program("dd", "dd", r#"for file; do dd if="$file" of="$INTO/${file##*/}" status=none; done"#),
    program(
        "python",
        "python3",
        "python3 -c 'import os, shutil, sys\nfor file in sys.argv[1:]: shutil.copyfile(file, os.environ[\"INTO\"] + \"/\" + os.path.basename(file))' \"$@\"",
    ),
    Program {
        name: "tar",
        needs: "tar",
        script: r#"cd "${1%/*}"; for file; do echo "${file##*/}"; done | tar -c -T - 2> "$INTO/.said" | tar -x -C "$INTO""#,
        by_size: true,
    },
    Program {
        name: "rsync",
        needs: "rsync",
        script: r#"rsync --inplace --whole-file "$@" "$INTO" 2> "$INTO/.said" || true"#,
        by_size: true,
    },
];

const fn program(name: &'static str, needs: &'static str, script: &'static str) -> Program {
    Program { name, needs, script, by_size: false }
}

/// The copied content, by the name of the file.
type Copies = BTreeMap<String, Vec<u8>>;

/// The reader, in a container or not.
struct Reader<'a>(Option<&'a Container>);

impl Reader<'_> {
    fn command(&self) -> Command {
        self.0.map_or_else(|| Command::new("env"), |container| container.command(Caller::Root))
    }

    /// Copies files in one way.
    fn copy(&self, way: &str, files: &[PathBuf]) -> (Copies, String) {
        let folder = TempDir::new().expect("a temporary directory");
        let mut command = self.command();
        match PROGRAMS.iter().find(|program| program.name == way) {
            Some(program) => {
                command.arg("env").arg(format!("INTO={}", folder.path().display()));
                command.args(["sh", "-c", program.script, "sh"]);
            }
            None => {
                let probe = self.0.map_or(Programs::find().probe.as_path(), Container::probe);
                command.arg(probe).args(["--copy", way]).arg(folder.path());
            }
        }
        let output = run_to_end(command.args(files), TIMEOUT);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{way}: {said}");
        let copied = fs::read_dir(folder.path()).expect("the copies").flatten();
        let copies =
            copied.map(|entry| (entry.file_name().display().to_string(), fs::read(entry.path()).expect("a copy")));
        let mut copies: Copies = copies.collect();
        let said = copies.remove(".said").map_or(said, |said| String::from_utf8_lossy(&said).into_owned());
        (copies, said)
    }
}

impl Reader<'_> {
    /// Copies the same file again and again: what came each time.
    fn each(&self, call: &str, files: &[PathBuf]) -> Vec<Vec<u8>> {
        let folder = TempDir::new().expect("a temporary directory");
        let probe = self.0.map_or(Programs::find().probe.as_path(), Container::probe);
        let mut command = self.command();
        let output = run_to_end(command.arg(probe).args(["--copy-each", call]).arg(folder.path()).args(files), TIMEOUT);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let copies = fs::read_dir(folder.path()).expect("the copies").flatten();
        copies.map(|entry| fs::read(entry.path()).expect("a copy")).collect()
    }
}

/// The ways of reading that a test tries. A virtual machine of `tests/vm` has no more than the former.
#[derive(Clone, Copy)]
enum Ways {
    /// The system calls, and busybox.
    Calls,
    /// All other programs that are installed.
    Programs,
}

impl Ways {
    fn list(self) -> Vec<&'static str> {
        let wanted = |program: &&Program| (program.needs == "busybox") == matches!(self, Self::Calls);
        let there = |program: &&Program| testkit::missing(&[Need::Program(program.needs)]).is_none();
        let programs = PROGRAMS.iter().filter(wanted).filter(there).map(|program| program.name);
        let calls: &[&str] = if matches!(self, Self::Calls) { &CALLS } else { &[] };
        calls.iter().copied().chain(programs).collect()
    }

    /// What a test can't do without.
    fn needs(self) -> Need {
        match self {
            Self::Calls => Need::Program("busybox"),
            Self::Programs => Need::Program("python3"),
        }
    }
}

/// The files of a directory that can be read. What reading them changes, or takes a device for, isn't there.
fn readable(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).expect("a cgroup").flatten().filter(|entry| {
        let metadata = entry.metadata().expect("an interface file");
        metadata.is_file() && metadata.permissions().mode() & 0o400 != 0 && fs::read(entry.path()).is_ok()
    });
    let mut names: Vec<_> = files.map(|entry| entry.file_name().display().to_string()).collect();
    names.sort();
    names
}

/// The lines that there are, with numbers as one digit, so that what changes has a shape.
fn shape(content: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(content);
    let shape = |line: &str| {
        let mut shape = String::new();
        for one in line.chars() {
            let one = if one.is_ascii_digit() { '0' } else { one };
            if !(one == '0' && shape.ends_with('0')) {
                shape.push(one);
            }
        }
        shape
    };
    text.split_inclusive('\n').map(shape).collect()
}

/// Compares what comes of every way of reading a directory's files with what the kernel gives: the same, or where the reader himself is in there
/// (`busy`), or the host has more, the same but for numbers.
fn compare(ways: Ways, reader: &Reader, real: &Path, shown: &Path, busy: bool, found: &mut Vec<String>) {
    // What is in both: a view may show fewer files than there are.
    let names: Vec<String> = readable(real).into_iter().filter(|name| is_shown(reader, &shown.join(name))).collect();
    let files: Vec<PathBuf> = names.iter().map(|name| shown.join(name)).collect();
    assert!(!files.is_empty(), "{} has no files", shown.display());
    for way in ways.list() {
        let by_size = PROGRAMS.iter().any(|program| program.name == way && program.by_size);
        let sizes = if by_size { sizes(reader, &files) } else { vec![0; files.len()] };
        let read = |name: &String| fs::read(real.join(name)).unwrap_or_default();
        let before: Vec<Vec<u8>> = names.iter().map(read).collect();
        let (mut copies, said) = reader.copy(way, &files);
        for ((name, before), size) in names.iter().zip(before).zip(sizes) {
            let copy = copies.remove(name).unwrap_or_else(|| panic!("{way}: no copy of {name}: {said}"));
            let after = read(name);
            let is_right = if by_size {
                // Nothing, where the size is the kernel's, which is 0; else all there is, and zeros up to the size.
                let end = copy.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                let content = copy.get(..end).unwrap_or_default();
                // What is read in between may make the number one digit longer than the size.
                let cut = [content, b"\n"].concat();
                copy.is_empty() && size == 0
                    || content == before
                    || !shape(content).is_disjoint(&shape(&after))
                    || busy && !shape(&cut).is_disjoint(&shape(&after))
            } else if before == after && !busy {
                copy == before
            } else {
                !copy.is_empty() && !shape(&copy).is_disjoint(&shape(&after)) || copy == after || copy == before
            };
            // What is cut off, or filled up, isn't the kernel's.
            let is_right =
                is_right && (by_size || !copy.contains(&0) && copy.ends_with(b"\n") == after.ends_with(b"\n"));
            if !is_right {
                found.push(format!(
                    "{} by {way}:\n    kernel {:?}\n    view   {:?}\n    {said}",
                    shown.join(name).display(),
                    String::from_utf8_lossy(&after),
                    String::from_utf8_lossy(&copy)
                ));
            }
        }
    }
}

/// The sizes that the reader sees.
fn sizes(reader: &Reader, files: &[PathBuf]) -> Vec<u64> {
    let output = run_to_end(reader.command().args(["stat", "-c", "%s"]).args(files), TIMEOUT);
    let text = String::from_utf8_lossy(&output.stdout);
    let sizes: Vec<u64> = text.lines().map(|line| line.parse().expect("a size")).collect();
    assert_eq!(sizes.len(), files.len(), "{}", String::from_utf8_lossy(&output.stderr));
    sizes
}

fn is_shown(reader: &Reader, path: &Path) -> bool {
    reader.command().args(["test", "-f"]).arg(path).status().is_ok_and(|status| status.success())
}

/// Cgroups in every hierarchy, with something in them, and a view of some of them.
struct Scene {
    cgroup: TestCgroup,
    view: View,
    container: Container,
}

impl Scene {
    fn new(options: &ViewOptions, per_caller: bool) -> Self {
        let selectors: Vec<String> = hierarchies().iter().map(Hierarchy::selector).collect();
        let selectors: Vec<&str> = selectors.iter().map(String::as_str).collect();
        let cgroup = TestCgroup::new(&selectors);
        let options = if per_caller { options.clone() } else { options.clone().cgroup(&cgroup) };
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        let inner = cgroup.children("c");
        for hierarchy in cgroup.hierarchies() {
            let cpus = hierarchy.mountpoint.join("cpuset.cpus");
            if cpus.exists() && !hierarchy.is_unified() {
                inherit(&cgroup.dir(&hierarchy.selector()));
            }
        }
        cgroup.children("c/idle");
        let prepare =
            if per_caller { format!("mount --bind {} /sys/fs/cgroup", view.dir().display()) } else { String::new() };
        let container = Container::start(ContainerOptions { cgroups: inner, prepare, ..ContainerOptions::default() });
        Self { cgroup, view, container }
    }
}

/// A v1 cpuset takes processes once it has CPUs and nodes.
fn inherit(top: &Path) {
    for directory in [top.to_path_buf(), top.join("c")] {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = directory.parent().expect("a hierarchy").join(file);
            fs::write(directory.join(file), fs::read(above).expect("a cpuset")).expect("a cpuset");
        }
    }
}

fn check(ways: Ways, flags: &[&'static str], shape: &str) {
    require!(Need::Root, Need::Fuse, ways.needs());
    let options =
        if shape == "per-caller" { ViewOptions::new().flag("--per-caller") } else { ViewOptions::new().shape(shape) };
    let options = flags.iter().copied().fold(options, ViewOptions::flag);
    let per_caller = shape == "per-caller";
    let scene = Scene::new(&options, per_caller);
    let mut found = Vec::new();
    for hierarchy in scene.cgroup.hierarchies() {
        let real = scene.cgroup.dir(&hierarchy.selector());
        let top = if per_caller {
            hierarchy.in_view(Path::new("/sys/fs/cgroup")).join(scene.cgroup.name())
        } else if shape == "rooted" {
            scene.view.hierarchy(hierarchy)
        } else {
            scene.view.hierarchy(hierarchy).join(scene.cgroup.name())
        };
        let reader = Reader(per_caller.then_some(&scene.container));
        compare(ways, &reader, &real.join("c"), &top.join("c"), per_caller, &mut found);
        compare(ways, &reader, &real.join("c/idle"), &top.join("c/idle"), false, &mut found);
        // A step of the skeleton.
        if shape == "host-path" && hierarchy.is_unified() {
            compare(ways, &reader, &hierarchy.mountpoint, &scene.view.hierarchy(hierarchy), true, &mut found);
        }
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

macro_rules! every_way_of_reading_gives_the_kernels_bytes {
    ($($name:ident: $shape:literal $flags:expr),+ $(,)?) => {
        mod calls {
            $(#[test] fn $name() { super::check(super::Ways::Calls, &$flags, $shape); })+
        }
        mod programs {
            $(#[test] fn $name() { super::check(super::Ways::Programs, &$flags, $shape); })+
        }
    };
}

every_way_of_reading_gives_the_kernels_bytes! {
    rooted: "rooted" [],
    rooted_read_by_the_server: "rooted" ["--no-passthrough"],
    by_host_paths: "host-path" [],
    by_host_paths_read_by_the_server: "host-path" ["--no-passthrough"],
    to_all_callers: "per-caller" [],
    to_all_callers_read_by_the_server: "per-caller" ["--no-passthrough"],
}

/// A hierarchy without a delegated subtree shows the host's root.
#[test]
fn every_way_of_reading_gives_the_kernels_bytes_of_the_hosts_root() {
    require!(Need::Root, Need::Fuse, Need::Program("busybox"), Need::Hierarchy("unified"));
    let split: Vec<_> = hierarchies().into_iter().filter(|found| !found.is_unified()).collect();
    let cgroup = TestCgroup::new(&["unified"]);
    for flag in [None, Some("--no-passthrough")] {
        let options = ViewOptions::new().shape("host-path").cgroup(&cgroup);
        let options = flag.into_iter().fold(options, ViewOptions::flag);
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        let mut found = Vec::new();
        for hierarchy in &split {
            for ways in [Ways::Calls, Ways::Programs] {
                compare(ways, &Reader(None), &hierarchy.mountpoint, &view.hierarchy(hierarchy), true, &mut found);
            }
        }
        assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    }
}

/// A view of one cgroup in two hierarchies, whose files the server reads.
fn served(selectors: &[&str], per_caller: bool) -> (TestCgroup, View, Container) {
    let cgroup = TestCgroup::new(selectors);
    let options = ViewOptions::new().flag("--no-passthrough").policy("delegate").delegate_controllers(&["pids"]);
    let options = if per_caller { options.flag("--per-caller") } else { options.shape("host-path").cgroup(&cgroup) };
    let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
    let prepare = format!("mount --bind {} /sys/fs/cgroup", view.dir().display());
    let cgroups = cgroup.children("c");
    let container = Container::start(ContainerOptions { cgroups, prepare, ..ContainerOptions::default() });
    (cgroup, view, container)
}

fn shown_in_container(cgroup: &TestCgroup, selector: &str, below: &str) -> PathBuf {
    let hierarchy = cgroup.hierarchies().iter().find(|found| found.selector() == selector).expect("its hierarchy");
    hierarchy.in_view(Path::new("/sys/fs/cgroup")).join(cgroup.name()).join(below)
}

/// More than a page, and more than the page before.
#[test]
fn splice_reads_a_long_list_completely() {
    require!(Need::Root, Need::Fuse, Need::Program("busybox"), Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for per_caller in [false, true] {
        let (cgroup, _view, container) = served(&["pids", "unified"], per_caller);
        let reader = Reader(Some(&container));
        let mut session = container.session(Caller::Root);
        let mut least = 0;
        for count in [10, 1200, 1200] {
            least += count;
            session.expect(&Op::SpawnMany { count });
            for (selector, file) in [("unified", "c/cgroup.procs"), ("pids", "c/tasks")] {
                let file = shown_in_container(&cgroup, selector, file);
                for way in ["sendfile", "splice", "busybox cat", "busybox cp"] {
                    let (copies, _) = reader.copy(way, std::slice::from_ref(&file));
                    let copy = copies.into_values().next().expect("a copy");
                    let numbers = copy.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                    let numbers: Vec<u64> =
                        numbers.map(|line| String::from_utf8_lossy(line).parse().expect("a number")).collect();
                    assert!(numbers.len() > least, "{way} {}: {} of {least}", file.display(), numbers.len());
                }
            }
        }
    }
}

/// It was spliced before, and others have it open, and have read it.
#[test]
fn splice_reads_a_list_that_grows_after_it_was_opened() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    let (cgroup, view, container) = served(&["pids", "unified"], false);
    for (selector, file) in [("unified", "c/cgroup.procs"), ("pids", "c/tasks")] {
        let hierarchy = cgroup.hierarchies().iter().find(|found| found.selector() == selector).expect("its hierarchy");
        let (real, shown) = (cgroup.dir(selector).join(file), view.hierarchy(hierarchy).join(cgroup.name()).join(file));
        let mut session = container.session(Caller::Root);
        for way in ["sendfile", "splice"] {
            for count in [1, 20, 100, 1] {
                let copy = |way, list: &fs::File| {
                    let copy = tempfile::NamedTempFile::new().expect("a file");
                    copy_open(way, list, &mut copy.as_file().try_clone().expect("a descriptor")).expect("a copy");
                    fs::read_to_string(copy.path()).expect("a copy")
                };
                let others = fs::File::open(&shown).expect("a list");
                copy("read", &others);
                let own = fs::File::open(&shown).expect("a list");
                session.expect(&Op::SpawnMany { count });
                let now = fs::read_to_string(&real).expect("a list");
                assert_eq!(copy(way, &own), now, "{way} {file}, {count} more");
            }
        }
    }
}

/// Its size is the kernel's idea of what was spliced last.
#[test]
fn splice_reads_a_file_that_has_grown_completely() {
    require!(Need::Root, Need::Fuse, Need::Program("busybox"), Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for per_caller in [false, true] {
        let (cgroup, _view, container) = served(&["pids", "unified"], per_caller);
        let reader = Reader(Some(&container));
        let file = shown_in_container(&cgroup, "pids", "c/job/pids.max");
        let limit = cgroup.child("pids", "c/job").join("pids.max");
        for value in ["77", "1000000", "4096", "99", "max", "123456", "12345"] {
            fs::write(&limit, value).expect("a limit");
            for way in ["sendfile", "busybox cat", "splice", "read"] {
                let (copies, _) = reader.copy(way, std::slice::from_ref(&file));
                let copy = copies.into_values().next().expect("a copy");
                assert_eq!(String::from_utf8_lossy(&copy), format!("{value}\n"), "{way}, {per_caller}");
            }
        }
        // By the view itself, which truncates it: the kernel then takes it for empty, or as long as what was written.
        for value in ["7", "123456", "77", "max"] {
            for how in [">", ">>", "1<>"] {
                for way in ["sendfile", "busybox cat"] {
                    let script = format!("echo -n {value} {how} {}", file.display());
                    let written =
                        container.command(Caller::Root).args(["sh", "-c", &script]).status().expect("a shell");
                    assert!(written.success(), "{script}");
                    let (copies, _) = reader.copy(way, std::slice::from_ref(&file));
                    let copy = copies.into_values().next().expect("a copy");
                    assert_eq!(String::from_utf8_lossy(&copy), format!("{value}\n"), "{script}, {way}, {per_caller}");
                }
            }
        }
    }
}

/// Several readers of one file: nothing is cut off, nothing is filled up, and no reader gets ESTALE.
#[test]
fn many_processes_splice_one_file_at_once() {
    const ROUNDS: usize = 300;
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for per_caller in [false, true] {
        let (cgroup, _view, container) = served(&["pids", "unified"], per_caller);
        let reader = Reader(Some(&container));
        let limit = cgroup.dir("pids").join("c/pids.max");
        for (selector, file) in [("pids", "c/pids.max"), ("unified", "c/cgroup.events"), ("unified", "c/cgroup.type")] {
            let (real, file) = (cgroup.dir(selector).join(file), shown_in_container(&cgroup, selector, file));
            let expected = fs::read(&real).expect("its content");
            let files = vec![file.clone(); ROUNDS];
            // One that has something else to say each time, in between.
            let several = std::thread::scope(|scope| {
                let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| reader.each("sendfile", &files))).collect();
                readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect::<Vec<_>>()
            });
            assert_eq!(several.len(), 3 * ROUNDS);
            let wrong: Vec<_> = several.iter().filter(|copy| **copy != expected).collect();
            assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), file.display(), wrong.first());
        }
        // Its length changes all the while.
        let file = shown_in_container(&cgroup, "pids", "c/pids.max");
        let files = vec![file; ROUNDS];
        let copies = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| reader.each("sendfile", &files))).collect();
            for round in 0.. {
                if readers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                    break;
                }
                fs::write(&limit, if round % 2 == 0 { "77" } else { "123456" }).expect("a limit");
                // The pace of the changes: the readers come to open the file in between.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).count()
        });
        assert_eq!(copies, 3 * ROUNDS, "all could be opened");
    }
}

/// The size that stat shows.
#[test]
fn a_file_that_the_server_reads_has_a_size() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy("pids"), Need::Hierarchy("unified"));
    for (flag, passed) in [(None, passes_through()), (Some("--no-passthrough"), false)] {
        let cgroup = TestCgroup::new(&["pids", "unified"]);
        let options = ViewOptions::new().shape("rooted").cgroup(&cgroup);
        let options = flag.into_iter().fold(options, ViewOptions::flag);
        let view = View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options);
        for (hierarchy, file, has_state) in [
            ("pids", "pids.current", false),
            ("unified", "cgroup.procs", false),
            ("unified", "cgroup.events", true),
            ("unified", "cpu.pressure", true),
        ] {
            let hierarchy = testkit::hierarchy(hierarchy).expect("a hierarchy");
            let path = view.hierarchy(&hierarchy).join(file);
            let size = if splice_ends_at_size() && (has_state || !passed) { 4096 } else { 0 };
            let stat = fs::metadata(&path).expect("a file");
            let opened = fs::File::open(&path).expect("a file").metadata().expect("an open file");
            assert_eq!((stat.len(), opened.len()), (size, size), "{file} {flag:?}");
        }
    }
}
