//! Sequences of operations, decided by a seed.

use testkit::probe::Op;
use testkit::{Caller, OWNER, Random, STRANGER};

use super::pools::{self, DIRECTORY_MODES, ENDS, FLAGS, Files, MEMBERS, MODES, NOTHING, ODD, OTHERS, PLACES, XATTRS};
use crate::case::Where;

/// For whom a sequence is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) place: Where,
    pub(super) caller: Caller,
    /// Whether the numbers of processes are a container's own, so that none names a process of the host.
    pub(super) pid_namespace: bool,
}

/// Operations that belong together: one, and what has to follow it so that the next finds everything at rest.
pub(super) type Step = Vec<Op>;

/// How many steps a sequence has.
const SEQUENCE_LENGTH: usize = 90;

const HANDLES: &[&str] = &["f0", "f1", "f2", "f3"];
const SPLICED: &str = "s";
const DIRECTORIES: &[&str] = &["d0", "d1"];
const CHILDREN: &[&str] = &["C0", "C1"];

pub(super) fn sequence(setting: Setting, seed: u64, number: u64) -> Vec<Step> {
    let mut random = Random::new(seed, number);
    // Either the probe is where the sequence is, or what is there can be stopped and killed.
    let freezes = random.percent(35);
    let writable = pools::writable(setting.place, freezes);
    let mut maker = Maker { random, setting, freezes, writable, spawned: 1 };
    // Something to work on.
    let mut steps: Vec<Step> = ["$CG", "$CG/a", "$CG/b", "$CG/a/b"]
        .into_iter()
        .map(|path| vec![Op::Mkdir { path: path.into(), mode: 0o755 }])
        .collect();
    steps.push(vec![Op::Spawn { name: "C0".into(), uid: None }]);
    for (fd, path) in DIRECTORIES.iter().zip(["$CG", "$CG/a"]) {
        steps.push(vec![Op::Open { path: path.into(), flags: owned(&["O_RDONLY"]), fd: (*fd).into() }]);
    }
    for fd in HANDLES {
        let access = maker.random.pick(&["O_RDONLY", "O_RDWR", "O_RDWR"]);
        let name = maker.known();
        let path = format!("$CG{}/{name}", maker.random.pick(&["", "/a", "/b"]));
        steps.push(vec![Op::Open { path, flags: owned(&[access]), fd: (*fd).into() }]);
    }
    steps.extend((0..SEQUENCE_LENGTH).map(|_| maker.step()));
    steps.push(vec![Op::Tree { path: "$CG".into() }]);
    steps
}

struct Maker {
    random: Random,
    setting: Setting,
    freezes: bool,
    writable: Vec<Files>,
    /// How many children there are or were.
    spawned: usize,
}

/// The number that a value begins with, in the kernel's notation.
fn leading_number(value: &str) -> Option<u64> {
    let text = value.trim_start().trim_start_matches(['+', '-']);
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None => (text, if text.starts_with('0') { 8 } else { 10 }),
    };
    let end = digits.find(|digit: char| !digit.is_digit(radix)).unwrap_or(digits.len());
    if end == 0 { None } else { Some(u64::from_str_radix(&digits[..end], radix).unwrap_or(u64::MAX)) }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_string()).collect()
}

