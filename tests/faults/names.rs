//! Names that are long, or that change what a terminal shows.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use testkit::{Need, TestCgroup, View, ViewOptions, hierarchy, require, wait_until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vcgroupfs");

/// The longest name of a cgroup: a path has 4096 bytes, with its NUL.
const NAME_BYTES_MAX: usize = 4095;

fn selector() -> &'static str {
    if hierarchy("name=systemd").is_some() { "name=systemd" } else { "unified" }
}

fn mount(cgroup: &TestCgroup, shape: &str) -> (View, PathBuf) {
    let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().cgroup(cgroup).shape(shape));
    let top = view.hierarchy(&hierarchy(selector()).expect("a hierarchy"));
    (view, if shape == "rooted" { top } else { top.join(cgroup.name()) })
}

/// A process that sleeps, and ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same in a mount namespace and a cgroup of its own.
struct Process(Child);

impl Process {
    fn start(cgroup: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sleep", "1000"]).stdin(Stdio::null());
        let process = Self(command.spawn().expect("unshare"));
        let name = format!("/proc/{}/comm", process.0.id());
        wait_until("the sleep", || fs::read(&name).is_ok_and(|name| name == b"sleep\n"));
        fs::write(cgroup.join("cgroup.procs"), process.0.id().to_string()).expect("a migration");
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn migrate(process: &Sleeper, cgroup: &Path) -> Result<(), Option<i32>> {
    fs::write(cgroup.join("cgroup.procs"), process.0.id().to_string()).map_err(|error| error.raw_os_error())
}

fn names(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(directory).expect("a listing").map(|entry| entry.expect("an entry"));
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<_> = directories.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

/// The output of the program, and whether it succeeds.
fn vcgroupfs(cgroup: &TestCgroup, arguments: &[&OsStr]) -> (bool, Vec<u8>) {
    let option = format!("{}={}", selector(), cgroup.path());
    let other = std::env::var_os("VCGROUPFS_PROGRAM");
    let mut command = Command::new(other.unwrap_or_else(|| PROGRAM.into()));
    let (verb, rest) = arguments.split_first().expect("a verb");
    command.arg(verb).args(["--cgroup", &option, "--shape", "rooted"]).args(rest);
    let output = command.output().expect("the program runs");
    (output.status.success(), [output.stdout, output.stderr].concat())
}

/// The top directory of the hierarchy in a rooted view.
fn shown(name: &OsStr) -> OsString {
    let found = hierarchy(selector()).expect("a hierarchy");
    found.in_view(Path::new("/")).join(name).into_os_string()
}

#[test]
fn long_names_work_like_others() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    let cgroup = TestCgroup::new(&[selector()]);
    for shape in ["rooted", "host-path"] {
        let (_view, top) = mount(&cgroup, shape);
        for length in [255, 256, 1000] {
            let long = "n".repeat(length);
            let dir = top.join(&long);
            fs::create_dir(&dir).expect("mkdir in the view");
            assert_eq!(names(&top), [OsString::from(&long)], "{shape} {length}");
            let process = Sleeper::start();
            // From the boundary, where the host has put it, in, within, and out again.
            fs::write(cgroup.dir(selector()).join("cgroup.procs"), process.0.id().to_string()).expect("on the host");
            fs::create_dir(dir.join("below")).expect("mkdir in the view");
            for to in [&dir, &dir.join("below"), &dir, &top] {
                assert_eq!(migrate(&process, to), Ok(()), "{shape} {length} {}", to.display());
            }
            let (ok, text) = vcgroupfs(&cgroup, &["explain".as_ref(), "migrate".as_ref(), &shown(long.as_ref())]);
            assert!(ok && String::from_utf8_lossy(&text).contains("verdict    allowed"), "{length}");
            for verb in ["tree", "map"] {
                let (ok, text) = vcgroupfs(&cgroup, &[verb.as_ref(), &shown(long.as_ref())]);
                assert!(ok && String::from_utf8_lossy(&text).contains(&long), "{verb} {length}");
            }
            drop(process);
            fs::remove_dir(dir.join("below")).expect("an empty cgroup");
            wait_until("the cgroup can be removed", || fs::remove_dir(&dir).is_ok());
        }
    }
}

/// A cgroup of the host's, whose path is too long for the usual calls.
struct Long {
    above: File,
    name: String,
}

impl Long {
    fn new(above: &Path, length: usize) -> Self {
        let above = File::options()
            .read(true)
            .custom_flags(OFlag::O_DIRECTORY.bits())
            .open(above)
            .expect("a directory of the host's");
        let name = "n".repeat(length);
        mkdirat(&above, name.as_str(), Mode::from_bits_truncate(0o755)).expect("mkdir on the host");
        Self { above, name }
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        let removed = unlinkat(&self.above, self.name.as_str(), UnlinkatFlags::RemoveDir);
        assert!(removed.is_ok() || thread::panicking(), "{removed:?}");
    }
}

/// A listing leaves out names that FUSE can't carry, and continues behind them.
#[test]
fn the_longest_names_neither_end_a_listing_nor_the_watch() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    let cgroup = TestCgroup::new(&[selector()]);
    let (_view, top) = mount(&cgroup, "rooted");
    let real = cgroup.dir(selector());
    // So that it's watched, and the kernel keeps the listing.
    assert_eq!(names(&top), [] as [OsString; 0]);
    for length in [NAME_BYTES_MAX, 4080, 4079, 4073, 4072, 1025, 1024] {
        let long = Long::new(&real, length);
        let after = real.join(format!("after-{length}"));
        fs::create_dir(&after).expect("mkdir on the host");
        let expected = after.file_name().expect("a name");
        let heard = format!("{length}: something is heard of the host");
        wait_until(&heard, || names(&top).contains(&expected.to_owned()));
        let listed = names(&top);
        assert!(listed.len() <= 2 && listed.iter().all(|name| name == expected || name.len() == length), "{length}");
        assert!(length > 1024 || listed.len() == 2, "{length}: every FUSE takes it");
        drop(long);
        fs::remove_dir(&after).expect("an empty cgroup");
        wait_until(&format!("{length}: it's heard that it's removed"), || names(&top) == [] as [OsString; 0]);
    }
}

/// Names that clear the screen, turn the text round, begin lines, or aren't text.
const ODD: [&[u8]; 6] = [
    b"esc\x1b[2J\x1b]0;owned\x07",
    b"carriage\rreturn\x08",
    "c1\u{9b}31m\u{85}next".as_bytes(),
    "bidi\u{202e}txt.exe\u{2066}".as_bytes(),
    "line\u{2028}separator".as_bytes(),
    b"bytes\xff\x9b\xc3(",
];

fn is_harmless(text: &str) -> bool {
    let odd = |one: char| one.is_control() && one != '\n' || "\u{202e}\u{2066}\u{2028}".contains(one);
    !text.chars().any(odd)
}

#[test]
fn no_verb_prints_terminal_escapes() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    let cgroup = TestCgroup::new(&[selector()]);
    for name in ODD.map(OsStr::from_bytes) {
        fs::create_dir(cgroup.dir(selector()).join(name)).expect("mkdir on the host");
    }
    fs::create_dir(cgroup.dir(selector()).join("Größe\\x2d\"日本\"")).expect("mkdir on the host");
    let ask = |arguments: &[&OsStr]| {
        let (ok, text) = vcgroupfs(&cgroup, arguments);
        let text = String::from_utf8(text).expect("text");
        assert!(is_harmless(&text), "{arguments:?}: {text:?}");
        (ok, text)
    };
    let (ok, tree) = ask(&["tree".as_ref()]);
    assert!(ok && tree.contains("bytes\\xff\\x9b\\xc3(") && tree.contains("Größe\\x2d\"日本\""), "{tree}");
    assert!(tree.contains("esc\\u{1b}[2J") && tree.contains("c1\\u{9b}31m\\u{85}next"), "{tree}");
    let (_, json) = ask(&["tree".as_ref(), "--json".as_ref()]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let mut found = Vec::new();
    collect(&json, &mut found);
    for name in ODD.map(OsStr::from_bytes) {
        assert!(found.contains(&name.to_owned()), "{name:?} isn't in {found:?}");
    }
    for name in ODD.map(OsStr::from_bytes) {
        let path = shown(name);
        let missing = [path.as_bytes(), b"/not-there"].concat();
        let missing = OsStr::from_bytes(&missing);
        for json in [false, true] {
            let flag: &[&OsStr] = if json { &[OsStr::new("--json")] } else { &[] };
            for about in [&["map".as_ref(), path.as_os_str()][..], &["tree".as_ref(), missing]] {
                ask(&[about, flag].concat());
            }
            let (ok, text) = ask(&[&["explain".as_ref(), "rmdir".as_ref(), path.as_os_str()][..], flag].concat());
            assert!(ok && text.contains("allowed"), "{text}");
            if json {
                let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(bytes(&answer["path"]), path.as_bytes(), "{text}");
            }
        }
        // Messages of errors, and of a usage that is wrong.
        let climbs = [path.as_bytes(), b"/.."].concat();
        assert!(!ask(&["explain".as_ref(), "rmdir".as_ref(), OsStr::from_bytes(&climbs)]).0);
        for verb in ["umount", "detach", "doctor", "map"] {
            let output = Command::new(PROGRAM).arg(verb).arg(name).output().expect("the program runs");
            let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
            assert!(is_harmless(&text), "{verb}: {text:?}");
        }
    }
}

/// Text that the program prints about a view that is live, and about a container.
#[test]
fn no_verb_prints_terminal_escapes_of_a_live_view() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    let cgroup = TestCgroup::new(&[selector()]);
    for name in ODD.map(OsStr::from_bytes).into_iter().filter_map(OsStr::to_str) {
        let real = cgroup.dir(selector()).join(name);
        fs::create_dir(&real).expect("mkdir on the host");
        let option = format!("{}={}/{name}", selector(), cgroup.path());
        let view = View::mount(Path::new(PROGRAM), &ViewOptions::new().shape("host-path").option("--cgroup", &option));
        let directory = view.dir().into_os_string();
        let process = Process::start(&real);
        let pid = process.0.id().to_string();
        for words in [
            &["explain", "-", "lookup", "/"][..],
            &["explain", "--json", "-", "lookup", "/"],
            &["tree", "-"],
            &["map", "-", "/"],
            &["map", "-", &format!("{}/{name}", cgroup.path())],
            &["list"],
            &["list", "--json"],
            &["doctor", &pid],
            &["attach", "--dry-run", &pid],
        ] {
            let words = words.iter().map(|word| if *word == "-" { directory.as_os_str() } else { OsStr::new(word) });
            let mut command = Command::new(PROGRAM);
            command.args(words);
            let is_known = || {
                let output = command.output().expect("the program runs");
                let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
                assert!(is_harmless(&text), "{command:?}: {text:?}");
                output.status.success()
            };
            // It's mounted before it's known.
            wait_until("an answer", is_known);
        }
        drop((process, view));
        wait_until("the cgroup can be removed", || fs::remove_dir(&real).is_ok());
    }
}

