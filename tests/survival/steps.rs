//! Sequences of operations, decided by a seed.

use testkit::Random;
use testkit::probe::Op;
use testkit::probe::names::{
    close, epoll_wait, fstat, membership, mkdir, open, poll_pri, pread, read, read_all, read_file, readdir,
};
use testkit::probe::names::{rename, rmdir, spawn, stat, write, write_file};

use crate::scene::Place;

/// The longest write that cgroupfs takes, in bytes.
const LONGEST_WRITE: usize = 4095;

/// How many steps a sequence has.
const LENGTH: usize = 40;

/// After this time, in milliseconds, an event doesn't come any more.
pub(crate) const EVENT_TIMEOUT: u32 = 20_000;

/// Cgroups below `$CG` that come and go, each behind the one that it is in.
const CGROUPS: &[&str] = &["a", "b", "a/b", "a/c", "a/b/a", "b/a"];

/// Where children are migrated: always there, or not.
const DESTINATIONS: &[&str] = &["$HOME", "$CG", "$CG/p", "$CG/p", "$CG/a", "$CG/a/b", "$CG/b"];

const HANDLES: &[&str] = &["f0", "f1", "f2", "f3"];
const DIRECTORIES: &[&str] = &["d0", "d1"];
const CHILDREN: &[&str] = &["C0", "C1"];
const EVENTS: &[&str] = &["CREATE", "DELETE", "MOVED_FROM", "MOVED_TO"];

/// For whom a sequence is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) place: Place,
    /// Whether the cgroup can also be reached as the host sees it, at `$REAL`.
    pub(crate) reaches_host: bool,
    /// Whether inotify tells of changes that weren't made by the view.
    pub(crate) is_told_of_others: bool,
}

/// A sequence in `$CG`, which it makes and removes.
pub(crate) fn sequence(setting: Setting, seed: u64, number: u64) -> Vec<Op> {
    let mut maker = Maker { random: Random::new(seed, number), setting, ops: Vec::new() };
    maker.all(&[mkdir("$CG"), mkdir("$CG/p"), spawn("C0"), spawn("C1")]);
    maker.add(open("d0", "$CG", &["O_RDONLY", "O_DIRECTORY"]));
    maker.add(open("d1", "$CG/p", &["O_RDONLY", "O_DIRECTORY"]));
    maker.add(open("l", "$CG/p/cgroup.procs", &["O_RDONLY"]));
    for _ in 0..LENGTH {
        maker.step();
    }
    maker.end();
    maker.ops
}

struct Maker {
    random: Random,
    setting: Setting,
    ops: Vec<Op>,
}

impl Maker {
    fn add(&mut self, op: Op) {
        self.ops.push(op);
    }