impl Maker {
    fn step(&mut self) -> Step {
        let op = match self.random.below(100) {
            0..6 => self.open(),
            6..9 => self.open_directory(),
            9..22 => self.read(),
            22..38 => self.write(),
            38..50 => self.on_handle(),
            50..64 => self.on_directory(),
            64..72 => self.look(),
            72..81 => self.change(),
            81..86 => self.other_nodes(),
            86..97 => self.members(),
            _ => self.people(),
        };
        let mut step = vec![op];
        if let Op::Splice { fd } = &step[0] {
            // Of a handle of its own: where FUSE gives less, the next read would tell so once more.
            let access = self.random.pick(&["O_RDONLY", "O_RDONLY", "O_RDWR"]);
            let path = self.written().0;
            let open = Op::Open { path: path.clone(), flags: owned(&[access]), fd: fd.clone() };
            // On v1 a read takes the list of processes anew, for all who have it open.
            let again = Op::ReadFile { path };
            return vec![open, step.remove(0), Op::Close { fd: SPLICED.into() }, again];
        }
        let on = match &step[0] {
            Op::On { then, .. } => then.as_ref(),
            other => other,
        };
        let changes_names = match on {
            Op::WriteFile { path, .. } | Op::Open { path, .. } => {
                path.ends_with("cgroup.subtree_control") || path.ends_with("cgroup.pressure")
            }
            Op::Write { .. } | Op::Pwrite { .. } | Op::Writev { .. } => self.setting.place == Where::V2,
            _ => false,
        };
        let kills = self.freezes
            && self.setting.place == Where::V2
            && (matches!(on, Op::WriteFile { path, .. } if path.ends_with("cgroup.kill"))
                || matches!(on, Op::Write { .. } | Op::Pwrite { .. } | Op::Writev { .. }));
        if kills {
            step.push(Op::Reap);
        }
        if changes_names {
            step.push(Op::Settle { path: "$CG".into(), real: "$REAL".into() });
        }
        step
    }

    fn place(&mut self) -> String {
        let mut path = format!("$CG{}", self.random.pick(PLACES));
        if self.random.percent(4) {
            path.push('/');
            path.push_str(&self.odd());
        }
        if self.random.percent(3) {
            // Through a kept directory, which may be removed by now.
            path = format!("/proc/self/fd/$FD{}", self.random.pick(DIRECTORIES).to_uppercase());
            if self.random.percent(50) {
                path.push_str("/a");
            }
        }
        path
    }

    fn odd(&mut self) -> String {
        let name = self.random.pick(ODD);
        match name.strip_prefix('L').and_then(|length| length.parse().ok()) {
            Some(length) => "n".repeat(length),
            None => name.into(),
        }
    }

    /// A directory that is made, removed or renamed.
    fn directory(&mut self) -> String {
        let mut path =
            if self.random.percent(3) { self.place() } else { format!("$CG{}", self.random.pick(&PLACES[1..])) };
        if self.random.percent(12) {
            path = format!("{path}/{}", self.odd());
        }
        if self.random.percent(6) {
            path.push_str(self.random.pick(ENDS));
        }
        path
    }

    /// Any file, for what changes nothing and keeps nothing open.
    fn file(&mut self) -> String {
        let rejected = pools::rejected(self.setting.place);
        if !rejected.is_empty() && self.random.percent(4) {
            let name = self.random.pick(rejected);
            return self.ended(name);
        }
        self.allowed()
    }

    /// Any file that the policy lets be written.
    fn allowed(&mut self) -> String {
        let name = if self.random.percent(4) { self.random.pick(NOTHING) } else { self.known() };
        self.ended(name)
    }

