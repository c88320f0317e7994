//! Processes that the host takes out of a container while the container writes their numbers again and again.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::probe::Op;
use crate::probe::names::write_file;
use crate::{Session, TIMEOUT};

/// A process of a container that the host expels, try after try.
#[derive(Debug)]
pub struct Expulsion {
    /// The probe in the container that writes. `$CG` is the boundary in the view.
    pub session: Session,
    /// Two cgroups below the boundary, and the name of the list of processes in them.
    pub between: [&'static str; 2],
    /// `cgroup.procs` or `tasks`.
    pub list: &'static str,
    /// What the writer writes: a number, a variable with one, or `0`.
    pub number: String,
    /// How many writes the container makes in one try, half to each cgroup.
    pub writes: usize,
    /// The boundary on the host.
    pub boundary: PathBuf,
    /// A cgroup outside, which belongs to the host.
    pub outside: PathBuf,
}

impl Expulsion {
    /// Has the host migrate the process out `tries` times. Returns in how many tries it was inside again when the container had finished.
    ///
    /// # Panics
    ///
    /// When the process can't be found, or the host can't migrate it.
    pub fn count(&mut self, tries: usize) -> usize {
        let [one, other] = self.between;
        let list = self.list;
        let path = |name: &str| format!("$CG/{name}/{list}");
        let process = self.host_number(&path(one));
        let writes: Vec<Op> =
            [one, other].iter().cycle().take(self.writes).map(|name| write_file(&path(name), &self.number)).collect();
        let home = self.boundary.join(one);
        let mut back = 0;
        for attempt in 0..tries {
            self.session.begin(&writes);
            // The container has begun, once the process is elsewhere than at home.
            let end = Instant::now() + TIMEOUT;
            while is_in(&home, process) {
                assert!(Instant::now() < end, "nothing is migrated");
            }
            // The time is what the test varies: the host migrates at another moment of the container's writes each time.
            thread::sleep(Duration::from_micros((attempt as u64 * 377) % 10_000));
            migrate(process, &self.outside);
            self.session.finish(&writes);
            back += usize::from(!is_in(&self.outside, process));
            migrate(process, &home);
        }
        back
    }

    /// The process' number on the host, read from the list of the one cgroup that it's migrated to for that.
    ///
    /// # Panics
    ///
    /// When the container can't migrate it.
    pub fn host_number(&mut self, path: &str) -> u32 {
        self.session.expect(&write_file(path, &self.number));
        let list = fs::read_to_string(self.boundary.join(self.between[0]).join("cgroup.procs")).expect("a list");
        list.trim().parse().unwrap_or_else(|_| panic!("one process, not {list:?}"))
    }
}

/// Whether a process is in this very cgroup.
pub fn is_in(cgroup: &Path, process: u32) -> bool {
    let list = fs::read_to_string(cgroup.join("cgroup.procs")).expect("a list of processes");
    list.lines().any(|line| line.parse() == Ok(process))
}

/// Migrates a process, as the host does.
///
/// # Panics
///
/// When the kernel refuses.
pub fn migrate(process: u32, cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), process.to_string())
        .unwrap_or_else(|error| panic!("{process} to {}: {error}", cgroup.display()));
}