    fn all(&mut self, ops: &[Op]) {
        self.ops.extend_from_slice(ops);
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..16 => self.make(),
            16..28 => self.remove(),
            28..31 => self.rename(),
            31..43 => self.read(),
            43..55 => self.on_handle(),
            55..63 => self.write(),
            63..73 => self.migrate(),
            73..80 => self.list(),
            80..86 => self.look(),
            86..90 => self.attributes(),
            90..94 => self.populated(),
            94..97 => self.watched(),
            _ => self.by_the_host(),
        }
    }

    fn cgroup(&mut self) -> String {
        format!("$CG/{}", self.random.pick(CGROUPS))
    }

    /// A cgroup that may be there, or is.
    fn place(&mut self) -> String {
        match self.random.below(4) {
            0 => "$CG".into(),
            1 => "$CG/p".into(),
            _ => self.cgroup(),
        }
    }

    fn file(&mut self) -> &'static str {
        let v1 = &["cgroup.procs", "tasks", "notify_on_release", "cgroup.clone_children"];
        let v2 = &[
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.controllers",
            "cgroup.events",
            "cgroup.freeze",
            "cgroup.max.depth",
            "cgroup.max.descendants",
            "cgroup.subtree_control",
            "cgroup.type",
            "cgroup.stat",
            "cpu.stat",
        ];
        match self.setting.place {
            Place::V1 => self.random.pick(v1),
            Place::V2 => self.random.pick(v2),
        }
    }

    /// A file in which nothing moves by itself, so that pieces of it can be compared.
    fn steady_file(&mut self) -> &'static str {
        match self.setting.place {
            Place::V1 => self.random.pick(&["notify_on_release", "cgroup.clone_children"]),
            Place::V2 => self.random.pick(&[
                "cgroup.controllers",
                "cgroup.events",
                "cgroup.freeze",
                "cgroup.max.depth",
                "cgroup.type",
            ]),
        }
    }

    /// A file that the policy lets be written, and a value for it that the kernel takes, or doesn't.
    fn value(&mut self) -> (&'static str, &'static str) {
        match self.setting.place {
            Place::V1 => {
                (self.random.pick(&["notify_on_release", "cgroup.clone_children"]), self.random.pick(&["0", "1", "x"]))
            }
            Place::V2 => {
                let file = self.random.pick(&["cgroup.max.depth", "cgroup.max.descendants"]);
                // Low enough to make mkdir fail at times.
                (file, self.random.pick(&["max", "9", "3", "max\n", "-1", "x"]))
            }
        }
    }

    fn make(&mut self) {
        let path = self.cgroup();
        self.add(mkdir(&path));
        if self.random.percent(30) {
            let file = self.file();
            self.all(&[stat(&path), read_file(&format!("{path}/{file}"))]);
        }
    }

    fn remove(&mut self) {
        let path = self.cgroup();
        self.add(rmdir(&path));
        if self.random.percent(30) {
            self.all(&[stat(&path), readdir(parent(&path))]);
        }
    }

    fn rename(&mut self) {
        let (from, to) = (self.cgroup(), self.cgroup());
        self.add(rename(&from, &to));
        self.all(&[stat(&from), stat(&to)]);
    }

    fn read(&mut self) {
        let (place, file) = (self.place(), self.file());
        self.add(read_file(&format!("{place}/{file}")));
    }

    fn on_handle(&mut self) {
        let fd = self.random.pick(HANDLES);
        match self.random.below(10) {
            0..3 => {
                // Not where others expect that they can make cgroups.
                let (place, (file, _)) = (self.cgroup(), self.value());
                let access = self.random.pick(&["O_RDONLY", "O_RDWR", "O_RDWR", "O_WRONLY"]);
                self.add(open(fd, &format!("{place}/{file}"), &[access]));
            }
            3 => {
                let (place, file) = (self.place(), self.steady_file());
                self.add(open(fd, &format!("{place}/{file}"), &["O_RDONLY"]));
            }
            4 => self.all(&[pread(fd, 4096, 0), pread(fd, 2, 1)]),
            5 => self.add(read(fd, 2)),
            6 | 7 => self.add(read_all(fd, 3)),
            8 => self.add(fstat(fd)),
            _ => {
                let data = self.random.pick(&["max", "1", "0", "x", "5"]);
                self.all(&[write(fd, data), pread(fd, 4096, 0)]);
            }
        }
    }

    fn write(&mut self) {
        let (place, (file, value)) = (self.cgroup(), self.value());
        let path = format!("{place}/{file}");
        // One that takes more than a page of the buffer into which the server reads it, or hardly any.
        let width = if self.random.percent(50) { LONGEST_WRITE } else { 0 };
        self.all(&[write_file(&path, &format!("{value:<width$}")), read_file(&path)]);
    }

    fn migrate(&mut self) {
        let (child, to) = (self.random.pick(CHILDREN), self.random.pick(DESTINATIONS));
        let file = match self.setting.place {
            Place::V1 => self.random.pick(&["cgroup.procs", "tasks"]),
            Place::V2 => "cgroup.procs",
        };
        let path = format!("{to}/{file}");
        self.all(&[write_file(&path, &format!("${child}")), membership(&format!("${child}"))]);
        // At home there are also those who have started the process.
        if to != "$HOME" {
            self.add(read_file(&path));
        }
        // On v1, what an open list shows may be up to a second old.
        if self.setting.place == Place::V2 {
            self.add(pread("l", 4096, 0));
        }
    }

    fn list(&mut self) {
        let place = self.place();
        match self.random.below(3) {
            0 => self.add(readdir(&place)),
            1 => {
                let (buffer, seek) = (self.random.pick(&[64, 300, 32768]), self.random.pick(&[0, 1, 3, 9]));
                self.add(Op::Getdents { path: place, buffer, seek });
            }
            _ => {
                let fd = self.random.pick(DIRECTORIES);
                self.add(Op::List { fd: fd.into() });
            }
        }
    }

    fn look(&mut self) {
        let place = self.place();
        match self.random.below(4) {
            0 => self.add(stat(&place)),
            1 => {
                let file = self.file();
                self.add(stat(&format!("{place}/{file}")));
            }
            2 => {
                let fd = self.random.pick(DIRECTORIES);
                self.add(fstat(fd));
            }
            _ => {
                if self.setting.reaches_host {
                    let real = place.replacen("$CG", "$REAL", 1);
                    self.add(Op::SameInode { a: place, b: real });
                }
            }
        }
    }

    fn attributes(&mut self) {
        let path = self.place();
        let name = self.random.pick(&["user.a", "user.b", "trusted.a"]).to_owned();
        let value = self.random.pick(&["", "1", "a longer value"]).to_owned();
        match self.random.below(4) {
            0 | 1 => {
                self.add(Op::Setxattr { path: path.clone(), name: name.clone(), value });
                self.all(&[Op::Getxattr { path: path.clone(), name }, Op::Listxattr { path }]);
            }
            2 => {
                self.add(Op::Removexattr { path: path.clone(), name });
                self.add(Op::Listxattr { path });
            }
            _ => self.add(Op::Getxattr { path, name }),
        }
    }

    /// A cgroup becomes populated, and empty again, while somebody waits for it.
    fn populated(&mut self) {
        if self.setting.place == Place::V1 {
            return;
        }
        let (file, list) = ("$CG/w/cgroup.events", "$CG/w/cgroup.procs");
        let into = write_file(list, "$C0");
        let out = write_file("$HOME/cgroup.procs", "$C0");
        self.all(&[mkdir("$CG/w"), open("e", file, &["O_RDONLY"]), pread("e", 4096, 0)]);
        let ways = if self.setting.is_told_of_others { 4 } else { 3 };
        match self.random.below(ways) {
            0 => {
                self.all(&[into, poll_pri("e", EVENT_TIMEOUT), pread("e", 4096, 0)]);
                self.all(&[out, poll_pri("e", EVENT_TIMEOUT), pread("e", 4096, 0)]);
            }
            1 => {
                let asleep = |then| Op::PollDuring { fd: "e".into(), ms: EVENT_TIMEOUT, then: Box::new(then) };
                self.all(&[asleep(into), pread("e", 4096, 0), asleep(out), pread("e", 4096, 0)]);
            }
            2 => {
                self.add(Op::Epoll { fd: "q".into() });
                self.add(Op::EpollAddPri { epoll: "q".into(), fd: "e".into() });
                self.add(epoll_wait("q", 0));
                self.all(&[into, epoll_wait("q", EVENT_TIMEOUT), pread("e", 4096, 0)]);
                self.all(&[out, epoll_wait("q", EVENT_TIMEOUT), pread("e", 4096, 0), close("q")]);
            }
            _ => {
                self.watch(file, &["MODIFY"]);
                self.all(&[into, events(1), pread("e", 4096, 0), out, events(1), pread("e", 4096, 0), close("w")]);
            }
        }
        self.all(&[close("e"), rmdir("$CG/w")]);
    }

    fn watch(&mut self, path: &str, names: &[&str]) {
        let events = names.iter().map(|name| (*name).to_owned()).collect();
        self.add(Op::Inotify { fd: "w".into() });
        self.add(Op::InotifyAdd { inotify: "w".into(), path: path.into(), events });
    }

    /// Cgroups come and go in a directory that is watched.
    fn watched(&mut self) {
        let dir = self.random.pick(&["$CG", "$CG/p"]);
        let name = |name: &str| format!("{dir}/{name}");
        self.watch(dir, EVENTS);
        self.all(&[mkdir(&name("i0")), mkdir(&name("i1")), rmdir(&name("i0"))]);
        if self.setting.place == Place::V1 {
            self.all(&[rename(&name("i1"), &name("i2")), rmdir(&name("i2")), events(6)]);
        } else {
            self.all(&[rmdir(&name("i1")), events(4)]);
        }
        self.add(close("w"));
    }

    /// The host makes and removes a cgroup: who watches is told, and who looks sees it then.
    fn by_the_host(&mut self) {
        if !self.setting.reaches_host {
            return;
        }
        let dir = self.random.pick(&["/p", ""]);
        self.watch(&format!("$CG{dir}"), EVENTS);
        let (real, seen) = (format!("$REAL{dir}/h"), format!("$CG{dir}/h"));
        let look = [stat(&seen), readdir(&format!("$CG{dir}"))];
        self.all(&[mkdir(&real), events(1)]);
        self.all(&look);
        self.all(&[rmdir(&real), events(1)]);
        self.all(&look);
        self.add(close("w"));
    }

    /// What is there is compared, and taken away.
    fn end(&mut self) {
        self.add(Op::Tree { path: "$CG".into() });
        for child in CHILDREN {
            self.add(write_file("$HOME/cgroup.procs", &format!("${child}")));
        }
        for path in everywhere() {
            self.add(rmdir(&path));
        }
        self.all(&[rmdir("$CG/p"), rmdir("$CG"), stat("$CG")]);
        for fd in HANDLES {
            self.all(&[fstat(fd), pread(fd, 64, 0), close(fd)]);
        }
    }
}

/// Wherever a cgroup can be after renames, from the deepest on.
fn everywhere() -> Vec<String> {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let below = |above: &[String]| -> Vec<String> {
        above.iter().flat_map(|path| NAMES.map(|name| format!("{path}/{name}"))).collect()
    };
    let first = below(&["$CG".to_owned()]);
    let second = below(&first);
    [below(&second), second, first].concat()
}

fn events(count: usize) -> Op {
    Op::InotifyRead { inotify: "w".into(), count, ms: EVENT_TIMEOUT }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(parent, _)| parent)
}