    /// The name of such a file.
    fn known(&mut self) -> &'static str {
        let group = self.random.below(self.writable.len() + 1);
        match self.writable.get(group) {
            Some(files) => self.random.pick(files.names),
            None => self.random.pick(pools::lists(self.setting.place)),
        }
    }

    /// A file of those that may be written, and a value for it.
    fn written(&mut self) -> (String, String) {
        let group = self.random.below(self.writable.len() + 1);
        let (name, value) = match self.writable.get(group) {
            Some(files) => (self.random.pick(files.names), self.random.pick(files.values).to_string()),
            None => (self.random.pick(pools::lists(self.setting.place)), self.member()),
        };
        let value = match self.random.below(60) {
            0 => format!("{value}{}", " ".repeat(4096 - value.len().min(4096))),
            1 => format!("{value}{}", " ".repeat(4097)),
            2 => String::new(),
            _ => value,
        };
        (self.ended(name), value)
    }

    fn ended(&mut self, name: &str) -> String {
        let mut path = format!("{}/{name}", self.place());
        if self.random.percent(2) {
            path.push_str(self.random.pick(ENDS));
        }
        path
    }

    fn member(&mut self) -> String {
        if self.freezes {
            return self.random.pick(OTHERS).into();
        }
        if self.setting.pid_namespace && self.random.percent(3) {
            return "1".into();
        }
        self.random.pick(MEMBERS).into()
    }

    fn open(&mut self) -> Op {
        let access = self.random.pick(&["O_RDONLY", "O_RDONLY", "O_WRONLY", "O_RDWR"]);
        let mut flags = vec![access];
        if self.random.percent(35) {
            flags.push(self.random.pick(FLAGS));
        }
        if self.random.percent(8) {
            flags.push(self.random.pick(FLAGS));
        }
        let writes = access != "O_RDONLY" || flags.iter().any(|flag| matches!(*flag, "O_TRUNC" | "O_CREAT"));
        let path = if self.random.percent(4) {
            // Opens once more what is open already, perhaps of a removed cgroup.
            format!("/proc/self/fd/$FD{}", self.random.pick(HANDLES).to_uppercase())
        } else if writes {
            self.written().0
        } else {
            self.allowed()
        };
        Op::Open { path, flags: owned(&flags), fd: self.random.pick(HANDLES).into() }
    }

    fn open_directory(&mut self) -> Op {
        let flags: &[&[&str]] = &[
            &["O_RDONLY", "O_DIRECTORY"],
            &["O_PATH"],
            &["O_RDONLY"],
            &["O_RDWR"],
            &["O_RDONLY", "O_DIRECT"],
            &["O_RDWR", "O_TMPFILE"],
            &["O_WRONLY", "O_DIRECTORY"],
            &["O_RDONLY", "O_CREAT"],
            &["O_RDONLY", "O_DIRECTORY", "O_NOFOLLOW"],
        ];
        let flags = owned(self.random.pick(flags));
        Op::Open { path: self.place(), flags, fd: self.random.pick(DIRECTORIES).into() }
    }

    fn read(&mut self) -> Op {
        let fd: String = self.random.pick(HANDLES).into();
        let len = self.random.pick(&[0, 1, 2, 3, 7, 100, 4095, 4096, 4097, 65536]);
        match self.random.below(10) {
            0..5 => Op::ReadFile { path: self.file() },
            5 => Op::Read { fd, len },
            6 => Op::ReadAll { fd, len: len.max(1) },
            7 => Op::Pread { fd, len: 65536, off: 0 },
            8 => Op::Pread { fd, len, off: self.random.pick(&[0, 1, 2, 5, 100, 4096, 1 << 40, i64::MAX as u64]) },
            _ => {
                if self.random.percent(5) {
                    return Op::Read { fd: self.random.pick(DIRECTORIES).into(), len };
                }
                Op::Splice { fd: SPLICED.into() }
            }
        }
    }

    fn write(&mut self) -> Op {
        let (path, data) = self.written();
        let flags = if self.random.percent(25) { owned(&[self.random.pick(FLAGS)]) } else { Vec::new() };
        Op::WriteFile { path, data, flags }
    }

    /// What is written to a handle, of whatever file: it mustn't stop or kill the probe, nor name a process that isn't the probe's.
    fn anything(&mut self) -> String {
        let value = if self.random.percent(30) {
            self.member()
        } else {
            let files = self.random.below(self.writable.len());
            self.random.pick(self.writable[files].values).to_string()
        };
        match leading_number(&value) {
            Some(0) if self.freezes => "x".into(),
            Some(1..=0x40_0000) => "2147483647".into(),
            _ => value,
        }
    }

    fn on_handle(&mut self) -> Op {
        let fd: String = self.random.pick(HANDLES).into();
        match self.random.below(22) {
            0..4 => Op::Write { fd, data: self.anything() },
            4 => Op::Pwrite { fd, data: self.anything(), off: self.random.pick(&[0, 1, 4096, 1 << 40]) },
            5 => {
                let one = self.anything();
                let more = self.random.pick(&["", "", "x", "\n"]);
                let data = if self.random.percent(20) { vec![String::new(), one] } else { vec![one, more.into()] };
                Op::Writev { fd, data }
            }
            6..8 => Op::Lseek {
                fd,
                off: self.random.pick(&[0, 0, 1, -1, 5, 4096, -4096]),
                // Where a file ends is another matter (crate::reading).
                whence: self.random.pick(&["set", "cur"]).into(),
            },
            8..10 => Op::Fstat { fd },
            10..12 => Op::Poll { fd },
            12 => Op::Fsync { fd },
            13 => Op::Ftruncate { fd, len: self.random.pick(&[0, 1, 5000]) },
            14 => Op::Fallocate { fd, len: self.random.pick(&[0, 1, 4096]) },
            15 => Op::Ioctl { fd },
            16 => Op::Flock { fd, kind: self.random.pick(&["shared", "exclusive", "unlock"]).into() },
            17 => Op::Fchmod { fd, mode: self.random.pick(&[0o644, 0o600, 0o666]) },
            18 => Op::Dup { fd, to: self.random.pick(HANDLES).into() },
            19 if self.random.percent(30) => Op::Close { fd },
            19 | 20 => Op::Mmap { fd, shared: self.random.percent(50) },
            _ => {
                let fd: String = self.random.pick(DIRECTORIES).into();
                match self.random.below(5) {
                    0 => Op::Fstat { fd },
                    1 => Op::Fsync { fd },
                    2 => Op::Ioctl { fd },
                    3 => Op::Flock { fd, kind: "exclusive".into() },
                    _ => Op::Poll { fd },
                }
            }
        }
    }

    fn on_directory(&mut self) -> Op {
        match self.random.below(20) {
            0..8 => Op::Mkdir { path: self.directory(), mode: self.random.pick(&[0o755, 0o755, 0o700, 0o1777, 0o000]) },
            8..13 => Op::Rmdir { path: self.directory() },
            13 => Op::Readdir { path: self.place() },
            14..17 => Op::Getdents {
                path: self.place(),
                buffer: self.random.pick(&[24, 40, 64, 300, 4096, 32768]),
                seek: self.random.pick(&[0, 1, 2, 5, 9, 30]),
            },
            17 if self.random.percent(10) => Op::Rmdir { path: "$CG".into() },
            _ => self.rename(),
        }
    }

    fn rename(&mut self) -> Op {
        // The policy lets nobody rename in a hierarchy with controllers.
        if !matches!(self.setting.place, Where::Systemd | Where::V2) {
            return Op::Rmdir { path: self.directory() };
        }
        let mut name = || if self.random.percent(12) { self.file() } else { self.directory() };
        let (from, to) = (name(), name());
        let flags = match self.random.below(12) {
            0 => owned(&["noreplace"]),
            1 => owned(&["exchange"]),
            2 => owned(&["whiteout"]),
            3 => owned(&["noreplace", "exchange"]),
            _ => Vec::new(),
        };
        Op::Rename { from, to, flags }
    }

    fn anywhere(&mut self) -> String {
        if self.random.percent(50) { self.file() } else { self.directory() }
    }

    fn look(&mut self) -> Op {
        match self.random.below(12) {
            0..4 => Op::Stat { path: self.anywhere() },
            4 => Op::Statfs { path: self.anywhere() },
            5 => Op::Access { path: self.anywhere(), mode: self.random.pick(&["", "r", "x", "rx"]).into() },
            6 => Op::Access { path: self.written().0, mode: self.random.pick(&["w", "rw", "rwx"]).into() },
            7 => Op::Listxattr { path: self.anywhere() },
            8 => Op::Getxattr { path: self.anywhere(), name: self.random.pick(XATTRS).into() },
            9 => Op::Times { path: self.anywhere() },
            10 => Op::Tree { path: "$CG".into() },
            _ => Op::Stat { path: self.place() },
        }
    }

    /// Something that may be changed.
    fn changed(&mut self) -> String {
        let directory = self.directory();
        // Not the cgroup that every sequence is made in.
        let climbs = directory.split('/').any(|name| name == "..");
        if climbs || self.random.percent(65) { self.written().0 } else { directory }
    }

    /// A directory whose xattrs may be changed: files have none in a view.
    fn marked(&mut self) -> String {
        let directory = self.directory();
        // Not the cgroup that every sequence is made in.
        let climbs = directory.split('/').any(|name| name == "..");
        // An odd name can be a file's.
        let is_file = ["/cgroup.procs", "/hugetlb.2MB.max"].iter().any(|name| directory.ends_with(name));
        if climbs || is_file { self.place() } else { directory }
    }

    fn change(&mut self) -> Op {
        let path = self.changed();
        let ids = [None, Some(0), Some(OWNER), Some(STRANGER)];
        match self.random.below(10) {
            0 if self.random.percent(25) => {
                let path = format!("$CG{}", self.random.pick(PLACES));
                Op::Chmod { path, mode: self.random.pick(DIRECTORY_MODES) }
            }
            0..3 => Op::Chmod { path, mode: self.random.pick(MODES) },
            3..5 => Op::Chown { path, uid: self.random.pick(&ids), gid: self.random.pick(&ids) },
            5 => Op::Utimens { path, sec: self.random.pick(&[None, Some(0), Some(1), Some(100_000_000)]) },
            6 => Op::Truncate { path, len: self.random.pick(&[0, 1, 5000]) },
            7 | 8 => {
                let value = match self.random.below(8) {
                    0 => String::new(),
                    1 => "v".repeat(4096),
                    2 => "v".repeat(65536),
                    3 => "v".repeat(65537),
                    _ => "value".into(),
                };
                Op::Setxattr { path: self.marked(), name: self.xattr(), value }
            }
            _ => Op::Removexattr { path: self.marked(), name: self.xattr() },
        }
    }

    fn xattr(&mut self) -> String {
        match self.random.below(12) {
            0 => format!("user.{}", "n".repeat(250)),
            1 => format!("user.{}", "n".repeat(251)),
            _ => self.random.pick(XATTRS).into(),
        }
    }

    fn other_nodes(&mut self) -> Op {
        let path = self.anywhere();
        match self.random.below(7) {
            0 => Op::Unlink { path },
            1 => Op::Link { from: self.anywhere(), to: path },
            2 => Op::Symlink { target: "cgroup.procs".into(), path },
            3 => Op::Mknod { path, kind: "fifo".into() },
            4 => Op::Mknod { path, kind: "file".into() },
            5 => Op::Creat { path, mode: 0o644 },
            _ => Op::Rmdir { path },
        }
    }

    /// Processes, threads and where they are.
    fn members(&mut self) -> Op {
        let list = self.random.pick(pools::lists(self.setting.place));
        let path = if self.random.percent(15) { format!("$HOME/{list}") } else { format!("{}/{list}", self.place()) };
        match self.random.below(20) {
            0..9 => Op::WriteFile { path, data: self.member(), flags: Vec::new() },
            9..11 => Op::ReadFile { path },
            11 => self.spawn(),
            12 if self.may_kill() => Op::Kill { name: self.random.pick(CHILDREN).into() },
            13..16 if !self.freezes => {
                let then = Op::WriteFile { path, data: "0".into(), flags: Vec::new() };
                Op::On { thread: "T0".into(), then: Box::new(then) }
            }
            16 => Op::On { thread: "T0".into(), then: Box::new(Op::ReadFile { path }) },
            17 => Op::ThreadMembership,
            18 => Op::Membership { who: "$C0".into() },
            _ => Op::Membership { who: "$PID".into() },
        }
    }

    fn spawn(&mut self) -> Op {
        let root = matches!(self.setting.caller, Caller::Root | Caller::DockerRoot);
        let uid = if root && self.random.percent(20) { Some(STRANGER) } else { None };
        let Some(name) = CHILDREN.get(self.spawned) else {
            return Op::Membership { who: "$C1".into() };
        };
        self.spawned += 1;
        Op::Spawn { name: (*name).into(), uid }
    }

    /// A process that v1's freezer has stopped doesn't die.
    fn may_kill(&self) -> bool {
        !(self.freezes && self.setting.place == Where::Freezer)
    }

    fn people(&mut self) -> Op {
        match self.random.below(6) {
            0 => Op::Umask { mask: self.random.pick(&[0o022, 0o077, 0]) },
            1 | 2 if self.setting.caller != Caller::Owner => {
                Op::Seteuid { uid: self.random.pick(&[0, 0, OWNER, STRANGER]) }
            }
            3 => self.spawn(),
            _ => Op::Tree { path: "$CG".into() },
        }
    }
}