fn bytes(name: &serde_json::Value) -> Vec<u8> {
    let byte =
        |number: &serde_json::Value| number.as_u64().and_then(|number| u8::try_from(number).ok()).expect("a byte");
    match name.as_array() {
        Some(numbers) => numbers.iter().map(byte).collect(),
        None => name.as_str().expect("a name").as_bytes().to_vec(),
    }
}

fn collect(branch: &serde_json::Value, found: &mut Vec<OsString>) {
    found.push(OsStr::from_bytes(&bytes(&branch["name"])).to_owned());
    for child in branch["children"].as_array().into_iter().flatten() {
        collect(child, found);
    }
}

#[test]
fn no_log_contains_terminal_escapes() {
    require!(Need::Root, Need::Fuse, Need::Hierarchy(selector()));
    for format in ["text", "json"] {
        let cgroup = TestCgroup::new(&[selector()]);
        let options = ViewOptions::new().cgroup(&cgroup).shape("rooted");
        let options = options.option("--log-level", "info").option("--log-format", format);
        let view = View::mount(Path::new(PROGRAM), &options);
        let top = view.hierarchy(&hierarchy(selector()).expect("a hierarchy"));
        for name in ODD.map(OsStr::from_bytes) {
            File::create(top.join(name)).expect_err("no file can be created");
        }
        let is_all = |log: &str| log.matches("no-file-creation").count() >= ODD.len();
        assert!(is_all(&view.log_once(is_all)), "{format}: {:?}", view.log());
        assert!(is_harmless(&view.log()), "{format}: {:?}", view.log());
        assert!(view.log().contains("xff"), "{format}: {:?}", view.log());
    }
}
